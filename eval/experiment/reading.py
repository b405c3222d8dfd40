"""An experiment, read: shares first, then effects, guardrails, groups of customers, earlier looks, and the verdict.

The control is one variant, and every other is held against it. With several, each interval is widened (Bonferroni),
so that all hold together with the stated confidence; metrics that do not decide, and groups of customers, have their
p-values corrected (Holm). Deliberately absent: any choice of the deciding metric by what it shows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

import pandas as pd

from eval.experiment import customers as c
from eval.experiment.comparison import CONVERSION, METRICS, Comparison, instant_of
from eval.experiment.customers import Enrolled
from eval.experiment.guardrails import MARGINS, margins
from eval.experiment.looks import EXPECTED, EveryLook, Looks, OneLook
from eval.experiment.results import Arm, Counts, Reading, Setting, Shares
from eval.experiment.shares import check_shares, planned_shares
from eval.experiment.verdict import verdict
from feature_repo import schema as s
from feature_repo.errors import ConfigError

_MOST_VALUES: Final = 8  # of an attribute, to sort customers by it


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
    held_out, shadows
        As ``planned.Planned`` has them, to be told.
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
    held_out: float = 0.0
    shadows: tuple[str, ...] = ()

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
    since: pd.Timestamp | None = None,
    attributes: pd.DataFrame | None = None,
    made_at: datetime | None = None,
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
    name, now, window_days, past_days, immature, since
        As they were enrolled.
    attributes : DataFrame, optional
        ``customer_id`` and columns by which customers are sorted into groups; those with two to eight values are used.
    made_at
        When it is read; ``now`` by default.

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
        now=instant_of(now),
        held_out=asked.held_out,
        shadows=asked.shadows,
        since=None if since is None else instant_of(since),
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
        first=instant_of(rows[c.START].min()),
        last=instant_of(rows[c.START].max()),
        moved=enrolled.moved,
        changed=None if enrolled.changed is None else instant_of(enrolled.changed),
    )
    told = Shares(p=check.p, threshold=check.threshold, failed=check.failed)
    comparing = Comparison(setting, looks, confidence)
    if not check.failed:
        shown = _shown(exposures, name, rows)
        sorted_by = _sorted(rows, attributes)
        for variant in shares:
            if variant != control:
                comparing.add(by_variant[control], by_variant[variant], variant, shown, sorted_by)
        comparing.correct()
    return Reading(
        made_at=made_at or instant_of(now),
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


def _shown(exposures: pd.DataFrame, name: str, rows: pd.DataFrame) -> pd.DataFrame:
    """Return the distinct products of each customer's window."""
    own = exposures.loc[exposures[c.EXPERIMENT] == name, [s.CUSTOMER_ID, s.AT, s.PRODUCT_ID]]
    held = own.merge(rows[[s.CUSTOMER_ID, c.START, c.END]], on=s.CUSTOMER_ID)
    is_within = (held[s.AT] >= held[c.START]) & (held[s.AT] < held[c.END])
    return held.loc[is_within, [s.CUSTOMER_ID, s.PRODUCT_ID]].drop_duplicates()


def _sorted(rows: pd.DataFrame, attributes: pd.DataFrame | None) -> dict[str, pd.Series[str]]:
    """Return what sorts customers: dimension → value by customer."""
    found = {c.STANDING: rows.set_index(s.CUSTOMER_ID)[c.STANDING].astype(str)}
    if attributes is not None:
        held = attributes.drop_duplicates(s.CUSTOMER_ID, keep="last").set_index(s.CUSTOMER_ID)
        held = held.reindex(rows[s.CUSTOMER_ID])
        for column in held:
            if 2 <= held[column].nunique() <= _MOST_VALUES:
                found[str(column)] = held[column].map(_worded, na_action="ignore")
    return found


def _worded(value: object) -> str:
    """Return the value of an attribute as it is told."""
    return ("yes" if value else "no") if isinstance(value, bool) else str(value)
