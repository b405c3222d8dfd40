"""Rolling evaluation of a small shop: no origin sees later rows, and an interrupted run ends the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval.evaluate import ALL
from eval.metrics import HR, NDCG
from eval.results import Results
from eval.rolling import POLICY, SHOWN, Judged
from eval.slices import Facts
from eval.split import Origin, rolling_origins
from eval.world import WorldConfig, simulate
from feature_repo import schema as s
from feature_repo.store import open_store
from feature_repo.tables import Tables, write_tables
from serving.errors import DataError
from serving.settings import Settings
from tests.conftest import NOW, small_config
from training import judging
from training.judging import Judge, Kept
from training.recipe import Recipe
from training.rolling import Plan, roll, with_baselines, with_buyers
from training.train import build_features, current_features

PLAN = Plan(count=3, every_days=7, horizon_days=21, k=10)
WEEKS = {"every": timedelta(days=7), "horizon": timedelta(days=21)}


def frames(directory: Path) -> dict[str, pd.DataFrame]:
    with Tables.open(directory) as tables:
        return {name: tables.frame(name) for name in s.TABLES if tables.has(name)}


def judged_at(directory: Path, home: Path, origin: Origin) -> dict[str, Judged]:
    """Build the features of tables and judge at an origin, from scratch."""
    settings = Settings.load(home=home)
    with Tables.open(directory) as tables:
        build_features(settings, tables)
        judge = Judge(
            tables=tables,
            store=open_store(settings.store),
            kept=Kept(settings.reports / "kept", tables_hash=tables.hash()),
            facts=Facts.of(tables),
            interactions=tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND]),
            k=10,
            seed=0,
            threads=1,
            now=NOW,
        )
        return judge.at(origin, with_baselines(small_config().recipes), lambda: None)[1]


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tables of a shop of 200 customers and four months."""
    root = tmp_path_factory.mktemp("shop")
    config = WorldConfig(customers=200, products=60, months=4, seed=5)
    simulate(config).write(root / "tables", truth_dir=root / "truth")
    return root / "tables"


@dataclass(frozen=True)
class Planted:
    """What came of one origin with the shop as it is, and with rows planted later."""

    as_it_is: dict[str, Judged]
    after_the_window: dict[str, Judged]
    inside_it: dict[str, Judged]
    home: Path


