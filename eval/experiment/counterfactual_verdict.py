"""The verdict on a bundle that was valued from a log: worth an experiment, not worth one, or not told yet.

Never more than that: only a slot was valued, with the rest of the answer as it was.
"""

from __future__ import annotations

from typing import Final

from eval.experiment.counterfactual_results import (
    FEWEST_REWARDED,
    Chances,
    CounterfactualSetting,
    SlotCounts,
    Value,
)
from eval.experiment.results import Verdict
from eval.report.look import p_value, percent

#: Metric → what is counted, in how many slots.
_COUNTED: Final = {"clicks": ("clicks", 100), "conversion": ("products sold", 100), "value": ("of money", 1)}


def counterfactual_verdict(
    setting: CounterfactualSetting,
    chances: Chances,
    counts: SlotCounts,
    target: Value | None,
    usual: Value | None,
    difference: Value | None,
) -> Verdict:
    """Return the verdict; the arguments are fields of ``CounterfactualReading``."""
    told = _told(counts)
    bundle = setting.bundle
    if chances.failed or target is None or usual is None or difference is None:
        whose, weight, p = "what is shown without chance", chances.weight, chances.p
        if chances.pick_weight is not None and chances.pick_p is not None:
            whose, weight, p = f"what {bundle} picks", chances.pick_weight, chances.pick_p
        return Verdict(
            decision="distrust",
            variant="what is shown now",
            sentence=f"Do not value {bundle} from this log: its chances cannot be right. By them {whose} weighs "
            f"{weight:.3f} a slot, where right chances give 1 (p {p_value(p)}).",
            reasons=[
                "Where to look: answers that are logged less often where chance decided, propensities of another "
                "file of rules, a client that drops products, request ids that are chosen and not drawn.",
                *told,
            ],
        )
    if counts.same == 1:
        return Verdict(
            decision="keep",
            variant="what is shown now",
            sentence=f"Keep what is shown now: {bundle} would show the same in all {counts.slots:,} slots.",
            reasons=told,
        )
    rest = [
        f"In {percent(counts.same)} of the slots {bundle} picks what is shown anyway; where it does not, chance showed "
        f"its pick {counts.matched:,} times, {counts.rewarded:,} of them with success. The log says as much as "
        f"{counts.effective:,.0f} slots of its own would.",
        *told,
    ]
    if counts.rewarded < FEWEST_REWARDED:
        return Verdict(
            decision="go on",
            variant="what is shown now",
            sentence=f"Go on: the log does not tell yet what {bundle} would earn; where it picks something else, "
            f"{counts.rewarded:,} of its picks were shown by chance and had success, and {FEWEST_REWARDED} are needed.",
            reasons=[
                "More chance (a larger epsilon, more slots) or a smaller pool tells sooner; an experiment soonest.",
                *rest,
            ],
        )
    change = difference.dr
    what, times = _COUNTED[setting.metric]
    where = "a slot" if times == 1 else f"{times} slots"
    more = [f"{times * number:+.3g}".replace("-", "−") for number in (change.mean, change.low, change.high)]
    found = (
        f"in {where} that chance decides {bundle} would bring {times * target.dr.mean:.3g} {what} and what is shown "
        f"now {times * usual.dr.mean:.3g}, a difference of {more[0]} ({percent(setting.confidence, 0)} interval "
        f"{more[1]} to {more[2]})"
    )
    if change.low > 0:
        return Verdict(
            decision="try",
            variant=bundle,
            sentence=f"Try {bundle} in an experiment: {found}, surely more.",
            reasons=[
                "Only this slot was valued, the rest of the answer as it was; an experiment tells the whole.",
                *rest,
            ],
        )
    if change.high < 0:
        return Verdict(
            decision="keep",
            variant="what is shown now",
            sentence=f"Keep what is shown now: {found}, surely less.",
            reasons=rest,
        )
    return Verdict(
        decision="go on",
        variant="what is shown now",
        sentence=f"Go on: {found}, which may be chance.",
        reasons=rest,
    )


def _told(counts: SlotCounts) -> list[str]:
    told = []
    if counts.unsupported:
        told.append(
            f"In {percent(counts.unsupported)} of the slots chance could not have shown its pick; the value is that of "
            "the others."
        )
    if counts.unrebuilt:
        told.append(
            f"{counts.unrebuilt:,} slots are left out: their answers do not come out as they were logged "
            "(products have changed since, or a session had a history)."
        )
    if counts.gone:
        told.append(f"{counts.gone:,} slots are left out: their bundle or their rules are not here any more.")
    if counts.immature:
        told.append(f"{counts.immature:,} slots whose days are not over are left out.")
    return told
