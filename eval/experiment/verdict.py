"""The verdict: ship, keep, go on, or do not trust it; by a rule that is stated before the data are seen.

Ship where the deciding metric is surely higher and every guardrail holds. Keep the control where the metric is surely
lower, a guardrail is broken, or an effect worth having is ruled out. Else go on. A mismatch of shares comes before all.
"""

from __future__ import annotations

from collections.abc import Sequence

from eval.experiment.results import (
    Arm,
    Change,
    Counts,
    Decision,
    GuardrailRow,
    MetricRow,
    Plan,
    Setting,
    Shares,
    SliceRow,
    Verdict,
)
from eval.report.look import p_value, percent


def verdict(
    setting: Setting,
    arms: Sequence[Arm],
    counts: Counts,
    shares: Shares,
    metrics: Sequence[MetricRow],
    guardrails: Sequence[GuardrailRow],
    slices: Sequence[SliceRow],
    plan: Sequence[Plan],
    rare: Sequence[str],
) -> Verdict:
    """Return the verdict; the arguments are fields of ``Reading``."""
    told = _left_out(setting, counts)
    if shares.failed:
        return _distrust(setting, arms, shares, told)
    deciding = [row for row in metrics if row.decides]
    if not deciding:
        few = f"too few customers with {setting.metric} yet" if rare else "too few customers yet"
        return Verdict(
            decision="go on",
            variant=setting.control,
            sentence=f"Go on: {few} to tell {setting.control} from the other variants.",
            reasons=told,
        )
    judged = [_judged(row, setting, guardrails, plan) for row in deciding]
    order: tuple[Decision, ...] = ("ship", "go on", "keep")
    # of several to ship the one with the highest lower end, that is the surest gain
    best = min(range(len(judged)), key=lambda i: (order.index(judged[i][0]), -deciding[i].change.low))
    decision, sentence = judged[best]
    others = [text for i, (_, text) in enumerate(judged) if i != best]
    reasons = [*others, *_guards(guardrails), *_sliced(slices, setting), *told, *_past(deciding)]
    variant = deciding[best].variant if decision != "keep" else setting.control
    return Verdict(decision=decision, variant=variant, sentence=sentence, reasons=reasons)


def _distrust(setting: Setting, arms: Sequence[Arm], shares: Shares, told: list[str]) -> Verdict:
    seen = ", ".join(f"{arm.seen:,} saw {arm.variant} where {arm.expected:,.0f} were planned" for arm in arms)
    return Verdict(
        decision="distrust",
        variant=setting.control,
        sentence=f"Do not read an effect from this experiment: {seen} (p {p_value(shares.p)}). Customers are missing "
        "or doubled in a variant, so those who are left do not compare.",
        reasons=[
            "Where to look: redirects or errors of one variant, exposures logged later in one than in the other, "
            "bots, customers assigned anew, shares that were changed on the way. Find the cause, and begin again.",
            *told,
        ],
    )


def _judged(
    row: MetricRow, setting: Setting, guardrails: Sequence[GuardrailRow], plan: Sequence[Plan]
) -> tuple[Decision, str]:
    own = [one for one in guardrails if one.variant == row.variant]
    broken = [one.guardrail for one in own if one.state == "broken"]
    unknown = [one.guardrail for one in own if one.state == "open"]
    found = f"{row.metric} with {row.variant} is {words(row.change, setting.confidence)}"
    wait = _wait(next(one for one in plan if one.variant == row.variant), setting)
    if broken:
        return (
            "keep",
            f"Keep {setting.control}: {', '.join(broken)} got worse by more than is put up with; {found}.",
        )
    if row.change.high < 0:
        return "keep", f"Keep {setting.control}: {found}, surely lower than with {setting.control}."
    if row.change.low > 0 and not unknown:
        guarded = ", and every guardrail holds" if own else ""
        return (
            "ship",
            f"Ship {row.variant}: {found}, surely higher than with {setting.control}{guarded}.",
        )
    if row.change.low > 0:
        return (
            "go on",
            f"Go on: {found}, surely higher than with {setting.control}, but what must not get worse "
            f"({', '.join(unknown)}) is not yet known to hold.",
        )
    highest = row.change.relative_high
    if highest is not None and highest < setting.smallest:
        return (
            "keep",
            f"Keep {setting.control}: {found}, so that a gain of {percent(setting.smallest)} is ruled out.",
        )
    if setting.looks == "one":
        return "keep", f"Keep {setting.control}: at the planned end {found}, which may be chance."
    return "go on", f"Go on: {found}, which may be chance; {wait}."


