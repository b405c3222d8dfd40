"""A recipe whose ranker finds too little to learn from: told wherever it is told of, and never put in place of one."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.report.page import render_report
from eval.results import Unranked
from eval.verdict import verdict
from serving.bundle import verify
from serving.errors import DataError
from serving.manifest import Manifest
from serving.settings import Settings
from tests.conftest import NOW
from tests.planted_results import SETTING, START, infos, pooled, results
from tests.test_report import text_of
from tests.tiny_shop import TINY, Shop
from training.cli import main
from training.compare import compare
from training.ranker import keys
from training.recipe import TrainConfig
from training.refresh_runs import Runs
from training.rolling import Plan, roll
from training.train import refit, train

RANKED = (
    TINY.split("[[recipes]]")[0]
    + """
[[recipes]]
name = "als"
model = "als"
[recipes.als]
factors = 16
epochs = 10
[[recipes]]
name = "als-ranked"
model = "als"
[recipes.als]
factors = 16
epochs = 10
[recipes.ranker]
horizon_days = 14
windows = 1
candidates = 20
trees = 3
leaves = 4
"""
)
ONLY = RANKED.replace(
    '[[recipes]]\nname = "als"\nmodel = "als"\n[recipes.als]\nfactors = 16\nepochs = 10\n', "", 1
)
WHY = "expected at least 1000000 purchases"


def only() -> TrainConfig:
    return TrainConfig.parse(ONLY, "only.toml")


@pytest.fixture
def shop(ready: Shop, tmp_path: Path) -> Shop:
    return ready.copy(tmp_path)


class Needs:
    """How many purchases a ranker is learnt from at least: ``little`` is there, ``much`` is not."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch

    def little(self) -> None:
        self._patch.setattr(keys, "FEWEST", 10)

    def much(self) -> None:
        self._patch.setattr(keys, "FEWEST", 1_000_000)


@pytest.fixture
def needs() -> Iterator[Needs]:
    with pytest.MonkeyPatch.context() as patch:
        yield Needs(patch)


def manifest_of(settings: Settings, version: str | None) -> Manifest:
    assert version is not None
    return verify(settings.bundles / version, version)


