"""``experiment.json`` of a bundle that was valued from the log of another: everything that was found."""

from __future__ import annotations

from datetime import datetime
from typing import Final, Literal

from eval.experiment.results import Strict, Written
from eval.results import Estimate

#: Picks shown by chance with a reward, before an interval is told.
FEWEST_REWARDED: Final = 20


class CounterfactualSetting(Strict):
    """What was asked; ``clip`` is the largest weight, None: none is bounded."""

    experiment: str
    variant: str | None
    bundle: str
    metric: str
    window_days: int
    hours: float
    confidence: float
    clip: float | None
    resamples: int
    now: datetime
    immature: bool = False


class Chances(Strict):
    """The check of the logged chances: what is shown without chance must weigh 1 a slot, as must the bundle's picks.

    ``pick_weight`` and ``pick_p`` are of the bundle's picks; ``pick_p`` is None where too few of them were shown.
    """

    weight: float
    p: float
    pick_weight: float | None
    pick_p: float | None
    threshold: float
    failed: bool


class SlotCounts(Strict):
    """What was read, and what was left out.

    ``slots`` of ``answers`` to ``customers`` are read. Left out are ``gone`` ones whose bundle or rules are not there
    any more, ``unrebuilt`` ones that do not come out as logged, ``immature`` ones, and those, a share ``unsupported``
    of the rest, in which the pick could not have been shown. In a share ``same`` the bundle picks what is shown without
    chance. Where it does not, chance showed its pick ``matched`` times, ``rewarded`` ones with success.
    """

    answers: int
    slots: int
    customers: int
    gone: int
    unrebuilt: int
    immature: int
    unsupported: float
    same: float
    matched: int
    rewarded: int
    effective: float
    clipped: float
    first: datetime
    last: datetime


class Value(Strict):
    """What a policy earns a slot, by each estimator."""

    ips: Estimate
    snips: Estimate
    dr: Estimate


class CounterfactualReading(Written):
    """A bundle valued from a log: ``usual`` is what was shown less chance, ``logged`` what was shown, chance and all.

    ``difference`` is the bundle less ``usual``, on the same draws. All are None where the chances cannot be trusted.
    """

    kind: Literal["counterfactual"] = "counterfactual"
    setting: CounterfactualSetting
    chances: Chances
    counts: SlotCounts
    target: Value | None
    usual: Value | None
    difference: Value | None
    logged: Estimate | None
