"""A treatment beside the control: metrics, guardrails, groups of customers, earlier looks, and what it still takes.

An effect is told only where there are customers enough for the normal approximation; where there are not, that is told.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd

from eval.experiment import customers as c
from eval.experiment.effect import Effect, effect
from eval.experiment.guardrails import guardrails
from eval.experiment.looks import Looks
from eval.experiment.moments import Moments, adjusted
from eval.experiment.plan import days_to_go, required_customers
from eval.experiment.results import Change, GuardrailRow, Look, MetricRow, Plan, Setting, SliceRow
from eval.significance import holm
from feature_repo import schema as s

CONVERSION: Final = "conversion"
VALUE: Final = "value"
CLICKS: Final = "clicks"
PER_EXPOSURE: Final = "purchases per exposure"
#: Metric → its column, and the one it is a ratio to.
METRICS: Final[Mapping[str, tuple[str, str | None]]] = {
    CONVERSION: (c.CONVERTED, None),
    VALUE: (c.SPENT, None),
    CLICKS: (c.CLICKS, None),
    PER_EXPOSURE: (c.PURCHASES, c.EXPOSURES),
}
_FEWEST: Final = 100  # customers an arm, below which the normal approximation is not relied on
_FEWEST_WITH: Final = 20  # customers of both arms with a value other than zero
_LOOKS: Final = 40


class Comparison:
    """Gathers what is found of each treatment beside the control."""

    def __init__(self, setting: Setting, rule: Looks, confidence: float) -> None:
        self._setting, self._rule, self._confidence = setting, rule, confidence
        self.metrics: list[MetricRow] = []
        self.guardrails: list[GuardrailRow] = []
        self.slices: list[SliceRow] = []
        self.looks: list[Look] = []
        self.plan: list[Plan] = []
        self.rare: list[str] = []

    def add(
        self,
        control: pd.DataFrame,
        treatment: pd.DataFrame,
        variant: str,
        shown: pd.DataFrame,
        sorted_by: Mapping[str, pd.Series[str]],
    ) -> None:
        """Compare a treatment with the control in everything."""
        for metric in METRICS:
            if not enough(control, treatment, metric):
                self.rare.append(f"{metric} ({variant})")
                continue
            self.metrics.append(self._metric(control, treatment, metric, variant))
        decides = enough(control, treatment, self._setting.metric)
        needed = self._needed if decides else self._needed_to_begin
        self.plan.append(needed(control, treatment, variant))
        if min(len(control), len(treatment)) < _FEWEST:
            return
        limits = guardrails(
            control, treatment, shown, self._rule, margins=self._setting.margins, confidence=self._confidence
        )
        self.guardrails += [
            GuardrailRow(
                guardrail=one.name,
                variant=variant,
                control=one.control,
                treatment=one.treatment,
                change=Change.of(one.effect),
                margin=one.margin,
                state=one.state,
            )
            for one in limits
            if np.isfinite(float(one.effect.error))
        ]
        if not decides:
            return
        for dimension, values in sorted_by.items():
            self.slices += self._sliced(control, treatment, variant, dimension, values)
        self.looks += self._earlier(control, treatment, variant)

    def correct(self) -> None:
        """Correct p-values: metrics that do not decide among each other, groups of customers among each other."""
        rest = [i for i, row in enumerate(self.metrics) if not row.decides]
        for i, p in zip(rest, holm([self.metrics[i].change.p for i in rest]), strict=True):
            self.metrics[i] = self.metrics[i].model_copy(update={"p_holm": float(p)})
        held = [(i, row.change.p) for i, row in enumerate(self.slices) if row.change is not None]
        for (i, _), p in zip(held, holm([p for _, p in held]), strict=True):
            self.slices[i] = self.slices[i].model_copy(update={"p_holm": float(p)})

    def _compare(self, control: pd.DataFrame, treatment: pd.DataFrame, metric: str) -> tuple[Effect, Effect]:
        return compare(control, treatment, metric, self._rule, confidence=self._confidence)

    def _metric(self, control: pd.DataFrame, treatment: pd.DataFrame, metric: str, variant: str) -> MetricRow:
        plain, change = self._compare(control, treatment, metric)
        above, below = METRICS[metric]
        means = [
            float(arm[above].sum() / (len(arm) if below is None else arm[below].sum()))
            for arm in (control, treatment)
        ]
        return MetricRow(
            metric=metric,
            variant=variant,
            decides=metric == self._setting.metric,
            control=means[0],
            treatment=means[1],
            change=Change.of(change),
            plain=Change.of(plain),
            narrowed=float(1 - change.error / plain.error) if below is None else None,
            p_holm=None,
        )

    def _needed(self, control: pd.DataFrame, treatment: pd.DataFrame, variant: str) -> Plan:
        _, change = self._compare(control, treatment, self._setting.metric)
        read = len(control) + len(treatment)
        above, below = METRICS[self._setting.metric]
        mean = float(control[above].sum() / (len(control) if below is None else control[below].sum()))
        required = required_customers(
            float(change.error**2) * read,
            self._setting.smallest * mean,
            self._rule,
            share=len(treatment) / read,
            confidence=self._confidence,
            power=self._setting.power,
        )
        return self._planned(control, treatment, variant, required)

    def _needed_to_begin(self, control: pd.DataFrame, treatment: pd.DataFrame, variant: str) -> Plan:
        """Return how many customers are needed before an effect is told, at the shares and the frequency so far."""
        sizes = len(control), len(treatment)
        read, above = sum(sizes), METRICS[self._setting.metric][0]
        found = sum(int((arm[above] != 0).sum()) for arm in (control, treatment))
        needs = [_FEWEST * read / min(sizes) if min(sizes) else 2.0 * _FEWEST]
        if found:
            needs.append(_FEWEST_WITH * read / found)
        required = math.ceil(max(needs))
        plan = self._planned(control, treatment, variant, required if required > read else None)
        return plan.model_copy(update={"to_begin": True})

    def _planned(
        self, control: pd.DataFrame, treatment: pd.DataFrame, variant: str, required: int | None
    ) -> Plan:
        read = len(control) + len(treatment)
        at = pd.concat([arm[self._counted_at] for arm in (control, treatment)])
        days = (min(at.max(), pd.Timestamp(self._setting.now)) - at.min()) / pd.Timedelta(days=1)
        days_left = None if required is None else days_to_go(required, read, days)
        return Plan(variant=variant, required=required, read=read, days=days_left)

    @property
    def _counted_at(self) -> str:
        """The column of the instant from which on a customer is read."""
        return c.START if self._setting.immature else c.END

    def _sliced(
        self,
        control: pd.DataFrame,
        treatment: pd.DataFrame,
        variant: str,
        dimension: str,
        values: pd.Series[str],
    ) -> Iterator[SliceRow]:
        sides = [values.reindex(arm[s.CUSTOMER_ID]).to_numpy() for arm in (control, treatment)]
        for value in sorted(set(values.dropna())):
            pair = [arm[side == value] for arm, side in zip((control, treatment), sides, strict=True)]
            is_told = enough(pair[0], pair[1], self._setting.metric)
            change = self._compare(pair[0], pair[1], self._setting.metric)[1] if is_told else None
            yield SliceRow(
                dimension=dimension,
                value=value,
                variant=variant,
                customers=sum(map(len, pair)),
                change=None if change is None else Change.of(change),
                p_holm=None,
            )

    def _earlier(self, control: pd.DataFrame, treatment: pd.DataFrame, variant: str) -> Iterator[Look]:
        """Yield how the deciding metric stood at the end of each day, or of every few where there are many."""
        by = self._counted_at
        ends = pd.concat([control[by], treatment[by]])
        last = min(ends.max(), pd.Timestamp(self._setting.now))
        days = pd.date_range(ends.min().ceil("D"), last.ceil("D"), freq="D")
        for at in days[:: -max(-(-len(days) // _LOOKS), 1)][::-1]:
            pair = [arm[arm[by] <= at] for arm in (control, treatment)]
            if enough(pair[0], pair[1], self._setting.metric):
                change = self._compare(pair[0], pair[1], self._setting.metric)[1]
                yield Look(
                    at=instant_of(min(at, pd.Timestamp(self._setting.now))),
                    variant=variant,
                    customers=sum(map(len, pair)),
                    change=Change.of(change),
                )


def compare(
    control: pd.DataFrame,
    treatment: pd.DataFrame,
    metric: str,
    looks: Looks,
    *,
    confidence: float = 0.95,
) -> tuple[Effect, Effect]:
    """Return the effect on a metric as it is, and adjusted by the customers' own past; a ratio is not adjusted."""
    above, below = METRICS[metric]
    other = c.PAST + above if below is None else below
    arms = [Moments.of(arm[above].to_numpy(), arm[other].to_numpy()) for arm in (control, treatment)]
    if below is not None:
        found = effect(arms[0].ratio(), arms[1].ratio(), looks, confidence=confidence)
        return found, found
    plain = effect(arms[0].mean(), arms[1].mean(), looks, confidence=confidence)
    return plain, effect(*adjusted(arms[0], arms[1]), looks, confidence=confidence)


def enough(control: pd.DataFrame, treatment: pd.DataFrame, metric: str) -> bool:
    """Return whether there are customers enough, and enough of them with a value other than zero, to tell an effect."""
    above = METRICS[metric][0]
    counts = [int((arm[above] != 0).sum()) for arm in (control, treatment)]
    varies = min(arm[above].nunique() for arm in (control, treatment)) > 1
    return varies and min(len(control), len(treatment)) >= _FEWEST and sum(counts) >= _FEWEST_WITH


def instant_of(at: pd.Timestamp) -> datetime:
    """Return a Timestamp as a datetime, cut to microseconds."""
    return at.floor("us").to_pydatetime()