def test_where_it_was_judged_so_it_is_published_and_told_everywhere(
    shop: Shop, needs: Needs, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = shop.live
    shop.settings.live.unlink()
    needs.much()
    run = shop.refresh(config=only())
    assert run.outcome == "published" and run.gate is not None
    assert run.unranked is not None and WHY in run.unranked
    assert f"it has no ranker: {WHY}" in run.said
    assert WHY in run.gate.metrics["unranked"]["als-ranked"]
    told = Runs(shop.settings.refresh).newest()
    assert told is not None and told.unranked == run.unranked
    policy = manifest_of(shop.settings, shop.live).policy
    assert (policy.ranker, policy.unranked) == (None, run.unranked)
    inside = shop.settings.bundles / str(shop.live) / "bundle"
    assert f"no ranker: {WHY}" in (inside / "MODEL_CARD.md").read_text()
    side_by_side = compare(shop.settings.bundles, str(before), str(shop.live))
    assert side_by_side["a"]["ranker"] == "none asked for" and WHY in side_by_side["b"]["ranker"]
    monkeypatch.setenv("NEXTBEST_HOME", str(shop.settings.home))
    monkeypatch.setattr(sys, "argv", ["nextbest", "models", "--json"])
    with pytest.raises(SystemExit):
        main()
    listed = {row["tag"]: row["ranker"] for row in json.loads(capsys.readouterr().out)}
    assert WHY in listed[f"nextbest:{shop.live}"] and listed[f"nextbest:{before}"] == "none asked for"


def test_what_is_live_with_a_ranker_is_not_replaced_by_the_same_without(shop: Shop, needs: Needs) -> None:
    shop.settings.live.unlink()
    needs.little()
    assert shop.refresh(config=only()).unranked is None
    held = shop.live
    assert manifest_of(shop.settings, held).policy.ranker is not None
    shop.tell("a")
    needs.much()
    bundles = set(shop.settings.bundles.iterdir())
    with pytest.raises(DataError, match=r"ranker for als-ranked.* what is live under this name has one"):
        shop.refresh(days=2, config=only())
    with pytest.raises(DataError, match="what is live stays live"):
        train(shop.settings, shop.tables, only(), now=NOW)
    assert shop.live == held and set(shop.settings.bundles.iterdir()) == bundles
    failed = Runs(shop.settings.refresh).newest()
    assert failed is not None and failed.outcome == "failed" and WHY in failed.said
    needs.little()
    assert shop.refresh(days=3, config=only()).outcome == "published"
    assert manifest_of(shop.settings, shop.live).policy.ranker is not None


def test_a_gap_before_the_last_events_is_told_in_days_before_anything_is_built(
    shop: Shop, needs: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.settings.live.unlink()
    needs.little()
    assert shop.refresh(config=only()).outcome == "published"
    path = shop.tables / "interactions.parquet"
    rows = pd.read_parquet(path)
    rows["at"] -= pd.Timedelta(days=150)
    rows.to_parquet(path, index=False)
    shop.tell("late", count=3)
    monkeypatch.setattr("training.train.build_features", None)
    monkeypatch.setattr("training.refresh.current_features", None)
    told = (
        r"at least 10 purchases by known customers from 2026-05-18 to 2026-06-01, the last 14 days .* ranker for "
        r"als-ranked.*found 3 \(the last one before is of 2026-01-\d\d\).* put what was sold in these days into"
    )
    with pytest.raises(DataError, match=told):
        shop.refresh(days=2, config=only())
    with pytest.raises(DataError, match=told):
        train(shop.settings, shop.tables, only(), now=NOW)
    shop.settings.live.unlink()
    late = pd.read_parquet(path)
    late.loc[late["at"] > "2026-03-01", "kind"] = "view"
    late.to_parquet(path, index=False)
    with pytest.raises(DataError, match=r"at least 1 purchase by known customers from 2026-05-18 .*found 0"):
        train(shop.settings, shop.tables, only(), now=NOW)


def test_what_was_judged_with_a_ranker_is_not_published_without(
    shop: Shop, needs: Needs, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poorer(*given: object, **named: object) -> object:
        needs.much()
        return refit(*given, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("training.train.refit", poorer)
    needs.little()
    home = Settings.load(home=shop.settings.home.parent / "empty")
    with pytest.raises(DataError, match="the gate judged it with one"):
        train(home, shop.tables, only(), now=NOW)
    assert not home.live.exists()


def test_an_evaluation_tells_where_recipes_were_judged_without(shop: Shop, needs: Needs) -> None:
    needs.much()
    found = roll(
        shop.settings,
        shop.tables,
        TrainConfig.parse(RANKED, "ranked.toml"),
        Plan(count=2, every_days=7, horizon_days=7, k=5),
        command="nextbest evaluate",
        now=NOW,
    )
    at = [origin.at for origin in found.origins]
    recipes = {recipe.name: recipe for recipe in found.recipes}
    assert [one.at for one in recipes["als-ranked"].unranked] == at
    assert all(WHY in one.why for one in recipes["als-ranked"].unranked)
    assert not recipes["als"].unranked
    assert any("say nothing of what a ranker is worth" in reason for reason in found.verdict.reasons)
    assert not any("With and without the ranker" in reason for reason in found.verdict.reasons)
    page = text_of(render_report(found))
    assert "als-ranked was judged without its ranker at 2 of 2 origins" in page
    assert f"{at[0]:%Y-%m-%d}: {WHY}" in page
    assert "show the same, als-ranked without its ranker" in page


def test_origins_without_a_ranker_among_others_are_named() -> None:
    names = ["als", "als-ranked", "expert"]
    generator = np.random.default_rng(0)
    customers = [f"e{i:03d}" for i in range(100)]
    found = pooled(
        {
            name: [mean + generator.normal(0, 0.01, 100)]
            for name, mean in zip(names, (0.2, 0.3, 0.1), strict=True)
        },
        [customers],
    )
    described = infos(names, models=2)
    told = {"recipe": {**described[1].recipe, "ranker": {"trees": 50}}, "chance_days": 7}
    described[1] = described[1].model_copy(update={**told, "unranked": [Unranked(at=START, why="too few")]})
    reasons = verdict(described, SETTING, found.lists, found.comparisons, found.candidates).reasons
    assert any("At 2024-05-06 als-ranked was judged without its ranker" in one for one in reasons)
    assert any(one.startswith("With and without the ranker") for one in reasons)


def test_nothing_is_said_where_nothing_lacks(tmp_path: Path) -> None:
    assert "without its ranker" not in text_of(render_report(results(tmp_path)))
