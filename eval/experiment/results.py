"""``experiment.json``: everything the reading of an experiment found, in a versioned schema that the report only shows.

Changes are treatment less control. Where the check of shares fails there are no changes at all.
"""

from __future__ import annotations

import math
from datetime import datetime
from pathlib import Path
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

from eval.experiment.effect import Effect
from eval.experiment.guardrails import State

SCHEMA_VERSION: Final = 2
RESULTS: Final = "experiment.json"
#: A relative interval wider than ten times the control's figure tells how little is known of that figure.
WIDEST: Final = 10.0
Decision = Literal["ship", "try", "keep", "go on", "distrust"]


class Strict(BaseModel):
    """Knows its fields and no others, and does not change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Change(Strict):
    """A difference with its interval and p-value; the relative one is None where the control is not told from zero.

    Where it is hardly told from zero the relative interval has no bounds to speak of: ``share`` is None there, too.
    """

    difference: float
    low: float
    high: float
    relative: float | None
    relative_low: float | None
    relative_high: float | None
    p: float

    @classmethod
    def of(cls, effect: Effect) -> Change:
        """Take the effect of one experiment."""

        def known(value: object) -> float | None:
            number = float(value)  # type: ignore[arg-type]
            return number if math.isfinite(number) else None

        return cls(
            difference=float(effect.difference),
            low=float(effect.low),
            high=float(effect.high),
            relative=known(effect.relative),
            relative_low=known(effect.relative_low),
            relative_high=known(effect.relative_high),
            p=float(effect.p),
        )

    @property
    def share(self) -> tuple[float, float, float] | None:
        """The relative change with the ends of its interval, where that says anything."""
        if self.relative is None or self.relative_low is None or self.relative_high is None:
            return None
        if self.relative_high - self.relative_low > WIDEST:
            return None
        return self.relative, self.relative_low, self.relative_high


class Setting(Strict):
    """What was asked, before the data were seen; ``smallest`` is the relative effect that is worth finding.

    ``held_out`` is the share of all customers whom no experiment reaches, ``shadows`` are variants that answer unseen.
    ``since`` is the instant from which exposures are read; None: from the first.
    """

    experiment: str
    control: str
    metric: str
    window_days: int
    past_days: int
    confidence: float
    power: float
    smallest: float
    looks: Literal["every", "one"]
    expected: int
    margins: dict[str, float]
    immature: bool
    now: datetime
    held_out: float = 0.0
    shadows: tuple[str, ...] = ()
    since: datetime | None = None


class Arm(Strict):
    """A variant: its planned share, customers who saw it and how many were expected, customers read, exposures."""

    variant: str
    share: float
    seen: int
    expected: float
    read: int
    exposures: int


class Counts(Strict):
    """Who was left out of the reading, and why; ``first`` and ``last`` are first exposures of those who were read.

    ``moved`` customers, who are read, saw another variant before ``Setting.since``. ``changed`` is when customers were
    moved from one variant to another, where that can be seen.
    """

    crossed: int
    immature: int
    anonymous: int
    first: datetime
    last: datetime
    moved: int = 0
    changed: datetime | None = None


class Shares(Strict):
    """The check of shares."""

    p: float
    threshold: float
    failed: bool


class MetricRow(Strict):
    """A metric of a treatment beside the control.

    ``change`` is adjusted by the customers' own past where ``narrowed`` is not None: by that share the adjustment
    shrank the interval; ``plain`` is the change without it. ``p_holm`` is corrected among all rows that do not decide.
    """

    metric: str
    variant: str
    decides: bool
    control: float
    treatment: float
    change: Change
    plain: Change
    narrowed: float | None
    p_holm: float | None


class GuardrailRow(Strict):
    """A guardrail of a treatment."""

    guardrail: str
    variant: str
    control: float
    treatment: float
    change: Change
    margin: float
    state: State


class SliceRow(Strict):
    """The deciding metric for one kind of customer; ``change`` is None where there are too few to tell."""

    dimension: str
    value: str
    variant: str
    customers: int
    change: Change | None
    p_holm: float | None


class Look(Strict):
    """The deciding metric as it stood at an earlier instant."""

    at: datetime
    variant: str
    customers: int
    change: Change


class Plan(Strict):
    """Customers of control and treatment needed to find the smallest effect, those read, and days from now.

    With ``to_begin`` they are those needed before any effect is told at all.
    """

    variant: str
    required: int | None
    read: int
    days: int | None
    to_begin: bool = False


class Verdict(Strict):
    """What to do. ``variant`` is the one to ship, or the control to keep."""

    decision: Decision
    variant: str
    sentence: str
    reasons: list[str]


class Written(Strict):
    """What a reading of any kind has: when it was made, and what to do."""

    schema_version: int = SCHEMA_VERSION
    made_at: datetime
    verdict: Verdict

    def write(self, directory: Path) -> Path:
        """Write ``experiment.json`` into ``directory``, which is made; return its path."""
        directory.mkdir(parents=True, exist_ok=True)
        path = directory / RESULTS
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")
        return path


class Reading(Written):
    """An experiment in which each customer saw one variant, read."""

    kind: Literal["split"] = "split"
    setting: Setting
    arms: list[Arm]
    counts: Counts
    shares: Shares
    metrics: list[MetricRow]
    guardrails: list[GuardrailRow]
    slices: list[SliceRow]
    looks: list[Look]
    plan: list[Plan]
    rare: list[str]

    @property
    def is_early(self) -> bool:
        """Whether customers are read whose days are not over, so that nothing is sure."""
        return is_early(self.setting, self.counts)


def is_early(setting: Setting, counts: Counts) -> bool:
    """Return whether customers are read whose days are not over."""
    return setting.immature and counts.immature > 0