@pytest.fixture(scope="module")
def planted(shop: Path, tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """Two weeks before the end of the data one customer buys everything, later or in the window that judges."""
    root = tmp_path_factory.mktemp("planted")
    tables = frames(shop)
    at = tables[s.INTERACTIONS][s.AT]
    origin = rolling_origins(at, count=3, **WEEKS)[0]
    found = {"as_it_is": judged_at(shop, root / "home", origin)}
    last: datetime = at.max().to_pydatetime(warn=False)
    assert last > origin.end
    for name, when in (("after_the_window", last), ("inside_it", origin.at + timedelta(hours=1))):
        products = tables[s.PRODUCTS][s.PRODUCT_ID].unique()
        customers = tables[s.INTERACTIONS][s.CUSTOMER_ID].dropna().unique()[:40]
        pairs = pd.MultiIndex.from_product([customers, products], names=[s.CUSTOMER_ID, s.PRODUCT_ID])
        rows = pairs.to_frame(index=False).assign(
            **{s.AT: pd.Timestamp(when), s.KIND: s.PURCHASE, s.VALUE: 9.0}
        )
        more = pd.concat([tables[s.INTERACTIONS], rows], ignore_index=True)
        write_tables({**tables, s.INTERACTIONS: more}, root / name)
        found[name] = judged_at(root / name, root / f"home-{name}", origin)
    shutil.rmtree(root / "home" / "reports")
    return Planted(**found, home=root / "home")


def test_rows_after_the_window_change_nothing(planted: Planted) -> None:
    assert planted.as_it_is.keys() == {"als", "popularity-28d", "repeats", "popularity", "expert"}
    for name, one in planted.as_it_is.items():
        other = planted.after_the_window[name]
        pd.testing.assert_frame_equal(one.lists, other.lists)
        pd.testing.assert_frame_equal(one.rows, other.rows)
        timeless = [{k: v for k, v in j.facts.items() if not k.endswith("_seconds")} for j in (one, other)]
        assert timeless[0] == timeless[1]


def test_rows_inside_the_window_are_judged_by_and_never_seen(planted: Planted) -> None:
    for name, one in planted.as_it_is.items():
        other = planted.inside_it[name]
        keys = [POLICY, s.CUSTOMER_ID]
        both = one.lists.merge(other.lists, on=keys, suffixes=("", "_planted"))
        assert len(both) == len(one.lists)
        assert [list(shown) for shown in both[SHOWN]] == [list(shown) for shown in both[f"{SHOWN}_planted"]]
        assert other.lists[HR].mean() > one.lists[HR].mean()  # who buys everything buys what is shown


def test_expert_shows_the_best_sellers_of_the_favourite_category(planted: Planted, shop: Path) -> None:
    tables = frames(shop)
    rows = tables[s.INTERACTIONS]
    origin = rolling_origins(rows[s.AT], count=3, **WEEKS)[0]
    category = tables[s.PRODUCTS].drop_duplicates(s.PRODUCT_ID).set_index(s.PRODUCT_ID)[s.CATEGORY]
    bought = rows[(rows[s.KIND] == s.PURCHASE) & (rows[s.AT] < origin.at)]
    lately = bought[bought[s.AT] >= pd.Timestamp(origin.at - timedelta(days=28))]
    sales = lately[s.PRODUCT_ID].value_counts()
    # segments are those of the newest weekly snapshot, on a Monday
    monday = pd.Timestamp(origin.at).floor("D") - pd.Timedelta(days=origin.at.weekday())
    own = bought[bought[s.AT] < monday].assign(category=lambda frame: frame[s.PRODUCT_ID].map(category))
    told = planted.as_it_is["expert"].lists
    shown = told[told[POLICY] == "allow"].set_index(s.CUSTOMER_ID)[SHOWN]
    checked = 0
    for customer, products in shown.items():
        lines = own.loc[own[s.CUSTOMER_ID] == customer, "category"].value_counts()
        if len(lines) < 1 or (len(lines) > 1 and lines.iloc[0] == lines.iloc[1]):
            continue  # nobody's favourite can be told
        is_favourite = [category[product] == lines.index[0] for product in products]
        first = is_favourite.index(False) if False in is_favourite else len(products)
        counts = [int(sales.get(product, 0)) for product in products]
        assert first > 0
        assert counts[:first] == sorted(counts[:first], reverse=True)
        assert counts[first:] == sorted(counts[first:], reverse=True)
        # after the first of another category come only those of the favourite one that nobody bought lately
        assert not any(f and c for f, c in zip(is_favourite[first:], counts[first:], strict=True))
        checked += 1
    assert checked >= 10


@pytest.fixture(scope="module")
def home(planted: Planted) -> Settings:
    """A home with features of the shop as it is."""
    return Settings.load(home=planted.home)


def rolled(home: Settings, tables: Path, progress: Callable[[str, int, int], None] | None = None) -> Results:
    return roll(home, tables, small_config(), PLAN, command="nextbest evaluate", now=NOW, progress=progress)


@pytest.fixture(scope="module")
def results(home: Settings, shop: Path) -> Results:
    return rolled(home, shop)


def timeless(results: Results) -> dict[str, object]:
    told = results.model_dump(mode="json", exclude={"run"})
    for recipe in told["recipes"]:
        recipe["fit_seconds"] = recipe["judge_seconds"] = 0
    return dict(told)


def test_an_interrupted_run_goes_on_and_ends_the_same(
    results: Results, home: Settings, shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "home"
    shutil.copytree(home.home, copied, ignore=shutil.ignore_patterns("reports"))
    own = Settings.load(home=copied)
    fitted: list[tuple[str, datetime]] = []
    assemble = judging.assemble

    def counted(recipe: Recipe, data: judging.TrainingSet, **options: object) -> object:
        fitted.append((recipe.name, data.as_of))
        return assemble(recipe, data, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(judging, "assemble", counted)

    def stop(what: str, done: int, total: int) -> None:
        if what == "fit and judge" and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rolled(own, shop, stop)
    assert len(fitted) == 7
    units = sorted(path for path in (own.reports / "kept").glob("*/*") if path.is_dir())
    (units[3] / "facts.json").write_text('{"half')  # as a crash of the disk would leave it
    steps: list[tuple[int, int]] = []
    again = rolled(
        own, shop, lambda what, done, total: steps.append((done, total)) if "fit" in what else None
    )
    assert len(fitted) == 7 + 1 + 8  # the damaged one anew, and those that were missing of 15
    assert steps[-1] == (15, 15)
    assert timeless(again) == timeless(results)
    fitted.clear()
    assert timeless(rolled(own, shop)) == timeless(results)
    assert not fitted


def test_results_hold_what_they_say(results: Results) -> None:
    assert [recipe.name for recipe in results.recipes] == [
        "als",
        "popularity-28d",
        "repeats",
        "popularity",
        "expert",
    ]
    assert [recipe.baseline for recipe in results.recipes] == [False, True, True, True, True]
    assert len(results.origins) == 3
    assert all(b.at - a.at == timedelta(days=7) for a, b in pairwise(results.origins))
    assert all(one.end - one.at == timedelta(days=21) for one in results.origins)
    assert results.policies == ["exclude", "allow"]
    for policy in results.policies:
        whole = [row for row in results.lists if row.purchased == policy and row.dimension == ALL]
        assert len(whole) == 5 * (1 + 3)  # pooled, and at each origin
        by_origin = [row for row in whole if row.recipe == "als" and row.at is not None]
        pooled = results.score("als", policy)
        assert pooled is not None and pooled.rows == sum(row.rows for row in by_origin)
        mean = sum(row.rows * row.metrics[NDCG].mean for row in by_origin) / pooled.rows
        assert pooled.metrics[NDCG].mean == pytest.approx(mean, abs=1e-5)
        repeats = results.score("repeats", policy)
        assert repeats is not None
        assert (repeats.metrics["repeats_shown"].mean > 0) == (policy == "allow")
    assert len({(row.better, row.worse) for row in results.comparisons}) >= 10
    assert all(row.difference.mean >= 0 and row.p_holm >= row.p for row in results.comparisons)
    assert {row.multiple.mean for row in results.success if row.recipe == "expert" and row.multiple} == {1.0}
    assert not results.calibration and not any(row.logloss for row in results.candidates)
    assert results.verdict.winner in {recipe.name for recipe in results.recipes}
    assert {row.dimension for row in results.lists} >= {
        "customers",
        "days with a purchase",
        "favourite category",
    }
    assert results.examples and all(len(example.shown) == 5 for example in results.examples)
    names = [product.name for example in results.examples for product in example.shown["als"]]
    assert names and not any(name.startswith("p0") for name in names)  # names, not ids


def test_results_are_read_as_written_and_others_refused(results: Results, tmp_path: Path) -> None:
    path = results.write(tmp_path)
    assert Results.read(path) == results
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "schema_version": 2}))
    with pytest.raises(DataError, match="nextbest evaluate"):
        Results.read(path)
    path.write_text(json.dumps({**told, "surprise": 1}))
    with pytest.raises(DataError, match="schema 1"):
        Results.read(path)


