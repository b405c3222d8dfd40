"""The report of a bundle valued from a log: one self-contained HTML file; it shows ``experiment.json`` only."""

from __future__ import annotations

from typing import Any, Final

from eval.experiment.counterfactual_results import FEWEST_REWARDED, CounterfactualReading, SlotCounts, Value
from eval.experiment.page import COLOURS, STATE, WHAT_TO_DO
from eval.experiment.settings_told import counterfactual_told
from eval.page import environment
from eval.report.look import p_value, percent
from eval.report.svg import Range, ranges
from eval.results import Estimate

_MEANING: Final = {
    "clicks": "Whether the product in the slot was clicked",
    "conversion": "Whether the product in the slot was bought",
    "value": "Money spent on the product in the slot",
}
_KEEP: Final = "What to do: nothing; this bundle is not worth an experiment for what it puts here."
_WAYS: Final = (("weighted", "ips"), ("weighted, normalised", "snips"), ("doubly robust", "dr"))


def render_counterfactual(reading: CounterfactualReading) -> str:
    """Return the page."""
    setting, counts, chances = reading.setting, reading.counts, reading.chances
    is_sure = counts.rewarded >= FEWEST_REWARDED or counts.same == 1
    return (
        environment()
        .get_template("counterfactual.html.j2")
        .render(
            reading=reading,
            setting=setting,
            asked=counterfactual_told(setting),
            percent=percent,
            state=STATE[reading.verdict.decision],
            todo={**WHAT_TO_DO, "keep": _KEEP}[reading.verdict.decision].format(
                variant=reading.verdict.variant
            ),
            weight_p=p_value(chances.p),
            pick_p=p_value(chances.pick_p or 0.0),
            facts=_facts(counts, failed=chances.failed),
            rows=_rows(reading, is_sure=is_sure),
            chart=_chart(reading.difference) if reading.difference is not None and is_sure else "",
            meaning=_MEANING[setting.metric],
        )
    )


def _facts(counts: SlotCounts, *, failed: bool) -> list[tuple[str, str]]:
    read = [
        ("answers", f"{counts.answers:,}"),
        ("customers", f"{counts.customers:,}"),
        ("slots that chance decided", f"{counts.slots:,}"),
    ]
    if failed:
        return read
    return [
        *read,
        ("same pick as shown without chance", percent(counts.same)),
        ("other picks that chance happened to show", f"{counts.matched:,}"),
        ("of these, with success", f"{counts.rewarded:,}"),
        ("as good as so many slots of its own", f"{counts.effective:,.0f}"),
        ("picks that chance could not show", percent(counts.unsupported)),
        ("slots left out: answers that do not come out again", f"{counts.unrebuilt:,}"),
        ("slots left out: bundle or rules gone", f"{counts.gone:,}"),
        ("slots left out: too young", f"{counts.immature:,}"),
        *([("weights that were bounded", percent(counts.clipped))] if counts.clipped else []),
    ]


def _rows(reading: CounterfactualReading, *, is_sure: bool) -> list[dict[str, Any]]:
    if (
        reading.target is None
        or reading.usual is None
        or reading.difference is None
        or reading.logged is None
    ):
        return []

    def row(name: str, value: Value, *, sure: bool, signed: bool = False) -> dict[str, Any]:
        return {
            "name": name,
            "decides": signed,
            **{way: _told(getattr(value, way), sure=sure, signed=signed) for _, way in _WAYS},
        }

    logged = _told(reading.logged, sure=True, signed=False)
    return [
        row(reading.setting.bundle, reading.target, sure=is_sure),
        row("shown now, less chance", reading.usual, sure=True),
        row("difference", reading.difference, sure=is_sure, signed=True),
        {"name": "as logged", "decides": False, "ips": logged, "snips": "", "dr": ""},
    ]


def _told(estimate: Estimate, *, sure: bool, signed: bool) -> str:
    sign = "+" if signed else ""
    mean = f"{estimate.mean:{sign}.4g}"
    return (f"{mean} [{estimate.low:{sign}.4g}, {estimate.high:{sign}.4g}]" if sure else mean).replace(
        "-", "−"
    )


def _chart(difference: Value) -> Any:
    drawn = [
        Range(name, one.low, one.mean, one.high, COLOURS[0], strong=way == "dr")
        for name, way in _WAYS
        for one in [getattr(difference, way)]
    ]
    return ranges(
        drawn,
        label="Difference by each way of estimating, with its interval: "
        + "; ".join(f"{row.label} {row.mean:+.4g}" for row in drawn),
        told=lambda row: f"{row.mean:+.3g}".replace("-", "−"),
    )
