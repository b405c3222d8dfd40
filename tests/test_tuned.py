"""``tune``: Optuna's trials survive, are repeatable, never see the gate's window, and come back out of the TOML."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import optuna
import pandas as pd
import pytest

from feature_repo import schema as s
from feature_repo.tables import Tables
from serving.errors import ConfigError, DataError, HomeBusy
from tests.conftest import NOW
from tests.tiny_shop import Shop
from training.cli import main
from training.recipe import Recipe, TrainConfig
from training.search import Field, Point, Search, distribution
from training.spaces import DATED, SPACES, axes_of
from training.train import current_features, last_split, one_job
from training.tune import Axis, setting
from training.tuned import Found, Tuning, to_toml, tune, write

START = """
horizon_days = 14
k = 10
threads = 1
seed = 3
[[recipes]]
name = "knn"
model = "knn"
[recipes.knn]
neighbours = 20
[[recipes]]
name = "spectral"
model = "spectral"
popularity_days = 0
[recipes.spectral]
factors = 8
[[recipes]]
name = "repeats"
model = "repeats"
"""


@pytest.fixture(scope="module")
def field(ready: Shop) -> Field:
    return field_of(ready)


@pytest.fixture
def shop(ready: Shop, tmp_path: Path) -> Shop:
    return ready.copy(tmp_path)


def start() -> TrainConfig:
    return TrainConfig.parse(START, "start.toml")


def field_of(shop: Shop) -> Field:
    with Tables.open(shop.tables) as tables:
        current_features(shop.settings, tables)
        return Field.load(shop.settings, tables, start(), now=NOW)


def hill(recipe: Recipe) -> float:
    """A score with its top at product_exponent .3 and neighbours 100; no customer exponent above .5 can be fitted."""
    if recipe.knn.customer_exponent > 0.5:
        raise ConfigError("expected less, found more")
    far = (recipe.knn.product_exponent - 0.3) ** 2 + (np.log(recipe.knn.neighbours / 100) / 10) ** 2
    return float(1 - far)


def told(points: list[Point]) -> list[tuple[Recipe, float, str]]:
    return [(point.recipe, point.score, point.why) for point in points]


# --- the space


@pytest.mark.parametrize("model", SPACES)
def test_the_space_is_that_of_the_benchmark_and_holds_the_start(model: str) -> None:
    recipe = Recipe.model_validate({"name": "r", "model": model})
    axes = axes_of(recipe)
    assert axes == (*SPACES[model][1], *DATED[model])
    for axis in axes:
        held = setting(getattr(recipe, model), axis.path)
        space = distribution(axis, held)
        for value in (held, *axis.values):
            assert space._contains(space.to_internal_repr(value))


def test_ranges_end_where_the_axes_end() -> None:
    assert distribution(Axis("a", (1, 2, 4, 8)), 2) == optuna.distributions.IntDistribution(1, 8, log=True)
    assert distribution(Axis("a", (0.2, 0.6)), 0.9) == optuna.distributions.FloatDistribution(0.2, 0.9)
    assert distribution(Axis("a", (0.0, 16.0)), 1.0) == optuna.distributions.FloatDistribution(0.0, 16.0)
    assert distribution(Axis("a", ("x", "y")), "z") == optuna.distributions.CategoricalDistribution(
        ("x", "y", "z")
    )


def test_a_blend_is_searched_by_its_weights_and_a_baseline_not_at_all() -> None:
    blend = Recipe.model_validate(
        {"name": "b", "model": "blend", "blend": {"weights": {"als": 1, "spectral": 0.5, "bpr": 1}}}
    )
    assert [axis.path for axis in axes_of(blend)] == ["weights.spectral", "weights.bpr"]
    assert axes_of(Recipe(name="p", model="popularity")) == ()


# --- the search


def test_it_begins_at_the_recipe_climbs_and_counts_what_cannot_be_fitted(
    field: Field, tmp_path: Path
) -> None:
    search = Search(tmp_path / "s.db", start().recipes[0], field)
    for _ in range(40):
        search.step(hill)
    points = search.points()
    assert points[0].recipe == start().recipes[0], "to the last digit"
    found = Found.of(points)
    assert found.best.score == max(point.score for point in points)
    assert 1 - found.best.score < 0.002 < 1 - found.start.score
    scores = [point.score for point in points]
    assert np.mean(scores[20:]) > np.mean(scores[1:11]), (
        "after ten points at random it has learnt where to look"
    )
    failed = [point for point in points if point.why]
    assert failed and all(point.score == 0 and point.recipe.knn.customer_exponent > 0.5 for point in failed)


def test_killed_and_gone_on_with_no_trial_is_lost_and_the_rest_is_the_same(
    field: Field, tmp_path: Path
) -> None:
    """Killed within a trial, before the first and later on; the sampler goes on as if nothing had been."""

    class Killed(BaseException):
        pass

    def killed(recipe: Recipe) -> float:
        raise Killed

    recipe = start().recipes[0]
    whole = Search(tmp_path / "whole.db", recipe, field)
    for _ in range(18):
        whole.step(hill)
    for steps in (0, 1, 11, 6):
        search = Search(tmp_path / "cut.db", recipe, field)
        before = told(search.points())
        for _ in range(steps):
            search.step(hill)
        assert told(search.points())[: len(before)] == before
        with pytest.raises(Killed):
            search.step(killed)
    assert told(Search(tmp_path / "cut.db", recipe, field).points()) == told(whole.points())
    other = Search(tmp_path / "cut.db", recipe.model_copy(update={"popularity_days": 7}), field)
    assert other.points() == [], "of another start"


def test_nothing_of_the_gates_window_is_seen(ready: Shop, field: Field, tmp_path: Path) -> None:
    """Other purchases in the last weeks change no score; others in the weeks before do."""
    recipe = start().recipes[0]
    with Tables.open(ready.tables) as tables:
        split = last_split(tables, 14)
    assert (field.window.at, field.until) == (split.train_end, split.validation_end)

    def score(name: str, begin: pd.Timestamp, end: pd.Timestamp) -> float:
        other = ready.copy(tmp_path / name)
        path = other.tables / "interactions.parquet"
        rows = pd.read_parquet(path)
        inside = (rows[s.AT] >= begin) & (rows[s.AT] < end)
        assert inside.sum() > 20
        ids = rows.loc[inside, s.PRODUCT_ID].to_numpy()
        rows.loc[inside, s.PRODUCT_ID] = np.random.default_rng(0).permutation(ids)
        rows.to_parquet(path, index=False)
        return field_of(other).judge(recipe)

    plain = field.judge(recipe)
    assert plain > 0
    gates = (pd.Timestamp(split.validation_end), pd.Timestamp(split.test_end))
    assert score("gates", *gates) == plain
    assert score("validation", pd.Timestamp(split.train_end), gates[0]) != plain


# --- the whole


def test_the_toml_gives_back_the_best_recipes(shop: Shop, tmp_path: Path) -> None:
    found = tune(shop.settings, shop.tables, start(), minutes=60, trials=4, now=NOW)
    assert [len(one.points) for one in found.found] == [4, 4]
    path = tmp_path / "tuned.toml"
    write(found, path)
    back = TrainConfig.read(path)
    assert back == found.config
    best = {one.best.recipe.name: one.best.recipe for one in found.found}
    assert {recipe.name: recipe for recipe in back.recipes} == {**best, "repeats": start().recipes[2]}
    assert (back.seed, back.horizon_days, back.k, back.threads) == (3, 14, 10, 1)
    text = path.read_text()
    for words in (found.described["tables_hash"], found.described["judged_until"], "NDCG@10", "seed: 3"):
        assert words in text
    for one in found.found:
        assert field_of(shop).judge(one.best.recipe) == pytest.approx(one.best.score, abs=1e-12)
    again = tune(shop.settings, shop.tables, start(), minutes=60, trials=4, now=NOW)
    assert again.found == found.found, "all trials were there"
    write(again, path)
    assert path.read_text() == text
    path.write_text("seed = 1\n")
    with pytest.raises(ConfigError, match="--to"):
        write(again, path)


def test_every_model_survives_the_toml(field: Field) -> None:
    """Settings of every kind, and of a blend with its parts."""
    every = TrainConfig.shipped("all.toml")
    described = field.described()
    assert TrainConfig.parse(to_toml(Tuning((), described, every)), "t") == every
    moved = Recipe.model_validate(
        {
            "name": "a",
            "model": "als",
            "popularity_days": None,
            "als": {"confidence": {"alpha": 1e-5}},
            "knn": {"b": 0.1},
        }
    )
    config = every.model_copy(update={"recipes": (moved,)})
    assert TrainConfig.parse(to_toml(Tuning((), described, config)), "t") == config


def test_time_is_shared_and_that_of_earlier_calls_counts(shop: Shop) -> None:
    found = tune(shop.settings, shop.tables, start(), minutes=0.0, now=NOW)
    assert [len(one.points) for one in found.found] == [1, 1], "where each begins, whatever the time"
    found = tune(shop.settings, shop.tables, start(), minutes=0.01, now=NOW)
    spent = {one.best.recipe.name: [point.seconds for point in one.points] for one in found.found}
    for seconds in spent.values():
        assert sum(seconds) >= 0.3 > sum(seconds[:-1]), "half of 0.6 seconds each, and no trial cut short"
    again = tune(shop.settings, shop.tables, start(), minutes=0.01, now=NOW)
    assert again.found == found.found


def test_what_cannot_be_searched_is_told(shop: Shop) -> None:
    with pytest.raises(ConfigError, match=r"\(knn, spectral\), found 'repeats'"):
        tune(shop.settings, shop.tables, start(), recipes=["repeats"], minutes=1, now=NOW)
    baselines = start().model_copy(update={"recipes": start().recipes[2:]})
    with pytest.raises(ConfigError, match="baselines only"):
        tune(shop.settings, shop.tables, baselines, minutes=1, now=NOW)
    long = start().model_copy(update={"horizon_days": 200})
    with pytest.raises(DataError, match="longer history"):
        tune(shop.settings, shop.tables, long, minutes=1, now=NOW)
    with one_job(shop.settings, "tune"), pytest.raises(HomeBusy):
        tune(shop.settings, shop.tables, start(), minutes=1, now=NOW)
    with pytest.raises(DataError, match="expected less, found more"):
        Found.of([Point(start().recipes[0], 0.0, 1.0, "expected less, found more")])


def test_others_may_work_on_the_home_while_it_searches(shop: Shop) -> None:
    free: list[bool] = []

    def look(what: str, done: int, total: int) -> None:
        if what.startswith("tune "):
            with one_job(shop.settings):
                free.append(True)

    tune(shop.settings, shop.tables, start(), recipes=["knn"], minutes=9, trials=2, now=NOW, progress=look)
    assert free == [True, True]


def test_the_command(shop: Shop, tmp_path: Path, run: Callable[..., tuple[int, str, str]]) -> None:
    config, to = tmp_path / "start.toml", tmp_path / "out" / "tuned.toml"
    config.write_text(START)
    code, out, err = run(
        "tune", shop.tables, "--config", config, "--recipe", "knn", "--trials", 2, "--to", to
    )
    assert code == 0, err
    assert f"nextbest train {shop.tables} --config {to}" in out
    told = json.loads(
        run("tune", shop.tables, "--config", config, "--recipe", "knn", "--trials", 2, "--json")[1]
    )
    assert told["recipes"][0]["trials"] == 2 and told["config"] == str(shop.settings.tuning / "tuned.toml")
    assert TrainConfig.read(to) == TrainConfig.read(Path(told["config"]))
    assert json.loads(run("train", shop.tables, "--config", to, "--json")[1])["published"]
    for words in (
        ["--minutes", "-1"],
        ["--trials", "0"],
        ["--recipe", "nobody"],
        ["--config", "nowhere.toml"],
    ):
        code, out, err = run("tune", shop.tables, *words)
        assert code == 2 and "Traceback" not in err


def test_where_nothing_can_be_written_no_search_begins(
    shop: Shop, tmp_path: Path, run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun(*args: object, **given: object) -> None:
        raise AssertionError("a search began")

    monkeypatch.setattr("training.tuned.tune", begun)
    other = tmp_path / "mine.toml"
    other.write_text("k = 10\n")
    for to, told in ((other, "found another"), (other / "tuned.toml", "expected a place to write to")):
        code, _, err = run("tune", shop.tables, "--to", to)
        assert code == 2 and told in err and "choose another --to" in err
    assert [path.name for path in tmp_path.iterdir() if "tuned" in path.name] == []


@pytest.fixture
def run(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    monkeypatch.setenv("NEXTBEST_HOME", str(shop.settings.home))

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nextbest", *map(str, words)])
        code = 0
        try:
            main()
        except SystemExit as stopped:
            code = int(stopped.code or 0)
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
