"""Pages of experiments: what to do stands first, a browser shows them without complaint, and the index lists them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from eval.experiment.counterfactual import LeftOut
from eval.experiment.pages import AnyReading, render_reading, write_reading
from eval.experiment.reading import Asked
from eval.report.index import write_index
from tests.test_counterfactual import drawn, valued
from tests.test_experiment_reading import EVEN, LOOSE
from tests.test_experiment_reading import reading as split
from tests.test_interleaving_reading import reading as drafts
from tests.test_report import Structure, in_browser, text_of
from training.counterfactual import Logged

TAG = "nextbest:202611220136-e021db82d933"


def valued_from_a_log(*, picks_better: bool = True, weight: tuple[float, float] = (1.0, 1.0)) -> AnyReading:
    frame = drawn(4000, 2)
    if picks_better:
        frame["pick"] = frame["pick"].clip(lower=6)
    return valued(Logged(frame, LeftOut(unrebuilt=12), weight), TAG)


@pytest.fixture(scope="module")
def readings() -> dict[str, AnyReading]:
    return {
        "winner": split(Asked(EVEN, margins=LOOSE, held_out=0.02), customers=12_000, lift=0.3),
        "open": split(customers=4000),
        "mismatch": split(customers=20_000, lift=0.3, lost=0.1),
        "draft": drafts(better=1.6, customers=3000),
        "undecided": drafts(customers=600),
        "unfair": drafts(better=1.5, coin=0.58),
        "valued": valued_from_a_log(),
        "wrong": valued_from_a_log(weight=(1.2, 0.0001)),
    }


@pytest.mark.parametrize(
    ("name", "decision", "todo"),
    [
        ("winner", "ship", "What to do: make treatment what everybody sees"),
        ("open", "go on", "What to do: change nothing and read again later"),
        ("mismatch", "distrust", "What to do: decide nothing by these data"),
        ("draft", "ship", "What to do: make trees what everybody sees"),
        ("undecided", "go on", "What to do: change nothing"),
        ("unfair", "distrust", "What to do: decide nothing"),
        ("valued", "try", f"What to do: let a share of customers see {TAG}"),
        ("wrong", "distrust", "What to do: decide nothing"),
    ],
)
def test_what_to_do_stands_first(
    readings: dict[str, AnyReading], name: str, decision: str, todo: str
) -> None:
    reading = readings[name]
    assert reading.verdict.decision == decision
    page = render_reading(reading)
    text = text_of(page)
    assert reading.verdict.sentence in text and todo in text
    assert text.index(todo) < text.index("Can it be trusted?")
    assert ("How long still" in text) == (decision == "go on")
    structure = Structure()
    structure.feed(page)
    assert structure.tables and not structure.headless_tables and not structure.unnamed
    assert not re.findall(r"src\s*=|url\(|@import|<script|<link", page)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["winner", "mismatch", "draft", "unfair", "valued", "wrong", "index"])
def test_a_browser_shows_it_without_complaint_or_overflow(
    readings: dict[str, AnyReading], tmp_path: Path, name: str, width: int
) -> None:
    for one, reading in readings.items():
        reading.write(tmp_path / one)
        write_reading(reading, tmp_path / one)
    page = write_index(tmp_path) if name == "index" else tmp_path / name / "experiment.html"
    document, complaints = in_browser(page, width=width)
    title = re.search(r"<title>(\d+)/(\d+)</title>", document)
    assert title is not None, document[:500]
    assert int(title.group(2)) == width and int(title.group(1)) <= width
    assert "CONSOLE" not in complaints


def test_a_phone_shows_long_names_without_overflow(tmp_path: Path) -> None:
    long = "a-variant-with-a-name-as-long-as-they-may-be-" + "x" * 18
    told = split(Asked(EVEN, margins=LOOSE), customers=3000, lift=0.3)
    setting = told.setting.model_copy(update={"experiment": long * 2})
    page = write_reading(told.model_copy(update={"setting": setting}), tmp_path)
    title = re.search(r"<title>(\d+)/(\d+)</title>", in_browser(page, width=390)[0])
    assert title is not None and int(title.group(1)) <= 390


def test_the_index_lists_readings_newest_first(readings: dict[str, AnyReading], tmp_path: Path) -> None:
    for name in ("winner", "draft", "valued"):
        readings[name].write(tmp_path / name)
    write_reading(readings["draft"], tmp_path / "draft")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "experiment.json").write_text("{}")
    page = write_index(tmp_path).read_text()
    text = text_of(page)
    for name in ("winner", "draft", "valued"):
        assert readings[name].verdict.sentence in text
    assert re.findall(r'href="([^"]+)"', page) == ["draft/experiment.html"]
    order = sorted(("winner", "draft", "valued"), key=lambda name: readings[name].made_at, reverse=True)
    places = [text.index(readings[name].verdict.sentence) for name in order]
    assert places == sorted(places)
    assert "3 readings of experiments, newest first" in text