def test_drift_beside_the_previous_results(results: Results, home: Settings, shop: Path) -> None:
    earlier = results.model_copy(
        update={"run": results.run.model_copy(update={"made_at": NOW - timedelta(days=7)})}
    )
    earlier.write(home.reports / "evaluate-earlier")
    try:
        found = rolled(home, shop).drift
    finally:
        shutil.rmtree(home.reports / "evaluate-earlier")
    assert results.drift is None
    assert found is not None and found.previous == "evaluate-earlier" and found.same_tables
    assert found.metrics and all(delta.then == delta.now for delta in found.metrics)
    assert len(found.shifts) > 20
    assert {(shift.psi, shift.verdict) for shift in found.shifts} == {(0.0, "stable")}


def test_baselines_are_added_once() -> None:
    def recipe(name: str, model: str, **more: object) -> Recipe:
        return Recipe.model_validate({"name": name, "model": model, **more})

    names: Callable[[Sequence[Recipe]], list[str]] = lambda found: [one.name for one in found]  # noqa: E731
    every = ["popularity", "popularity-28d", "repeats", "expert"]
    assert names(with_baselines([recipe("als", "als")])) == ["als", *every]
    own = [
        recipe("mine", "popularity", popularity_days=0),
        recipe("again", "repeats"),
        recipe("expert", "als"),
    ]
    found = with_baselines(own)
    assert names(found) == ["mine", "again", "expert", "popularity-28d", "expert (baseline)"]
    assert names(with_baselines(found)) == names(found)


