"""The report of an experiment: one self-contained HTML file, plain words first; it shows ``experiment.json`` only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from eval.experiment.comparison import CONVERSION
from eval.experiment.results import Change, GuardrailRow, Look, MetricRow, Reading, SliceRow
from eval.experiment.settings_told import settings_told
from eval.experiment.words import signed, unmeasured
from eval.page import environment
from eval.report.look import p_value, percent
from eval.report.svg import Line, Range, lines, ranges

REPORT: Final = "experiment.html"
STATE: Final = {"ship": "PASS", "try": "PASS", "keep": "WARN", "go on": "WARN", "distrust": "FAIL"}
COLOURS: Final = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
_BADGES: Final = {"holds": "PASS", "open": "WARN", "broken": "FAIL"}
#: Decision → what is to be done now, for somebody who reads no further.
WHAT_TO_DO: Final = {
    "ship": "What to do: make {variant} what everybody sees, and end the experiment.",
    "try": "What to do: let a share of customers see {variant}, as a variant of an experiment.",
    "keep": "What to do: end the experiment; {variant} stays.",
    "go on": "What to do: change nothing and read again later; nothing is decided yet.",
    "distrust": "What to do: decide nothing by these data; find out what went wrong, and begin again.",
}
_SAID: Final = {"holds": "holds", "open": "not known yet", "broken": "broken"}


def render_experiment(reading: Reading) -> str:
    """Return the page."""
    setting = reading.setting
    treatments = [arm.variant for arm in reading.arms if arm.variant != setting.control]
    colour = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(treatments)}
    alpha = 1 - setting.confidence
    return (
        environment()
        .get_template("experiment.html.j2")
        .render(
            reading=reading,
            percent=percent,
            setting=setting,
            state=STATE[reading.verdict.decision],
            todo=WHAT_TO_DO[reading.verdict.decision].format(variant=reading.verdict.variant),
            share_p=p_value(reading.shares.p),
            metrics=[_metric(row, alpha, is_early=reading.is_early) for row in reading.metrics],
            metric_chart=_metric_chart(reading.metrics, colour),
            guardrails=[_guardrail(row, is_early=reading.is_early) for row in reading.guardrails],
            slices=_slices(reading.slices, 0.0 if reading.is_early else alpha),
            unmeasured=[
                name + (f" ({variant})" if len(treatments) > 1 else "")
                for variant in treatments
                for name in unmeasured(reading.guardrails, variant)
            ],
            asked=settings_told(setting),
            several=len(treatments) > 1,
            charts=[
                {"variant": name, "chart": _over_time(reading.looks, name, colour)} for name in treatments
            ],
        )
    )


def _metric(row: MetricRow, alpha: float, *, is_early: bool) -> dict[str, Any]:
    change = row.change
    left_out = change.low > 0 or change.high < 0
    sure = left_out if row.decides else row.p_holm is not None and row.p_holm < alpha
    word = "surely higher" if change.difference > 0 else "surely lower"
    doubt = "may be chance"
    if is_early:
        sure, doubt = False, "too early to tell"
    return {
        "name": row.metric,
        "variant": row.variant,
        "decides": row.decides,
        "control": percent(row.control) if row.metric == CONVERSION else _figure(row.control),
        "treatment": percent(row.treatment) if row.metric == CONVERSION else _figure(row.treatment),
        "relative": _relative(change),
        "absolute": f"{change.difference:+.3g} [{change.low:+.3g}, {change.high:+.3g}]".replace("-", "−"),
        "plain": _relative(row.plain),
        "narrowed": "–" if row.narrowed is None else percent(row.narrowed),
        "p": p_value(change.p if row.p_holm is None else row.p_holm),
        "sure": sure,
        "word": word if sure else doubt,
    }


def _metric_chart(rows: Sequence[MetricRow], colour: dict[str, str]) -> Any:
    drawn = [
        Range(
            f"{row.metric} ({row.variant})",
            share[1],
            share[0],
            share[2],
            colour[row.variant],
            strong=row.decides,
        )
        for row in rows
        if (share := row.change.share) is not None
    ]
    return ranges(
        drawn,
        label="Relative change of each metric with its interval: "
        + "; ".join(f"{row.label} {signed(row.mean)}" for row in drawn),
        told=lambda row: signed(row.mean),
    )


def _guardrail(row: GuardrailRow, *, is_early: bool) -> dict[str, Any]:
    return {
        "name": row.guardrail,
        "variant": row.variant,
        "control": _figure(row.control),
        "treatment": _figure(row.treatment),
        "relative": _relative(row.change),
        "margin": f"{percent(row.margin, 0)} {'less' if row.guardrail == 'coverage' else 'more'}",
        "badge": "WARN" if is_early else _BADGES[row.state],
        "said": f"so far: {_SAID[row.state]}" if is_early else _SAID[row.state],
    }


def _slices(rows: Sequence[SliceRow], alpha: float) -> list[dict[str, Any]]:
    told = []
    last = ""
    for row in rows:
        is_first, last = row.dimension != last, row.dimension
        sure = row.p_holm is not None and row.p_holm < alpha
        told.append(
            {
                "dimension": row.dimension if is_first else "",
                "value": row.value,
                "variant": row.variant,
                "customers": f"{row.customers:,}",
                "relative": "too few to tell" if row.change is None else _relative(row.change),
                "p": "–" if row.p_holm is None else p_value(row.p_holm),
                "sure": sure,
                "small": row.change is None,
            }
        )
    return told


def _over_time(looks: Sequence[Look], variant: str, colour: dict[str, str]) -> Any:
    own = [look for look in looks if look.variant == variant]
    if len(own) < 2:
        return ""
    ticks = [(float(i), f"{own[i].at.day} {own[i].at:%b}") for i in sorted({0, len(own) // 2, len(own) - 1})]
    points = [(float(i), look.change.difference) for i, look in enumerate(own)]
    zero = Line("no difference", [(0.0, 0.0), (float(len(own) - 1), 0.0)], "#8d97a0", "4 3")
    band = [(float(i), look.change.low, look.change.high) for i, look in enumerate(own)]
    last = own[-1].change
    return lines(
        [zero, Line(variant, points, colour[variant], strong=True, band=band)],
        label=f"Difference of {variant} from the control as it stood on each day, at last {last.difference:+.4g}, "
        f"interval {last.low:+.4g} to {last.high:+.4g}",
        x_ticks=ticks,
        y_of=lambda y: f"{y:+.3g}" if y else "0",
        y_from_zero=False,
    )


def _relative(change: Change) -> str:
    if change.share is None:
        return "too uncertain to tell"
    relative, low, high = change.share
    return f"{signed(relative)} [{signed(low)}, {signed(high)}]"


def _figure(value: float) -> str:
    return f"{value:,.4g}"
