"""The report of one rolling evaluation: one self-contained HTML file, plain words first.

It needs no network and runs no script, so that it can be sent, printed and kept. It shows ``results.json`` and computes
nothing of its own.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final

from eval.page import environment, write_page
from eval.report import charts, tables
from eval.report.look import Look, legend_line, percent
from eval.results import Results

REPORT: Final = "report.html"


def render_report(results: Results) -> str:
    """Return the page."""
    look = Look(results)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            results=results,
            state=_state(results),
            keys=look.keys(),
            swatch=legend_line,
            winner=look.winner,
            boards=tables.boards(results, look),
            unranked=tables.unranked(results),
            origins=charts.over_origins(results, look),
            slices=tables.slices(results, look),
            published=tables.published(results, look),
            gains=charts.gains(results, look),
            calibration=charts.calibration(results, look),
            tails=charts.long_tail(results, look),
            tier_keys=charts.tier_keys(),
            examples=tables.examples(results, look),
            drift=tables.drift(results),
            card=tables.card(results),
            percent=percent,
            settings_json=json.dumps(tables.card(results)["settings"], indent=1),
        )
    )


def _state(results: Results) -> str:
    """Return how the verdict is coloured: PASS for a sure model, WARN for an unsure one, FAIL for none."""
    verdict = results.verdict
    winner = next(recipe for recipe in results.recipes if recipe.name == verdict.winner)
    if winner.baseline:
        return "FAIL"
    return "PASS" if verdict.beats_baselines else "WARN"


def write_report(results: Results, directory: Path) -> Path:
    """Write ``report.html`` into ``directory``; return its path."""
    return write_page(render_report(results), directory / REPORT)
