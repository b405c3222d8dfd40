"""Every reading has a page; which one goes by its kind."""

from __future__ import annotations

from pathlib import Path

from eval.experiment.counterfactual_page import render_counterfactual
from eval.experiment.counterfactual_results import CounterfactualReading
from eval.experiment.interleaving_page import render_interleaving
from eval.experiment.interleaving_results import InterleavingReading
from eval.experiment.page import REPORT, render_experiment
from eval.experiment.results import Reading
from eval.page import write_page

AnyReading = Reading | InterleavingReading | CounterfactualReading


def render_reading(reading: AnyReading) -> str:
    """Return the page of a reading."""
    if isinstance(reading, InterleavingReading):
        return render_interleaving(reading)
    if isinstance(reading, CounterfactualReading):
        return render_counterfactual(reading)
    return render_experiment(reading)


def write_reading(reading: AnyReading, directory: Path) -> Path:
    """Write ``experiment.html`` into ``directory``; return its path."""
    return write_page(render_reading(reading), directory / REPORT)