def _wait(plan: Plan, setting: Setting) -> str:
    if plan.required is None:
        return "how many customers are needed cannot be told yet"
    need = (
        f"{plan.required:,} customers of both find a gain of {percent(setting.smallest)} "
        f"with a chance of {percent(setting.power, 0)}"
    )
    if plan.days == 0:
        return f"{need}, and {plan.read:,} are read, so that a gain of that size would probably have shown"
    when = "" if plan.days is None else f", about {plan.days:,} days more"
    return f"{need}, {plan.read:,} are read{when}"


def words(change: Change, confidence: float) -> str:
    """Write a change in words, relative where it can be."""
    if change.relative is None or change.relative_low is None or change.relative_high is None:
        return f"{change.difference:+.4f} ({percent(confidence, 0)} interval {change.low:+.4f} to {change.high:+.4f})"
    way = "higher" if change.relative >= 0 else "lower"
    ends = f"{signed(change.relative_low)} to {signed(change.relative_high)}"
    return f"{percent(abs(change.relative))} {way} ({percent(confidence, 0)} interval {ends})"


def signed(share: float) -> str:
    """Write a share as a percentage with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def _past(deciding: Sequence[MetricRow]) -> list[str]:
    known = [row for row in deciding if row.narrowed is not None]
    return [
        f"Taking out what the customers' own past explains made the interval of {row.metric} ({row.variant}) "
        f"{percent(row.narrowed)} narrower."
        for row in known
        if row.narrowed is not None
    ]


def _guards(guardrails: Sequence[GuardrailRow]) -> list[str]:
    said = {
        "holds": "a harm of {} is ruled out",
        "broken": "it surely got worse by more than {}",
        "open": "whether it got worse by {} is not known yet",
    }
    return [
        f"What must not get worse: {row.guardrail} with {row.variant}, {row.control:.3g} → {row.treatment:.3g}; "
        f"{said[row.state].format(percent(row.margin, 0))}."
        for row in guardrails
    ]


def _sliced(slices: Sequence[SliceRow], setting: Setting) -> list[str]:
    alpha = 1 - setting.confidence
    sure = [row for row in slices if row.change is not None and row.p_holm is not None and row.p_holm < alpha]
    if not slices:
        return []
    if not sure:
        return ["In no single group of customers is a difference sure after correction for their number."]
    return [
        f"Where {row.dimension} is {row.value}, {setting.metric} with {row.variant} is "
        f"{words(row.change, setting.confidence)}; corrected p {p_value(row.p_holm)}."
        for row in sure
        if row.change is not None and row.p_holm is not None
    ]


def _left_out(setting: Setting, counts: Counts) -> list[str]:
    told = []
    if counts.immature:
        what = (
            "are read with what they did so far, so that the interval promises less than it says"
            if setting.immature
            else "are left out"
        )
        told.append(f"{counts.immature:,} customers whose {setting.window_days} days are not over {what}.")
    if counts.crossed:
        told.append(f"{counts.crossed:,} customers saw two variants and are left out.")
    if counts.anonymous:
        told.append(f"{counts.anonymous:,} answers to nobody known are left out: they cannot be followed.")
    if setting.held_out:
        told.append(
            f"{percent(setting.held_out)} of all customers are held out of every experiment; what is read here holds "
            "for the others."
        )
    if setting.shadows:
        told.append(
            f"{', '.join(setting.shadows)} answers unseen: its customers see {setting.control} and count as such."
        )
    return told
