"""What is said of a reading beside its verdict: changes, guardrails, groups of customers, and who was left out.

For somebody who reads no statistics: what a guardrail measures is said where it is named, and of many groups of
customers only the surest are told; ``experiment.json`` and the page have all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Final

from eval.experiment.guardrails import COVERAGE, LATENCY, MARGINS, RETURNED
from eval.experiment.results import Change, Counts, GuardrailRow, MetricRow, Setting, SliceRow
from eval.report.look import p_value, percent

_GROUPS_TOLD: Final = 3
_WORSE: Final = {
    RETURNED: "more of what is bought comes back",
    COVERAGE: "fewer different products are shown",
    LATENCY: "answers take longer",
}
#: Guardrail → why there is no figure of it.
_UNMEASURED: Final = {
    RETURNED: "nothing was returned, or too few customers are read",
    COVERAGE: "too few customers are read",
    LATENCY: "the exposures have no column latency_ms, or too few customers are read",
}


def words(change: Change, confidence: float) -> str:
    """Write a change in words, relative where that says anything."""
    if change.share is None:
        return (
            f"{change.difference:+.4f} in its own unit ({percent(confidence, 0)} interval {change.low:+.4f} to "
            f"{change.high:+.4f}; the control's figure is too uncertain to tell the change as a share of it)"
        ).replace("-", "−")
    relative, low, high = change.share
    way = "higher" if relative >= 0 else "lower"
    ends = f"{signed(low)} to {signed(high)}"
    return f"{percent(abs(relative))} {way} ({percent(confidence, 0)} interval {ends})"


def signed(share: float) -> str:
    """Write a share as a percentage with its sign."""
    return f"{100 * share:+.1f} %".replace("-", "−")


def worse(row: GuardrailRow, control: str) -> str:
    """Say of a guardrail what got worse, from what to what."""
    return f"{_WORSE[row.guardrail]}: {figure(row, row.treatment)}, with {control} {figure(row, row.control)}"


def figure(row: GuardrailRow, value: float) -> str:
    """Write the figure of a guardrail in its unit."""
    if row.guardrail == LATENCY:
        return f"{value:.3g} ms"
    return percent(value) + (" of all products shown" if row.guardrail == COVERAGE else " of what was bought")


def unmeasured(guardrails: Sequence[GuardrailRow], variant: str) -> list[str]:
    """Return the guardrails that nothing is known of."""
    there = {row.guardrail for row in guardrails if row.variant == variant}
    return [name for name in MARGINS if name not in there]


def guards(
    guardrails: Sequence[GuardrailRow], setting: Setting, variants: Sequence[str], *, is_early: bool
) -> list[str]:
    """Say how each guardrail stands, which were not measured and why, and how a margin is changed."""
    said = {
        "holds": "that it got worse by as much as {} is ruled out",
        "broken": "it surely got worse by more than {}",
        "open": "whether it got worse by {} is not known yet",
    }
    if is_early:
        said |= {"holds": "it did not get worse by {}", "broken": "it got worse by more than {}"}
    told, lead = [], "What must not get worse (so far), " if is_early else "What must not get worse, "
    for row in guardrails:
        sentence = (
            f"{lead}{row.guardrail}: {figure(row, row.control)} with {setting.control}, "
            f"{figure(row, row.treatment)} with {row.variant}; "
            f"{said[row.state].format(percent(row.margin, 0))}"
        )
        if row.state != "holds":
            limit = f"--margin {row.guardrail}={row.margin:g}"
            sentence += f" (that limit is {limit}; settle another one before you look, not after)"
        told.append(f"{sentence}.")
    for variant in variants:
        missing = [f"{name} ({_UNMEASURED[name]})" for name in unmeasured(guardrails, variant)]
        if missing:
            beside = f" with {variant}" if len(variants) > 1 else ""
            told.append(f"Not measured{beside}, so nothing is known of it: {'; '.join(missing)}.")
    return told


def sliced(slices: Sequence[SliceRow], setting: Setting) -> list[str]:
    """Say for which groups of customers a difference is sure, the surest first."""
    alpha = 1 - setting.confidence
    sure = [
        (row.p_holm, row, row.change)
        for row in slices
        if row.change is not None and row.p_holm is not None and row.p_holm < alpha
    ]
    if not slices:
        return []
    if not sure:
        return ["In no single group of customers is a difference sure after correction for their number."]
    sure.sort(key=lambda found: found[0])
    told = [
        f"Where {row.dimension} is {row.value}, {setting.metric} with {row.variant} is "
        f"{words(change, setting.confidence)}; corrected p {p_value(p)}."
        for p, row, change in sure[:_GROUPS_TOLD]
    ]
    if len(sure) > _GROUPS_TOLD:
        told.append(
            f"It is sure in {len(sure) - _GROUPS_TOLD} more of {len(slices)} groups: the report's table has all."
        )
    return told


def past(deciding: Sequence[MetricRow]) -> list[str]:
    """Say by how much the customers' own past narrowed intervals."""
    return [
        f"Taking out what the customers' own past explains made the interval of {row.metric} ({row.variant}) "
        f"{percent(row.narrowed)} narrower."
        for row in deciding
        if row.narrowed is not None
    ]


def left_out(setting: Setting, counts: Counts) -> list[str]:
    """Say who was left out, and who is read in spite of something."""
    told = []
    if counts.immature:
        what = "are read with what they did so far" if setting.immature else "are left out"
        told.append(f"{counts.immature:,} customers whose {setting.window_days} days are not over {what}.")
    if counts.crossed:
        told.append(f"{counts.crossed:,} customers saw two variants and are left out.")
    if counts.moved and setting.since is not None:
        told.append(
            f"{counts.moved:,} customers saw another variant before {setting.since:%Y-%m-%d %H:%M} UTC. They are read "
            "by what they see since: to leave them out would take regular customers from one variant alone. What they "
            "saw before may still work in them, which draws the variants together."
        )
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


def too_early(setting: Setting, counts: Counts, read: int) -> str:
    """Say that customers have not had their days, and until when that is so."""
    over = counts.last + timedelta(days=setting.window_days)
    return (
        f"{counts.immature:,} of {read:,} customers have not had their {setting.window_days} days "
        f"(all of them will by {over:%Y-%m-%d %H:%M} UTC)"
    )


def days_told(days: int) -> str:
    """Return a number of days in words."""
    return f"{days:,} day" if days == 1 else f"{days:,} days"
