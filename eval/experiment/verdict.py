"""The verdict: ship, keep, go on, or do not trust it; by a rule that is stated before the data are seen.

Ship where the deciding metric is surely higher and every guardrail that was measured holds. Keep the control where the
metric is surely lower, a guardrail is broken, or an effect worth having is ruled out. Else go on. A mismatch of shares
comes before all; and while customers are read whose days are not over, nothing is decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from eval.experiment.results import (
    Arm,
    Counts,
    Decision,
    GuardrailRow,
    MetricRow,
    Plan,
    Setting,
    Shares,
    SliceRow,
    Verdict,
    is_early,
)
from eval.experiment.words import (
    days_told,
    guards,
    left_out,
    past,
    sliced,
    too_early,
    unmeasured,
    words,
    worse,
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
    told = left_out(setting, counts)
    if shares.failed:
        return _distrust(setting, arms, shares, counts, told)
    deciding = [row for row in metrics if row.decides]
    if not deciding:
        few = f"too few customers with {setting.metric} yet" if rare else "too few customers yet"
        return Verdict(
            decision="go on",
            variant=setting.control,
            sentence=f"Go on: {few} to tell {setting.control} from the other variants; {_wait_to_begin(plan)}.",
            reasons=told,
        )
    early = is_early(setting, counts)
    rest = [
        *guards(guardrails, setting, [row.variant for row in deciding], is_early=early),
        *([] if early else sliced(slices, setting)),
        *told,
        *past(deciding),
    ]
    if early:
        so_far = "; ".join(
            f"{row.metric} with {row.variant} is {words(row.change, setting.confidence)}" for row in deciding
        )
        return Verdict(
            decision="go on",
            variant=setting.control,
            sentence=f"Too early to decide: {too_early(setting, counts, sum(arm.read for arm in arms))}. So far "
            f"{so_far}, and that may still turn.",
            reasons=rest,
        )
    judged = [_judged(row, setting, guardrails, plan) for row in deciding]
    order: tuple[Decision, ...] = ("ship", "go on", "keep")
    # of several to ship the one with the highest lower end, that is the surest gain
    best = min(range(len(judged)), key=lambda i: (order.index(judged[i][0]), -deciding[i].change.low))
    decision, sentence = judged[best]
    others = [text for i, (_, text) in enumerate(judged) if i != best]
    variant = deciding[best].variant if decision != "keep" else setting.control
    return Verdict(decision=decision, variant=variant, sentence=sentence, reasons=[*others, *rest])


def _distrust(
    setting: Setting, arms: Sequence[Arm], shares: Shares, counts: Counts, told: list[str]
) -> Verdict:
    seen = ", ".join(f"{arm.seen:,} saw {arm.variant} where {arm.expected:,.0f} were planned" for arm in arms)
    return Verdict(
        decision="distrust",
        variant=setting.control,
        sentence=f"Do not read an effect from this experiment: {seen} (p {p_value(shares.p)}). Customers are missing "
        "or doubled in a variant, so those who are left do not compare.",
        reasons=[
            "Where to look: redirects or errors of one variant, exposures logged later in one than in the other, "
            "bots, customers assigned anew. Find the cause, and begin again.",
            f"Where shares were changed on the way, read what came since: {since(counts.changed)}.",
            *told,
        ],
    )


def _judged(
    row: MetricRow, setting: Setting, guardrails: Sequence[GuardrailRow], plan: Sequence[Plan]
) -> tuple[Decision, str]:
    own = [one for one in guardrails if one.variant == row.variant]
    broken = [one for one in own if one.state == "broken"]
    unknown = [one.guardrail for one in own if one.state == "open"]
    found = f"{row.metric} with {row.variant} is {words(row.change, setting.confidence)}"
    wait = _wait(next(one for one in plan if one.variant == row.variant), setting)
    if broken:
        return (
            "keep",
            f"Keep {setting.control}: {', '.join(one.guardrail for one in broken)} got worse by more than is put "
            f"up with ({'; '.join(worse(one, setting.control) for one in broken)}); {found}.",
        )
    if row.change.high < 0:
        return "keep", f"Keep {setting.control}: {found}, surely lower than with {setting.control}."
    if row.change.low > 0 and not unknown:
        return (
            "ship",
            f"Ship {row.variant}: {found}, surely higher than with {setting.control}; {_guarded(own, row.variant)}.",
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


def _guarded(own: Sequence[GuardrailRow], variant: str) -> str:
    """Say by name which guardrails hold, and which were not measured."""
    held, missing = [one.guardrail for one in own], unmeasured(own, variant)
    verb = "holds" if len(held) == 1 else "hold"
    told = [f"{' and '.join(held)} {verb}"] if held else []
    if missing:
        told.append(f"{' and '.join(missing)} {'was' if len(missing) == 1 else 'were'} not measured")
    return ", ".join(told)


def since(changed: datetime | None) -> str:
    """Say how to read what came after the last change of shares."""
    if changed is None:
        return "--since INSTANT, from the last change on"
    return f"--since {changed:%Y-%m-%dT%H:%M:%SZ}, which is when customers were moved"


def _wait_to_begin(plan: Sequence[Plan]) -> str:
    most = max(
        (one for one in plan if one.required is not None), key=lambda one: one.required or 0, default=None
    )
    read = max((one.read for one in plan), default=0)
    if most is None:
        return f"{read:,} are read, and how many are needed cannot be told yet"
    when = "" if most.days is None else f", about {days_told(most.days)} more at the pace so far"
    return f"{most.read:,} are read and about {most.required:,} are needed before anything is told{when}"


def _wait(plan: Plan, setting: Setting) -> str:
    if plan.required is None:
        return "how many customers are needed cannot be told yet"
    need = (
        f"{plan.required:,} customers of both find a gain of {percent(setting.smallest)} "
        f"with a chance of {percent(setting.power, 0)}"
    )
    if plan.days == 0:
        return f"{need}, and {plan.read:,} are read, so that a gain of that size would probably have shown"
    when = "" if plan.days is None else f", about {days_told(plan.days)} more"
    return f"{need}, {plan.read:,} are read{when}"
