"""The page of ``nextbest validate --report``: findings, tables, volumes, drift and hours on one HTML file.

Everything is in the file: the template's style, one copy of plotly.js, the figures as JSON; it opens without a
network and can be sent on. The texts of the data are not trusted: the template escapes them all, and what
plotly draws goes in as JSON without ``<`` and with its own markup taken away. Deliberately absent: any
number that is not in ``Inspection.to_dict``; the page only shows.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup
from plotly.offline import get_plotlyjs  # type: ignore[import-untyped, unused-ignore]

from eval.page import environment, write_page
from feature_repo.quality import Inspection
from feature_repo.quality_drift import MAJOR, Drift
from feature_repo.quality_profile import TableProfile

__all__ = ["render_quality", "write_quality_report"]

_COLOURS: Final = (
    "#2f6f9f",
    "#c2703d",
    "#4d8a5b",
    "#8a5a9e",
    "#a08a2f",
    "#5b6472",
)  # told apart by the colour-blind
_THEN, _NOW = "#9aa5b1", "#2f6f9f"
_SERIES: Final = 6
_DRIFTS: Final = 4
_BINS: Final = 12
_DAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def render_quality(inspection: Inspection, *, plotly_js: str | None = None) -> str:
    """Return the page.

    Parameters
    ----------
    inspection
        What to show.
    plotly_js
        Source of plotly.js, put in once; by default that of the plotly in use.
    """
    told = inspection.to_dict()
    charts = _charts(inspection)
    script = get_plotlyjs() if plotly_js is None else plotly_js
    findings = sorted(told["findings"], key=lambda f: ("FAIL", "WARN", "PASS").index(f["status"]))
    return (
        environment()
        .get_template("quality.html.j2")
        .render(
            told=told,
            made_at=inspection.profile.made_at.replace("T", " ").replace("+00:00", " UTC"),
            notable=[finding for finding in findings if finding["status"] != "PASS"],
            passed=[finding for finding in findings if finding["status"] == "PASS"],
            charts=[
                {"id": key, **{k: chart[k] for k in ("title", "note", "height")}}
                for key, chart in charts.items()
            ],
            figures=_safe_json({key: chart["figure"] for key, chart in charts.items()}),
            plotly_js=Markup(script.replace("</script", "<\\/script")) if charts else "",
        )
    )


def write_quality_report(inspection: Inspection, path: str | Path) -> Path:
    """Write the page to ``path``, to a file beside it first; folders are made."""
    return write_page(render_quality(inspection), path)


def _charts(inspection: Inspection) -> dict[str, dict[str, Any]]:
    charts: dict[str, dict[str, Any]] = {}
    for name, table in inspection.profile.tables.items():
        if sum(len(weeks) for weeks in table.weeks.values()) > 1:
            charts[f"weeks-{name}"] = _weekly(inspection, name, table)
    worst = [
        (what, table_name, drift)
        for what, tables in (
            ("since the last run", inspection.drifts),
            ("in the last four weeks", inspection.latest),
        )
        for table_name, drifts in tables.items()
        for drift in drifts
        if drift.major or drift.moderate
    ]
    worst.sort(key=lambda one: (-one[2].psi, one[1], one[2].column))
    for i, (what, table_name, drift) in enumerate(worst[:_DRIFTS]):
        charts[f"drift-{i}"] = _drift(what, table_name, drift)
    if inspection.hours:
        charts["hours"] = _heat(inspection.hours)
    return charts


def _weekly(inspection: Inspection, name: str, table: TableProfile) -> dict[str, Any]:
    """Return the chart of weekly rows by kind; weeks with something unusual are marked."""
    mondays = sorted({monday for weeks in table.weeks.values() for monday in weeks})
    kinds = sorted(table.weeks, key=lambda kind: -sum(table.weeks[kind].values()))[:_SERIES]
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": _plain(kind),
            "x": mondays,
            "y": [table.weeks[kind].get(monday, 0) for monday in mondays],
            "line": {"color": _COLOURS[i], "width": 2},
        }
        for i, kind in enumerate(kinds)
    ]
    flagged: dict[str, list[str]] = {}
    for one in inspection.unusual.get(name, ()):
        monday = one.day.fromordinal(one.day.toordinal() - one.day.weekday()).isoformat()
        flagged.setdefault(monday, []).append(
            f"{one.day}: {_plain(one.series)} {one.found:,.0f} instead of about {one.expected:,.0f}"
        )
    if flagged and kinds:
        weeks = [monday for monday in mondays if monday in flagged]
        top = max(max(trace["y"]) for trace in traces)
        traces.append(
            {
                "type": "scatter",
                "mode": "markers",
                "name": "unusual",
                "x": weeks,
                "y": [top * 1.06] * len(weeks),
                "text": ["<br>".join(flagged[monday][:8]) for monday in weeks],
                "hovertemplate": "week of %{x}<br>%{text}<extra></extra>",
                "marker": {"symbol": "triangle-down", "size": 9, "color": "#b3372f"},
            }
        )
    more = len(table.weeks) - len(kinds)
    note = "Rows a week (Monday, UTC); the first and the last week may be parts."
    if flagged:
        note += " A red mark stands over weeks in which a day or the week was unlike the others."
    if more > 0:
        note += f" {more} less frequent kinds are not drawn."
    layout = {"yaxis": {"rangemode": "tozero"}, "hovermode": "x unified" if len(kinds) > 1 else "closest"}
    return _chart(f"Weekly volume: {name}", note, traces, layout, 320)


def _drift(what: str, table: str, drift: Drift) -> dict[str, Any]:
    """Return the chart of one column, then and now; of many bins those that moved most."""
    bins = sorted(range(len(drift.then)), key=lambda i: -abs(drift.now[i] - drift.then[i]))[:_BINS]
    bins.sort()
    labels = [_plain(drift.labels[i]) for i in bins]
    traces = [
        {
            "type": "bar",
            "name": name,
            "x": labels,
            "y": [round(100 * values[i], 3) for i in bins],
            "marker": {"color": colour},
            "hovertemplate": "%{x}: %{y:.1f} %",
        }
        for name, values, colour in (("before", drift.then, _THEN), ("now", drift.now, _NOW))
    ]
    word = "changed much" if drift.major else "changed a little"
    note = f"Share of rows in %, {what}. PSI {drift.psi:.2f}: {word} ({MAJOR} and more is a warning)."
    layout = {
        "barmode": "group",
        "xaxis": {"type": "category", "tickangle": -30 if len(bins) > 6 else 0},
        "yaxis": {"ticksuffix": " %"},
    }
    return _chart(f"Spread of {table}: {drift.column}", note, traces, layout, 300)


def _heat(hours: Sequence[Sequence[int]]) -> dict[str, Any]:
    trace = {
        "type": "heatmap",
        "z": [list(of_day) for of_day in hours],
        "x": list(range(24)),
        "y": list(_DAYS),
        "colorscale": [[0, "rgba(47,111,159,0.06)"], [1, "rgba(47,111,159,1)"]],
        "xgap": 1,
        "ygap": 1,
        "colorbar": {"thickness": 10, "outlinewidth": 0},
        "hovertemplate": "%{y} %{x}:00 %{z:,} rows<extra></extra>",
    }
    layout = {"yaxis": {"autorange": "reversed"}, "xaxis": {"dtick": 3}}
    note = "Interactions by weekday and hour, UTC: a shop that is busy at night has times of another zone."
    return _chart("Hours of the week", note, [trace], layout, 280)


def _chart(
    title: str, note: str, traces: Sequence[Mapping[str, Any]], layout: Mapping[str, Any], height: int
) -> dict[str, Any]:
    return {
        "title": title,
        "note": note,
        "height": height,
        "figure": {"data": list(traces), "layout": dict(layout)},
    }


def _plain(text: str) -> str:
    """Return a text as plotly shows it letter by letter: it reads a few tags and entities as markup."""
    short = text if len(text) <= 40 else f"{text[:39]}…"
    return short.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _safe_json(value: Any) -> Markup:
    """Return JSON that may stand in a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False)
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)
