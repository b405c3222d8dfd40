"""``benchmark ranking``: the truth is the ceiling, true chances are calibrated, what is told was counted."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from eval.candidates import Candidates, score
from eval.evaluate import Window
from eval.parts import (
    ALL,
    EXISTING_CUSTOMERS,
    NEW_CUSTOMERS,
    NEW_PRODUCTS,
    OTHER_PRODUCTS,
    Pairs,
    part_scores,
    parts,
    spread,
)
from eval.scorecard import EQUAL_ENDS, calibration_bins, expected_calibration_error
from eval.world import World
from feature_repo import schema as s
from feature_repo.build import FeatureSet
from feature_repo.store import open_store
from feature_repo.tables import Tables
from serving.errors import ConfigError
from serving.features import FrameReader
from serving.recommender import Recommender
from serving.settings import Settings
from tests.builders import AS_OF, make_bundle
from tests.conftest import NOW, SMALL, small_config
from training.benchmarks import ranking as benchmark
from training.benchmarks.ranking import REHEARSAL, RESERVED, TRUTH, beside_truth, choose
from training.cli import main
from training.recipe import Recipe, TrainConfig

ROOT = Path(__file__).resolve().parents[1]
PART_NAMES = {ALL, NEW_CUSTOMERS, EXISTING_CUSTOMERS, NEW_PRODUCTS, OTHER_PRODUCTS}


class Foreteller:
    """A recommender that gives the chances it is told (customers, products), as one with a ranker would."""

    def __init__(self, chances: np.ndarray, *, days: int = 28) -> None:
        bundle = make_bundle()
        policy = SimpleNamespace(
            encoder=bundle.manifest.policy.encoder,
            chain=("personal", "popular"),
            ranker=SimpleNamespace(horizon_days=days),
        )
        self.bundle = replace(bundle, manifest=cast(Any, SimpleNamespace(policy=policy)))
        self.chances = chances

    def score(self, customer_ids: list[str], product_ids: list[str], at: object) -> np.ndarray:
        return self.chances.astype(np.float32)


def planted(bought: np.ndarray) -> Candidates:
    """All candidates of customers who are known, each bought or not (customers, products)."""
    n, m = bought.shape
    return Candidates(
        at=AS_OF,
        catalog=make_bundle().catalog,
        customers=[f"c{i}" for i in range(n)],
        buys=bought.any(axis=1),
        known=np.ones(n, dtype=bool),
        row_weight=np.ones(n),
        columns=np.arange(m, dtype=np.int32),
        column_weight=np.ones(m),
        bought=bought,
        owned=np.zeros_like(bought),
        population=(n, m),
    )


def window(before: list[tuple[str, str]], sold: set[str]) -> Window:
    earlier = pd.DataFrame(before, columns=[s.CUSTOMER_ID, s.PRODUCT_ID])
    return Window(AS_OF, earlier.iloc[:0], earlier, frozenset(sold))


def exactly(chances: np.ndarray) -> np.ndarray:
    """Purchases of which each column has just the share that its chance says."""
    share = np.arange(len(chances))[:, None] / len(chances)
    return np.asarray(share < chances - 1e-9)


@pytest.mark.parametrize("factor", [1.0, 3.0])
def test_chances_are_as_wrong_as_arithmetic_says(factor: float) -> None:
    # 1,000 customers; one column in ten has a chance of .2, the others of .02; bought by just so many
    column = np.where(np.arange(20) % 10 == 0, 0.2, 0.02)
    true = np.tile(column, (1000, 1))
    asked = planted(exactly(true))
    assert asked.bought.sum() == 2 * 200 + 18 * 20
    foreteller = cast(Recommender, Foreteller(true * factor))
    scored = score(foreteller, asked)
    assert scored.chance_days == 28
    told = part_scores(scored.across, asked, parts(asked, window([], set())), are_chances=True)[ALL]
    # times three: .06 where .02 are bought (nine of ten), .6 where .2 are; they lie in different bins of both kinds
    wrong = (0.9 * 0.02 + 0.1 * 0.2) * (factor - 1)
    assert told.ece == pytest.approx(wrong, abs=1e-7) and told.ece_fine == pytest.approx(wrong, abs=1e-7)
    assert told.expected == pytest.approx(factor, rel=1e-6)
    assert told.auc == pytest.approx(roc_auc_score(asked.bought.ravel(), true.ravel()))
    flat = (asked.bought.ravel(), (true * factor).ravel())
    assert told.logloss == pytest.approx(log_loss(*flat), rel=1e-5)
    floor = Pairs.of(asked, np.ones_like(asked.bought)).logloss_base_rate
    assert (told.logloss < floor) == (factor == 1.0)


def test_bins_of_equal_width() -> None:
    chances = np.array([[0.05, 0.1, 0.95, 1.0, 0.35]])
    bins = calibration_bins(
        chances, np.array([[False, True, True, True, False]]), np.ones((1, 5)), ends=EQUAL_ENDS
    )
    assert len(bins) == 10
    assert bins[:, 0].tolist() == [1, 1, 0, 1, 0, 0, 0, 0, 0, 2]
    assert expected_calibration_error(bins) == pytest.approx((0.05 + 0.9 + 0.35 + 0.05) / 5)


def test_parts_by_hand() -> None:
    bought = np.array([[True, False, False], [False, True, False], [False, False, True]])
    asked = replace(
        planted(bought),
        known=np.array([True, True, False]),
        row_weight=np.array([1.0, 4.0, 1.0]),
        column_weight=np.array([1.0, 1.0, 2.0]),
    )
    ids = asked.catalog.ids
    which = parts(asked, window([("c0", ids[0])], {ids[0], ids[2]}))
    assert {name: part.sum() for name, part in which.items()} == {
        ALL: 6,
        NEW_CUSTOMERS: 3,
        EXISTING_CUSTOMERS: 3,
        NEW_PRODUCTS: 2,
        OTHER_PRODUCTS: 4,
    }
    assert which[NEW_CUSTOMERS][1].all() and which[NEW_PRODUCTS][:2, 1].all()
    new = Pairs.of(asked, which[NEW_CUSTOMERS])  # four customers like c1, and of the last product two
    assert (new.pairs, new.purchases) == (16, 4) and new.base_rate == 0.25
    assert new.logloss_base_rate == pytest.approx(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75)))
    assert Pairs.of(asked, np.zeros_like(asked.bought)).to_json() == {"pairs": 0.0, "purchases": 0.0}
    scores = np.array([[0.9, 0.1, 0.2], [0.1, 0.5, 0.8], [0.0, 0.0, 0.0]])
    told = part_scores(scores, asked, which, are_chances=False)
    assert told[EXISTING_CUSTOMERS].auc == 1.0
    assert told[NEW_CUSTOMERS].auc == pytest.approx(1 / 3)  # above one pair, below one that stands for two
    assert told[NEW_CUSTOMERS].to_json() == {"auc": pytest.approx(1 / 3, rel=1e-5)}


def test_spread_over_worlds() -> None:
    told = spread([{"a": {"auc": 0.5}}, {"a": {"auc": 0.7, "ece": 0.01}}])
    assert told["a"]["auc"] == {
        "mean": 0.6,
        "sd": pytest.approx(0.141421),
        "least": 0.5,
        "most": 0.7,
        "worlds": 2,
    }
    assert told["a"]["ece"] == {"mean": 0.01, "sd": 0.0, "least": 0.01, "most": 0.01, "worlds": 1}


@pytest.fixture(scope="module")
def judged(world: World, world_tables: Path, features: tuple[Settings, FeatureSet]) -> dict[str, Any]:
    """The benchmark on the small shop that the tests share; its recipe has no chances."""
    config = small_config()
    with Tables.open(world_tables) as tables:
        return beside_truth(
            world.truth,
            tables,
            open_store(features[0].store),
            config=config,
            recipes=choose(config),
            now=NOW,
        )


def test_the_truth_is_the_ceiling(judged: dict[str, Any]) -> None:
    models = dict(judged["models"])
    known, inferred = (models.pop(name)[ALL] for name in TRUTH.values())
    assert known["auc"] > inferred["auc"]
    assert set(models) == {"als", "popularity", "popularity-28d", "repeats", "expert"}
    for name, by_part in models.items():
        assert set(by_part) == PART_NAMES
        assert by_part[ALL]["auc"] < inferred["auc"], name
        assert set(by_part[ALL]) == {"auc"}, "no chances, no calibration"
    assert models["als"][ALL]["auc"] > models["popularity"][ALL]["auc"] > 0.5
    for one in (known, inferred):
        assert one["ece"] < 0.002
        assert one["logloss"] < judged["pairs"][ALL]["logloss_base_rate"]


def test_what_is_judged_adds_up(judged: dict[str, Any]) -> None:
    pairs = judged["pairs"]
    for one, other in ((NEW_CUSTOMERS, EXISTING_CUSTOMERS), (NEW_PRODUCTS, OTHER_PRODUCTS)):
        for what in ("pairs", "purchases"):
            assert pairs[one][what] + pairs[other][what] == pairs[ALL][what]
    assert "all of them" in judged["candidates"]
    assert judged["chance_days"]["als"] is None


def test_a_ranker_of_another_horizon_is_not_held_against_the_window(
    world: World, world_tables: Path, features: tuple[Settings, FeatureSet], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two stand-ins for recipes with a ranker: chances of 28 days are judged, chances of 7 are only ranked by."""
    flat = np.float32(0.01)

    def stand_in(bundle: Any, reader: FrameReader) -> Recommender:
        told = Recommender(bundle, reader)
        days = {"als": 28, "popularity-28d": 7}.get(bundle.manifest.policy.model)
        if days is not None:
            policy = SimpleNamespace(
                encoder=bundle.manifest.policy.encoder,
                chain=("popular",),
                ranker=SimpleNamespace(horizon_days=days),
            )
            told.bundle = replace(bundle, manifest=cast(Any, SimpleNamespace(policy=policy)))
            told.score = lambda customers, products, at: np.full((len(customers), len(products)), flat)  # type: ignore[method-assign]
        return told

    monkeypatch.setattr(benchmark, "Recommender", stand_in)
    config = small_config()
    with Tables.open(world_tables) as tables:
        told = beside_truth(
            world.truth,
            tables,
            open_store(features[0].store),
            config=config,
            recipes=config.recipes[:2],
            now=NOW,
        )
    assert told["chance_days"] == {"als": 28, "popularity-28d": 7}
    rate = told["pairs"][ALL]["base_rate"]
    als = told["models"]["als"][ALL]
    assert als["auc"] == 0.5
    assert als["ece"] == als["ece_fine"] == pytest.approx(abs(0.01 - rate), rel=1e-4)
    assert als["logloss"] == pytest.approx(-rate * np.log(0.01) - (1 - rate) * np.log(0.99), rel=1e-4)
    assert set(told["models"]["popularity-28d"][ALL]) == {"auc"}