def test_a_shop_without_purchases_in_the_windows_is_refused(shop: Path, tmp_path: Path) -> None:
    tables = frames(shop)
    rows = tables[s.INTERACTIONS]
    late = rows[s.AT] > rows[s.AT].max() - pd.Timedelta(days=50)
    rows[s.KIND] = np.where(late, s.VIEW, rows[s.KIND])
    write_tables({**tables, s.INTERACTIONS: rows}, tmp_path / "tables")
    with pytest.raises(DataError, match="there is nothing to judge by"):
        roll(
            Settings.load(home=tmp_path / "home"),
            tmp_path / "tables",
            small_config(),
            PLAN,
            command="",
            now=NOW,
        )


@pytest.mark.slow
def test_an_origin_before_a_gap_is_left_out_and_a_short_history_told(
    shop: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The week before the last has one buyer, who buys twice; baselines alone have no scores that drift."""
    tables = frames(shop)
    rows = tables[s.INTERACTIONS]
    (origin, _) = rolling_origins(rows[s.AT], count=2, every=timedelta(days=7), horizon=timedelta(days=7))
    gap = (rows[s.AT] >= origin.at) & (rows[s.AT] < origin.end)
    bought = rows[gap & (rows[s.KIND] == s.PURCHASE) & rows[s.CUSTOMER_ID].notna()].drop_duplicates(
        s.PRODUCT_ID
    )
    twice = bought.head(2).assign(**{s.CUSTOMER_ID: bought[s.CUSTOMER_ID].iloc[0]})
    write_tables({**tables, s.INTERACTIONS: pd.concat([rows[~gap], twice])}, tmp_path / "tables")
    with Tables.open(tmp_path / "tables") as opened:
        facts = Facts.of(opened)
    with pytest.raises(DataError, match=rf"{origin.at:%Y-%m-%d}: 1 known customer bought.*longer --horizon"):
        with_buyers([origin], facts)
    config = small_config().model_copy(update={"recipes": small_config().recipes[1:2]})
    plan = Plan(count=90, every_days=7, horizon_days=7, k=5)
    found = roll(
        Settings.load(home=tmp_path / "home"), tmp_path / "tables", config, plan, command="", now=NOW
    )
    assert [(one.at, one.customers, one.purchases) for one in found.skipped] == [(origin.at, 1, 2)]
    assert origin.at not in [one.at for one in found.origins]
    room = len(found.origins) + 1
    assert 2 < room < 90
    assert f"{room} of 90 origins: the history has no more" in caplog.text
    assert f"{origin.at:%Y-%m-%d} is left out: 1 known customer bought in the 7 days after it" in caplog.text


def test_features_are_not_built_anew(results: Results, home: Settings, shop: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.features.rglob("*.parquet")}
    with Tables.open(shop) as tables:
        current_features(home, tables)
    assert {path: path.stat().st_mtime_ns for path in home.features.rglob("*.parquet")} == before
