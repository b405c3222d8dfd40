"""How good and how true scores of candidates are, beside the truth of simulated shops that nothing was built on.

For each seed a shop with measures is simulated, recipes are fitted on all but the last weeks, and every pair of a
known customer and a product on sale is judged by whether it is bought in those weeks: by AUC, and where scores are
chances by logloss and calibration. New customers and new products are told apart.

The ceiling is the true chance of each pair, worked out from hidden tastes and habits (``eval.world_chance``): once
knowing when each customer leaves for good, and once inferring it from when they were last seen. It does not know
what measures foretell.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from eval.candidates import Candidates, score
from eval.evaluate import Window
from eval.parts import Pairs, PartScore, part_scores, parts, spread
from eval.scorecard import BIN_ENDS, EQUAL_ENDS
from eval.slices import Facts
from eval.world import Truth, WorldConfig, simulate
from eval.world_chance import Alive, chances, last_seen
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.tables import Tables
from serving.errors import ConfigError
from serving.recommender import Recommender
from serving.settings import Settings
from training.assemble import assemble
from training.dataset import TrainingSet
from training.models.registry import BASELINES
from training.recipe import Recipe, TrainConfig
from training.rolling import with_baselines
from training.train import build_features, last_split

if TYPE_CHECKING:
    from feast import FeatureStore

Progress = Callable[[str, int, int], None]

#: Of this benchmark alone: no shop of these seeds may be looked at while anything is built or tuned.
RESERVED: Final = (4201, 4202, 4203, 4204, 4205)
#: To try the benchmark itself, and what it judges, as often as one likes.
REHEARSAL: Final = (4101, 4102, 4103, 4104, 4105)
TRUTH: Final[dict[Alive, str]] = {
    "known": "truth, knowing who leaves",
    "inferred": "truth, inferring who has left",
}
_FIRST: Final = "als-ranked"


def choose(config: TrainConfig, names: Sequence[str] = ()) -> list[Recipe]:
    """Return the recipes to judge, and after them the baselines that are not among them.

    Parameters
    ----------
    config
        Holds the recipes.
    names
        Which of them; by default ``als-ranked`` where there is one, else the first that is no baseline.

    Raises
    ------
    ConfigError
        A name is not in the configuration, or it has only baselines.
    """
    held = {recipe.name: recipe for recipe in config.recipes}
    models = [recipe.name for recipe in config.recipes if recipe.model not in BASELINES]
    unknown = [name for name in names if name not in held]
    if unknown or not (names or models):
        found = f"no {unknown[0]!r}" if unknown else "only baselines"
        raise ConfigError(
            f"expected recipes to judge among {', '.join(held)}, found {found}; name others with --recipe or "
            "give another --config"
        )
    chosen = names or [_FIRST if _FIRST in models else models[0]]
    return with_baselines([held[name] for name in dict.fromkeys(chosen)])


def ranking(
    seeds: Sequence[int],
    *,
    customers: int,
    products: int,
    config: TrainConfig,
    recipes: Sequence[Recipe],
    now: datetime,
    months: int = 18,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark.

    Parameters
    ----------
    seeds
        Of the shops; see ``RESERVED``.
    customers, products, months
        Their size.
    config
        Its ``horizon_days`` are the window that judges; its seed and threads are those of the fits.
    recipes
        What is judged; see ``choose``.
    now
        When it is made.
    progress
        Called with (what, done, all).

    Returns
    -------
    dict
        ``worlds``, one a seed: what there is in each part of the candidates, and how each model did in it;
        ``over_seeds``: mean, standard deviation, least and most of every figure.
    """
    steps = len(seeds) * (len(recipes) + 2)
    done = 0

    def step() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress("simulate, fit and judge", done, steps)

    worlds = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="nextbest-ranking-") as directory:
            world = WorldConfig(customers=customers, products=products, months=months, seed=seed)
            worlds.append(_run(world, Path(directory), config, recipes, now=now, step=step))
    return {
        "customers": customers,
        "products": products,
        "horizon_days": config.horizon_days,
        "ten_bins": {"ece": list(EQUAL_ENDS), "ece_fine": list(BIN_ENDS)},
        "over_seeds": {
            "pairs": spread([world["pairs"] for world in worlds]),
            "models": spread([world["models"] for world in worlds]),
        },
        "worlds": worlds,
    }


def _run(
    world_config: WorldConfig,
    directory: Path,
    config: TrainConfig,
    recipes: Sequence[Recipe],
    *,
    now: datetime,
    step: Callable[[], None],
) -> dict[str, Any]:
    world = simulate(world_config)
    world.write(directory / "tables", truth_dir=directory / "truth")
    settings = Settings.load(home=directory / "home")
    with Tables.open(directory / "tables") as tables:
        build_features(settings, tables)
        step()
        judged = beside_truth(
            world.truth,
            tables,
            feature_store.open_store(settings.store),
            config=config,
            recipes=recipes,
            now=now,
            step=step,
        )
    return {"seed": world_config.seed, **judged}


def beside_truth(
    truth: Truth,
    tables: Tables,
    store: FeatureStore,
    *,
    config: TrainConfig,
    recipes: Sequence[Recipe],
    now: datetime,
    step: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Judge recipes and the truth itself on the last ``horizon_days`` of a simulated shop.

    Parameters
    ----------
    truth, tables, store
        The shop, and the store with its features.
    config, recipes, now
        As in ``ranking``.
    step
        Called after the truth, and after each recipe.
    """
    days = config.horizon_days
    split = last_split(tables, days)
    at, end = split.validation_end, split.test_end
    interactions = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
    window = Window.cut(interactions, at=at, end=end)
    known = Facts.of(tables).known(at)
    buyers = window.purchases[s.CUSTOMER_ID].unique().tolist()
    data = TrainingSet.load(tables, store, at, also=[*known, *buyers])
    # everybody is asked about; products are drawn only where the table would be too large
    everybody = len(truth.customers)
    asked = Candidates.draw(window, data.catalog, known, buyers=everybody, others=everybody)
    which = parts(asked, window)
    ids = [data.catalog.ids[column] for column in asked.columns]
    seen = last_seen(interactions, at=at)
    models: dict[str, dict[str, PartScore]] = {}
    for alive, name in TRUTH.items():
        true = chances(truth, asked.customers, ids, at=at, days=days, seen=seen, alive=alive)
        models[name] = part_scores(true, asked, which, are_chances=True)
    step()
    chance_days: dict[str, int | None] = {}
    for recipe in recipes:
        bundle = assemble(recipe, data, seed=config.seed, threads=config.threads, tables_hash="", now=now)
        scored = score(Recommender(bundle, data.reader), asked)
        chance_days[recipe.name] = scored.chance_days
        models[recipe.name] = part_scores(scored.across, asked, which, are_chances=scored.chance_days == days)
        step()
    return {
        "at": at.isoformat(),
        "end": end.isoformat(),
        "candidates": asked.told,
        "chance_days": chance_days,
        "pairs": {name: Pairs.of(asked, part).to_json() for name, part in which.items()},
        "models": {
            name: {part: one.to_json() for part, one in by_part.items()} for name, by_part in models.items()
        },
    }