def test_which_recipes_are_judged() -> None:
    config = small_config()
    names = [recipe.name for recipe in choose(config)]
    assert names == ["als", "popularity", "popularity-28d", "repeats", "expert"]
    ranked = Recipe.model_validate({"name": "als-ranked", "model": "als"})
    more = config.model_copy(update={"recipes": (*config.recipes, ranked)})
    assert choose(more)[0].name == "als-ranked"
    assert [recipe.name for recipe in choose(more, ["als", "als-ranked", "als"])][:3] == [
        "als",
        "als-ranked",
        "popularity",
    ]
    with pytest.raises(ConfigError, match="found no 'bpr'"):
        choose(config, ["bpr"])
    with pytest.raises(ConfigError, match="only baselines"):
        choose(TrainConfig(recipes=config.recipes[1:]))
    assert choose(TrainConfig.default())[0].model == "als"


@pytest.mark.slow
def test_the_command_prints_each_world_and_the_spread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "small.toml"
    config.write_text(SMALL)
    words = ["--rehearse", "--seeds", "1", "--customers", "200", "--products", "50", "--config", str(config)]
    monkeypatch.setattr(sys, "argv", ["nextbest", "benchmark", "ranking", *words, "--recipe", "als"])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    (world,) = told["worlds"]
    assert world["seed"] == REHEARSAL[0]
    assert told["ten_bins"]["ece"] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert set(told["over_seeds"]["models"]) == set(world["models"]) > {"als", "expert", *TRUTH.values()}
    area = told["over_seeds"]["models"]["als"][ALL]["auc"]
    assert (area["mean"], area["worlds"]) == (world["models"]["als"][ALL]["auc"], 1)


def test_reserved_seeds_are_used_nowhere_else() -> None:
    assert len(set(RESERVED)) == 5 and not set(RESERVED) & set(REHEARSAL)
    own = ROOT / "training" / "benchmarks" / "ranking.py"
    for folder in ("feature_repo", "serving", "eval", "training", "tests"):
        for path in (ROOT / folder).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            found = [seed for seed in RESERVED if str(seed) in text]
            assert path == own or not found, path
