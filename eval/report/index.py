"""The index of all reports of a home: evaluations and readings of experiments with their verdicts, newest first.

Of evaluations the trend of the winners is drawn as well. A reading of an experiment is known by what all kinds of them
have: what was read, when, and the verdict.
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel

from eval.experiment.page import REPORT as EXPERIMENT_REPORT
from eval.experiment.page import STATE
from eval.experiment.results import RESULTS as EXPERIMENT
from eval.experiment.results import Verdict
from eval.metrics import NDCG
from eval.page import environment, write_page
from eval.report.page import REPORT
from eval.report.svg import spark
from eval.results import RESULTS, Results
from serving.errors import DataError

INDEX: Final = "index.html"


class _Of(BaseModel):
    experiment: str
    now: datetime


class Read(BaseModel):
    """What the index tells of a reading of an experiment, whatever kind it is of."""

    made_at: datetime
    setting: _Of
    verdict: Verdict


def write_index(reports: Path) -> Path:
    """Write ``index.html`` over all results below ``reports``, passing over other files; return its path."""
    runs: list[tuple[str, Results]] = []
    for path in sorted(reports.glob(f"*/{RESULTS}")):
        try:
            runs.append((path.parent.name, Results.read(path)))
        except DataError:
            continue
    return write_page(render_index(runs, reports, _readings(reports)), reports / INDEX)


def _readings(reports: Path) -> list[tuple[str, Read]]:
    found = []
    for path in sorted(reports.glob(f"*/{EXPERIMENT}")):
        try:
            found.append((path.parent.name, Read.model_validate_json(path.read_bytes())))
        except (OSError, ValueError):
            continue
    return found


def render_index(
    runs: list[tuple[str, Results]], reports: Path, readings: list[tuple[str, Read]] | None = None
) -> str:
    """Return the page.

    Parameters
    ----------
    runs
        Folder and results of each run, in any order.
    reports
        Where the folders lie: a run is linked where it has a report.
    readings
        Folder and reading of each experiment that was read, in any order.
    """
    groups: dict[str, list[tuple[str, Results]]] = {}
    for folder, results in sorted(runs, key=lambda run: run[1].run.made_at):
        groups.setdefault(results.data.directory, []).append((folder, results))
    told = []
    for tables, held in groups.items():
        rows = [_row(folder, results, reports) for folder, results in reversed(held)]
        told.append({"tables": tables, "rows": rows, **_trend(held)})
    newest = sorted(readings or [], key=lambda one: one[1].made_at, reverse=True)
    return (
        environment()
        .get_template("index.html.j2")
        .render(
            groups=told,
            runs=len(runs),
            experiments=[
                {
                    "name": one.setting.experiment,
                    "link": f"{folder}/{EXPERIMENT_REPORT}"
                    if (reports / folder / EXPERIMENT_REPORT).is_file()
                    else "",
                    "when": f"{one.made_at:%Y-%m-%d %H:%M}",
                    "until": f"{one.setting.now:%Y-%m-%d}",
                    "state": STATE[one.verdict.decision],
                    "decision": one.verdict.decision,
                    "sentence": one.verdict.sentence,
                }
                for folder, one in newest
            ],
        )
    )


def _row(folder: str, results: Results, reports: Path) -> dict[str, Any]:
    score = results.score(results.verdict.winner, results.policies[0])
    return {
        "folder": folder,
        "link": f"{folder}/{REPORT}" if (reports / folder / REPORT).is_file() else "",
        "when": f"{results.run.made_at:%Y-%m-%d %H:%M}",
        "sentence": results.verdict.sentence,
        "winner": results.verdict.winner,
        "beats": results.verdict.beats_baselines,
        "ndcg": "–" if score is None else f"{score.metrics[NDCG].mean:.4f}",
        "k": results.setting.k,
        "origins": len(results.origins),
        "until": f"{results.data.last:%Y-%m-%d}",
    }


def _trend(held: list[tuple[str, Results]]) -> dict[str, Any]:
    """Return the NDCG of each run's winner as a line, runs that are judged alike only."""
    last = held[-1][1].setting
    alike = [
        results
        for _, results in held
        if (results.setting.k, results.setting.horizon_days) == (last.k, last.horizon_days)
    ]
    values = [
        score.metrics[NDCG].mean
        for results in alike
        if (score := results.score(results.verdict.winner, results.policies[0])) is not None
    ]
    label = f"NDCG@{last.k} of the winner over {len(values)} runs: {', '.join(f'{value:.4f}' for value in values)}"
    return {"trend": spark(values, label=label, colour="#0072b2"), "label": label}
