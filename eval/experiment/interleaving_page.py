"""The report of an interleaved experiment: one self-contained HTML file; it shows ``experiment.json`` only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from eval.experiment.interleaving_results import InterleavingReading, Preference, PreferenceLook
from eval.experiment.page import COLOURS, STATE, WHAT_TO_DO
from eval.experiment.settings_told import interleaving_told
from eval.page import environment
from eval.report.look import p_value, percent
from eval.report.svg import Line, Range, lines, ranges


def render_interleaving(reading: InterleavingReading) -> str:
    """Return the page."""
    setting = reading.setting
    return (
        environment()
        .get_template("interleaving.html.j2")
        .render(
            reading=reading,
            setting=setting,
            asked=interleaving_told(setting),
            percent=percent,
            state=STATE[reading.verdict.decision],
            todo=WHAT_TO_DO[reading.verdict.decision].format(variant=reading.verdict.variant),
            balance_p=p_value(reading.balance.p),
            preferences=[_row(row, 1 - setting.confidence) for row in reading.preferences],
            chart=_chart(reading.preferences),
            has_half=any(row.low < 0 for row in reading.preferences)
            and any(row.high > 0 for row in reading.preferences),
            over_time=_over_time(reading.looks, setting.treatment),
        )
    )


def _row(row: Preference, alpha: float) -> dict[str, Any]:
    left_out = row.low > 0 or row.high < 0
    sure = left_out if row.decides else row.p_holm is not None and row.p_holm < alpha
    word = "surely more than half" if row.delta > 0 else "surely less than half"
    return {
        "name": row.metric,
        "decides": row.decides,
        "sure": sure,
        "word": word if sure else "may be chance",
        "share": f"{percent(0.5 + row.delta)} [{percent(0.5 + row.low)}, {percent(0.5 + row.high)}]",
        "customers": f"{row.customers:,}",
        "for_treatment": f"{row.for_treatment:,}",
        "for_control": f"{row.for_control:,}",
        "ties": f"{row.ties:,}",
        "delta": f"{row.delta:+.3f}".replace("-", "−"),
        "p": p_value(row.p if row.p_holm is None else row.p_holm),
    }


def _chart(rows: Sequence[Preference]) -> Any:
    drawn = [Range(row.metric, row.low, row.delta, row.high, COLOURS[0], strong=row.decides) for row in rows]
    return ranges(
        drawn,
        label="Preference by each metric with its interval: "
        + "; ".join(f"{row.label} {percent(0.5 + row.mean)}" for row in drawn),
        told=lambda row: percent(0.5 + row.mean),
    )


def _over_time(looks: Sequence[PreferenceLook], treatment: str) -> Any:
    if len(looks) < 2:
        return ""
    ticks = [
        (float(i), f"{looks[i].at.day} {looks[i].at:%b}")
        for i in sorted({0, len(looks) // 2, len(looks) - 1})
    ]
    half = Line("no preference", [(0.0, 0.5), (float(len(looks) - 1), 0.5)], "#8d97a0", "4 3")
    points = [(float(i), 0.5 + look.delta) for i, look in enumerate(looks)]
    band = [(float(i), 0.5 + look.low, 0.5 + look.high) for i, look in enumerate(looks)]
    last = looks[-1]
    return lines(
        [half, Line(treatment, points, COLOURS[0], strong=True, band=band)],
        label=f"Share that prefers {treatment} as it stood on each day, at last {percent(0.5 + last.delta)}, interval "
        f"{percent(0.5 + last.low)} to {percent(0.5 + last.high)}",
        x_ticks=ticks,
        y_of=lambda y: percent(y, 0),
        y_from_zero=False,
    )
