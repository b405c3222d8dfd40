"""An experiment, read: shares first, then effects, guardrails, groups of customers, earlier looks, and the verdict.

The control is one variant, and every other is held against it. With several, each interval is widened (Bonferroni),
so that all hold together with the stated confidence; metrics that do not decide, and groups of customers, have their
p-values corrected (Holm). Deliberately absent: any choice of the deciding metric by what it shows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import numpy as np
import pandas as pd

from eval.experiment import customers as c
from eval.experiment.customers import Enrolled
from eval.experiment.effect import Effect, effect
from eval.experiment.guardrails import MARGINS, guardrails, margins
from eval.experiment.looks import EXPECTED, EveryLook, Looks, OneLook
from eval.experiment.moments import Moments, adjusted
from eval.experiment.plan import days_to_go, required_customers
from eval.experiment.results import (
    Arm,
    Change,
    Counts,
    GuardrailRow,
    Look,
    MetricRow,
    Plan,
    Reading,
    Setting,
    Shares,
    SliceRow,
)
from eval.experiment.shares import check_shares, planned_shares
from eval.experiment.verdict import verdict
from eval.significance import holm
from feature_repo import schema as s
from feature_repo.errors import ConfigError

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
_MOST_VALUES: Final = 8  # of an attribute, to sort customers by it
_LOOKS: Final = 40


@dataclass(frozen=True)
class Asked:
    """What is asked of an experiment; to be settled before its data are seen.

    Attributes
    ----------
    shares
        Variant → planned share; any positive numbers.
    control
        Which variant is the control; the first of the shares by default.
    metric
        What decides: conversion, value, clicks, or purchases per exposure.
    smallest
        The relative effect that is worth finding.
    final
        This is the end that was planned, and it is looked at once; else intervals hold at every look.
    expected
        Customers of control and treatment that are planned; see ``EveryLook``.
    margins
        Guardrail → the largest harm that is put up with, relative to the control.
    """

    shares: Mapping[str, float]
    control: str | None = None
    metric: str = CONVERSION
    smallest: float = 0.05
    confidence: float = 0.95
    power: float = 0.8
    final: bool = False
    expected: int = EXPECTED
    margins: Mapping[str, float] = field(default_factory=lambda: dict(MARGINS))

    def __post_init__(self) -> None:
        planned_shares(self.shares)
        margins(self.margins)
        if self.control is not None and self.control not in self.shares:
            raise ConfigError(
                f"expected the control among {', '.join(self.shares)}, found {self.control!r}; correct --control"
            )
        if self.metric not in METRICS:
            raise ConfigError(
                f"expected a metric of {', '.join(METRICS)}, found {self.metric!r}; correct --metric"
            )
        for name, share in (("confidence", self.confidence), ("power", self.power)):
            if not 0 < share < 1:
                raise ConfigError(f"expected a {name} between 0 and 1, found {share}; correct it")
        if not 0 < self.smallest < 10:
            raise ConfigError(
                f"expected a relative effect above 0, found {self.smallest}; 0.05 stands for five percent"
            )


def read(
    enrolled: Enrolled,
    exposures: pd.DataFrame,
    asked: Asked,
    *,
    name: str,
    now: pd.Timestamp,
    window_days: int,
    past_days: int,
    immature: bool = False,
    attributes: pd.DataFrame | None = None,
) -> Reading:
    """Read an experiment.

    Parameters
    ----------
    enrolled
        Its customers, of ``customers.enrol`` with the same window and past.
    exposures : DataFrame
        What was shown, a row a product, for how much of the catalogue is shown.
    asked
        What decides, and how.
    name, now, window_days, past_days, immature
        As they were enrolled.
    attributes : DataFrame, optional
        ``customer_id`` and columns by which customers are sorted into groups; those with two to eight values are used.

    Raises
    ------
    ConfigError
        A variant was seen that has no share.
    """
    shares = planned_shares(asked.shares)
    control = asked.control or next(iter(shares))
    check = check_shares(enrolled.seen, shares)
    # the sound reading of several treatments at once: every interval holds with this confidence
    confidence = 1 - (1 - asked.confidence) / (len(shares) - 1)
    looks: Looks = OneLook() if asked.final else EveryLook(asked.expected, 1 - confidence)
    setting = Setting(
        experiment=name,
        control=control,
        metric=asked.metric,
        window_days=window_days,
        past_days=past_days,
        confidence=asked.confidence,
        power=asked.power,
        smallest=asked.smallest,
        looks="one" if asked.final else "every",
        expected=asked.expected,
        margins=margins(asked.margins),
        immature=immature,
        now=_instant(now),
    )
    rows = enrolled.rows
    by_variant = {variant: rows[rows[c.VARIANT] == variant] for variant in shares}
    arms = [
        Arm(
            variant=variant,
            share=share,
            seen=check.counts[variant],
            expected=check.expected[variant],
            read=len(by_variant[variant]),
            exposures=int(by_variant[variant][c.EXPOSURES].sum()),
        )
        for variant, share in shares.items()
    ]
    counts = Counts(
        crossed=enrolled.crossed,
        immature=enrolled.immature,
        anonymous=enrolled.anonymous,
        first=_instant(rows[c.START].min()),
        last=_instant(rows[c.START].max()),
    )
    told = Shares(p=check.p, threshold=check.threshold, failed=check.failed)
    comparing = _Comparing(setting, looks, confidence)
    if not check.failed:
        shown = _shown(exposures, name, rows)
        sorted_by = _sorted(rows, attributes)
        for variant in shares:
            if variant != control:
                comparing.add(by_variant[control], by_variant[variant], variant, shown, sorted_by)
        comparing.correct()
    return Reading(
        setting=setting,
        arms=arms,
        counts=counts,
        shares=told,
        metrics=comparing.metrics,
        guardrails=comparing.guardrails,
        slices=comparing.slices,
        looks=comparing.looks,
        plan=comparing.plan,
        rare=comparing.rare,
        verdict=verdict(
            setting,
            arms,
            counts,
            told,
            comparing.metrics,
            comparing.guardrails,
            comparing.slices,
            comparing.plan,
            comparing.rare,
        ),
    )


class _Comparing:
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
        if not enough(control, treatment, self._setting.metric):
            return
        self.plan.append(self._needed(control, treatment, variant))
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
        ends = pd.concat([control[c.END], treatment[c.END]])
        days = (min(ends.max(), pd.Timestamp(self._setting.now)) - ends.min()) / pd.Timedelta(days=1)
        days_left = None if required is None else days_to_go(required, read, days)
        return Plan(variant=variant, required=required, read=read, days=days_left)

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
        by = c.START if self._setting.immature else c.END
        ends = pd.concat([control[by], treatment[by]])
        last = min(ends.max(), pd.Timestamp(self._setting.now))
        days = pd.date_range(ends.min().ceil("D"), last.ceil("D"), freq="D")
        for at in days[:: -max(-(-len(days) // _LOOKS), 1)][::-1]:
            pair = [arm[arm[by] <= at] for arm in (control, treatment)]
            if enough(pair[0], pair[1], self._setting.metric):
                change = self._compare(pair[0], pair[1], self._setting.metric)[1]
                yield Look(
                    at=_instant(min(at, pd.Timestamp(self._setting.now))),
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


def _instant(at: pd.Timestamp) -> datetime:
    return at.floor("us").to_pydatetime()


def _shown(exposures: pd.DataFrame, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the distinct products of each customer's window."""
    own = exposures.loc[exposures[c.EXPERIMENT] == name, [s.CUSTOMER_ID, s.AT, s.PRODUCT_ID]]
    held = own.merge(rows[[s.CUSTOMER_ID, c.END]], on=s.CUSTOMER_ID)
    return held.loc[held[s.AT] < held[c.END], [s.CUSTOMER_ID, s.PRODUCT_ID]].drop_duplicates()


def _sorted(rows: pd.DataFrame, attributes: pd.DataFrame | None) -> dict[str, pd.Series[str]]:
    """Return what sorts customers: dimension → value by customer."""
    found = {c.STANDING: rows.set_index(s.CUSTOMER_ID)[c.STANDING].astype(str)}
    if attributes is not None:
        held = attributes.drop_duplicates(s.CUSTOMER_ID, keep="last").set_index(s.CUSTOMER_ID)
        held = held.reindex(rows[s.CUSTOMER_ID])
        for column in held:
            if 2 <= held[column].nunique() <= _MOST_VALUES:
                found[str(column)] = held[column].map(str, na_action="ignore")
    return found
