"""The verdict on an interleaved experiment, by a rule that is stated before the data are seen.

Ship the treatment where customers surely prefer its products; keep the control where they surely prefer the
control's, or where a preference worth having is ruled out. Else go on. A coin that was not fair comes before all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from eval.experiment.interleaving_results import Balance, InterleavingCounts, InterleavingSetting, Preference
from eval.experiment.results import Plan, Verdict
from eval.experiment.words import days_told
from eval.report.look import p_value, percent

#: Metric → what customers did who say something by it.
DID = {"clicks": "clicked", "conversion": "bought", "value": "spent money"}


def interleaving_verdict(
    setting: InterleavingSetting,
    balance: Balance,
    first_places: Mapping[str, int],
    counts: InterleavingCounts,
    preferences: Sequence[Preference],
    plan: Plan | None,
) -> Verdict:
    """Return the verdict; the arguments are fields of ``InterleavingReading``."""
    control, treatment = setting.control, setting.treatment
    told = _left_out(setting, counts)
    if balance.failed:
        return Verdict(
            decision="distrust",
            variant=control,
            sentence=f"Do not read a preference from this experiment: the pick of {treatment} stood first in "
            f"{first_places[treatment]:,} of {balance.requests:,} answers, where a fair coin gives half "
            f"(p {p_value(balance.p)}). What stands first is clicked most, so the variants do not compare.",
            reasons=[
                "Where to look: answers of one kind that are not logged, a client that reorders or drops products, "
                "pins that count for one variant, a coin that is not tossed anew for each request. Find the cause, and "
                "begin again.",
                *told,
            ],
        )
    row = next((one for one in preferences if one.decides), None)
    if row is None or plan is None:
        return Verdict(
            decision="go on",
            variant=control,
            sentence=f"Go on: too few customers {DID[setting.metric]} yet to tell {treatment} from {control}.",
            reasons=told,
        )
    found = (
        f"of {row.customers:,} customers who {DID[row.metric]}, {percent(0.5 + row.delta)} preferred the products of "
        f"{treatment} ({percent(setting.confidence, 0)} interval {percent(0.5 + row.low)} to {percent(0.5 + row.high)})"
    )
    decides = f"a preference of {percent(0.5 + setting.smallest)}"
    reasons = [*_others(preferences, setting), *told]
    if row.low > 0:
        return Verdict(
            decision="ship",
            variant=treatment,
            sentence=f"Ship {treatment}: {found}, surely more than half.",
            reasons=[
                "Interleaving says whose products customers choose when they see both, not how much more they buy in "
                "all, nor what it does to returns or speed: where that matters, let an A/B test follow.",
                *reasons,
            ],
        )
    if row.high < 0:
        return Verdict(
            decision="keep",
            variant=control,
            sentence=f"Keep {control}: {found}, surely less than half.",
            reasons=reasons,
        )
    if row.high < setting.smallest:
        return Verdict(
            decision="keep",
            variant=control,
            sentence=f"Keep {control}: {found}, so that {decides} is ruled out.",
            reasons=reasons,
        )
    if setting.looks == "one":
        return Verdict(
            decision="keep",
            variant=control,
            sentence=f"Keep {control}: at the planned end {found}, which may be chance.",
            reasons=reasons,
        )
    return Verdict(
        decision="go on",
        variant=control,
        sentence=f"Go on: {found}, which may be chance; {_wait(plan, setting, decides)}.",
        reasons=reasons,
    )


def _wait(plan: Plan, setting: InterleavingSetting, decides: str) -> str:
    if plan.required is None:
        return "how many customers are needed cannot be told yet"
    need = (
        f"{plan.required:,} customers who {DID[setting.metric]} find {decides} with a chance of "
        f"{percent(setting.power, 0)}"
    )
    if plan.days == 0:
        return f"{need}, and {plan.read:,} are read, so that one of that size would probably have shown"
    return f"{need}, {plan.read:,} are read" + (
        "" if plan.days is None else f", about {days_told(plan.days)} more"
    )


def _others(preferences: Sequence[Preference], setting: InterleavingSetting) -> list[str]:
    alpha = 1 - setting.confidence
    told = []
    for row in preferences:
        if not row.decides:
            sure = row.p_holm is not None and row.p_holm < alpha
            told.append(
                f"By {row.metric}, {percent(0.5 + row.delta)} of {row.customers:,} customers prefer {setting.treatment}"
                f"{', which is sure' if sure else ', which may be chance'}."
            )
    return told


def _left_out(setting: InterleavingSetting, counts: InterleavingCounts) -> list[str]:
    told = []
    if counts.sessions:
        told.append(f"{counts.sessions:,} sessions without a known customer count as one customer each.")
    if counts.remembered:
        told.append(
            f"{counts.remembered:,} clicks and purchases named no answer: each is credited to the latest one that "
            f"showed the product to the customer, at most {setting.hours:g} hours before."
        )
    if counts.astray:
        told.append(f"{counts.astray:,} named an answer that did not show their product, and are left out.")
    if counts.teamless:
        told.append(f"{counts.teamless:,} products shown are no pick of either variant, and are left out.")
    return told
