"""``experiment.json`` of an interleaved experiment: everything that its reading found."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from eval.experiment.results import Plan, Strict, Written


class InterleavingSetting(Strict):
    """What was asked, before the data were seen; ``smallest`` is how far from half the preference is worth finding."""

    experiment: str
    control: str
    treatment: str
    metric: str
    window_days: int
    hours: float
    confidence: float
    power: float
    smallest: float
    looks: Literal["every", "one"]
    expected: int
    now: datetime


class Team(Strict):
    """A variant in the answers: how often its pick stood first, products shown, and what came of those."""

    variant: str
    first_places: int
    shown: int
    clicked: int
    bought: int
    paid: float


class Balance(Strict):
    """The check of the coin that decides whose pick stands first."""

    requests: int
    p: float
    threshold: float
    failed: bool


class Preference(Strict):
    """Whose products customers prefer by one metric; only customers to whom anything is owed say something.

    ``delta`` is half the difference of the shares of customers who prefer the treatment and the control, in [−½, ½];
    ``p_holm`` is corrected among the metrics that do not decide.
    """

    metric: str
    decides: bool
    customers: int
    for_treatment: int
    for_control: int
    ties: int
    delta: float
    low: float
    high: float
    p: float
    p_holm: float | None


class PreferenceLook(Strict):
    """The deciding metric as it stood at an earlier instant."""

    at: datetime
    customers: int
    delta: float
    low: float
    high: float


class InterleavingCounts(Strict):
    """What was read, and what was left out; ``remembered`` credits named no request, ``astray`` ones the wrong one."""

    answers: int
    customers: int
    sessions: int
    remembered: int
    astray: int
    teamless: int
    first: datetime
    last: datetime


class InterleavingReading(Written):
    """An experiment in which every answer was made of the lists of both variants, read."""

    kind: Literal["interleaving"] = "interleaving"
    setting: InterleavingSetting
    teams: list[Team]
    balance: Balance
    counts: InterleavingCounts
    preferences: list[Preference]
    looks: list[PreferenceLook]
    plan: Plan | None
    rare: list[str]
