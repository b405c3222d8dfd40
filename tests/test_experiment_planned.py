"""Shares that come from ``experiments.toml``: what is seen counts, typed ones win; the holdout is one too."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

from eval.experiment.planned import Planned, beside_the_holdout, planned
from feature_repo import schema as s
from serving.experiments_file import Experiments
from tests.planted_experiment import BEGUN, NAME, planted, written
from tests.test_cli import Run, run

__all__ = ["run"]

FILE = f"""
holdout = 0.1
[[experiments]]
name = "{NAME}"
[[experiments.variants]]
name = "control"
weight = 30
[[experiments.variants]]
name = "dark"
weight = 20
shadow = true
[[experiments.variants]]
name = "treatment"
weight = 50
[[experiments]]
name = "unseen"
variants = [{{name = "control", weight = 1}}, {{name = "dark", weight = 1, shadow = true}}]
"""


def file_in(home: Path, text: str = FILE) -> Path:
    home.mkdir(exist_ok=True)
    (home / "experiments.toml").write_text(text)
    return home


def test_the_share_of_a_shadow_is_the_controls(tmp_path: Path) -> None:
    told = Experiments.read(file_in(tmp_path) / "experiments.toml")
    assert planned(told, NAME) == Planned({"control": 0.5, "treatment": 0.5}, 0.1, ("dark",))
    assert planned(told, "holdout") == Planned({"fallback": 0.1, "personal": 0.9})
    assert planned(told, "other") is None
    assert planned(Experiments(), "holdout") is None


def test_the_command_takes_shares_from_the_file_and_typed_ones_over_them(run: Run, tmp_path: Path) -> None:
    shop = written(planted(customers=4000, lift=0.4), tmp_path / "shop")
    home = file_in(tmp_path / "home")
    asked = ("experiment", NAME, "--tables", shop, "--margin", "returns=5")
    done = run(*asked, "--json", home=home)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert {arm["variant"]: arm["share"] for arm in told["arms"]} == {"control": 0.5, "treatment": 0.5}
    assert told["setting"]["control"] == "control"
    words = run(*asked).out
    assert "10.0 % of all customers are held out of every experiment" in words
    assert "dark answers unseen: its customers see control" in words
    typed = run(*asked, "--shares", "treatment=1,control=9")
    assert typed.code == 2 and typed.out.startswith("Do not read an effect")
    for words_, wanted in (
        (("unseen",), "control alone"),
        (("other",), "expected --shares V=S,… or the experiment 'other' in"),
    ):
        refused = run("experiment", *words_, "--tables", shop)
        assert refused.code == 2 and wanted in refused.err
    file_in(home, "[[experiments]]\nname = 3")
    assert "expected a text" in run(*asked).err


def test_an_interleaved_experiment_is_known_by_its_kind() -> None:
    pair = Experiments.model_validate(
        {
            "experiments": [
                {"name": "draft", "variants": [{"name": n, "weight": 1} for n in ("control", "trees")]}
            ]
        }
    )
    assert not planned(pair, "draft").interleaved  # type: ignore[union-attr]
    mixed = pair.experiments[0].model_copy(update={"kind": "interleave"})
    told = planned(pair.model_copy(update={"experiments": (mixed,)}), "draft")
    assert told is not None and told.interleaved and list(told.shares) == ["control", "trees"]


def held_out(frames: dict[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """A tenth of the customers see what is served to the holdout, the rest what any experiment or none gives them."""
    shown = frames["exposures"]
    number = shown[s.CUSTOMER_ID].str[1:].astype(int)
    fallback = number % 10 == 0
    shown["experiment"] = shown["experiment"].where(number % 3 == 0).mask(fallback, "holdout")
    shown["variant"] = shown["variant"].where(number % 3 == 0).mask(fallback, "fallback")
    return frames


def test_the_holdout_stands_beside_everybody_else(run: Run, tmp_path: Path) -> None:
    shop = written(held_out(planted(customers=6000)), tmp_path / "shop")
    home = file_in(tmp_path / "home")
    done = run("experiment", "holdout", "--tables", shop, "--margin", "returns=5", "--json", home=home)
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["setting"]["control"] == "fallback"
    seen = {arm["variant"]: arm["seen"] for arm in told["arms"]}
    assert seen["fallback"] == 600
    # whoever came before the first of the holdout did is not compared with it
    assert 5350 < seen["personal"] <= 5400
    none = written(planted(customers=600), tmp_path / "none")
    assert "found those of homepage" in run("experiment", "holdout", "--tables", none).err


def test_who_was_seen_before_the_holdout_began_is_counted_from_then_on() -> None:
    rows = pd.DataFrame(
        [
            (BEGUN, "a", None, None),
            (BEGUN + pd.Timedelta(days=5), "b", "holdout", "fallback"),
            (BEGUN + pd.Timedelta(days=6), "a", NAME, "treatment"),
        ],
        columns=[s.AT, s.CUSTOMER_ID, "experiment", "variant"],
    )
    found = beside_the_holdout(rows)
    assert found["variant"].tolist() == ["fallback", "personal"]
    assert set(found["experiment"]) == {"holdout"}


@pytest.mark.parametrize("name", [NAME, "holdout"])
def test_without_a_file_shares_are_asked_for(run: Run, tmp_path: Path, name: str) -> None:
    shop = written(planted(customers=400), tmp_path / "shop")
    refused = run("experiment", name, "--tables", shop, home=tmp_path / "home")
    assert refused.code == 2 and "expected --shares" in refused.err
