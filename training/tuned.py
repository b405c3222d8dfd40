"""``tune``: searches for the best settings of recipes within a time, and the TOML file that reproduces what they found.

The time is shared: the search that has had least goes on. It counts what earlier calls on the same data took, so a call
that was killed is repeated as it was, and more time means a larger number.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import tomli_w

from feature_repo.tables import Tables
from serving.errors import ConfigError, DataError
from serving.settings import Settings
from training.models.configs import Config
from training.recipe import Recipe, TrainConfig
from training.search import Field, Point, Search
from training.spaces import axes_of
from training.train import current_features, one_job

Progress = Callable[[str, int, int], None]

_WRITTEN: Final = "# Written by `nextbest tune`"


@dataclass(frozen=True)
class Found:
    """What came of one search: the point where it began, the best one, and all in order."""

    start: Point
    best: Point
    points: tuple[Point, ...]

    @classmethod
    def of(cls, points: Sequence[Point]) -> Found:
        """Choose the best of points, the earliest of equal ones.

        Raises
        ------
        DataError
            None could be fitted.
        """
        best = max(points, key=lambda point: (not point.why, point.score))
        if best.why:
            raise DataError(f"expected a point that can be fitted, found none of {len(points)}: {best.why}")
        return cls(points[0], best, tuple(points))

    def to_json(self) -> dict[str, Any]:
        """Return the search as JSON values."""
        return {
            "recipe": self.best.recipe.name,
            "trials": len(self.points),
            "failed": sum(bool(point.why) for point in self.points),
            "seconds": round(sum(point.seconds for point in self.points), 1),
            "start": round(self.start.score, 5),
            "best": round(self.best.score, 5),
            "best_trial": self.points.index(self.best) + 1,
            "settings": _settings(self.best.recipe),
        }


@dataclass(frozen=True)
class Tuning:
    """What a call found: for each recipe, on which data and window, and the configuration that it comes to."""

    found: tuple[Found, ...]
    described: dict[str, Any]
    config: TrainConfig

    def to_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        return {**self.described, "recipes": [found.to_json() for found in self.found]}


def tune(
    settings: Settings,
    directory: Path,
    config: TrainConfig,
    *,
    recipes: Sequence[str] = (),
    minutes: float,
    trials: int | None = None,
    now: datetime,
    progress: Progress | None = None,
) -> Tuning:
    """Search for better settings of recipes of ``config``, on the window before the one that the gate judges by.

    Parameters
    ----------
    settings, directory
        The home, which is held for others only while features are built and read, and the tables.
    config
        Recipes to begin at, and seed, horizon and k.
    recipes
        Which of them, by name; all that have settings to choose by default.
    minutes
        How long points are fitted and judged, those of earlier calls on the same data counted.
    trials
        At most so many points a recipe.
    now
        The present.

    Raises
    ------
    ConfigError
        A recipe is not known, or has nothing to choose.
    HomeBusy
        Another job writes to the home, or another search runs.
    DataError
        There is nothing to judge by, or no point could be fitted.
    """
    chosen = _chosen(config, recipes)
    with one_job(settings, "tune"), Tables.open(directory) as tables:
        with one_job(settings):
            current_features(settings, tables, progress)
            field = Field.load(settings, tables, config, now=now)
        searches = [Search(settings.tuning / "searches.db", recipe, field) for recipe in chosen]
        spent = {id(search): [point.seconds for point in search.points()] for search in searches}
        budget = 60 * minutes / len(searches)

        def is_open(search: Search) -> bool:
            taken = spent[id(search)]
            # each has its start judged, whatever the time
            return not taken or (sum(taken) < budget and (trials is None or len(taken) < trials))

        while left := [search for search in searches if is_open(search)]:
            search = min(left, key=lambda one: sum(spent[id(one)]))
            search.step(field.judge)
            spent[id(search)].append(search.points()[-1].seconds)
            if progress is not None:
                done, total = (len(spent[id(search)]), trials) if trials else (sum(spent[id(search)]), budget)
                progress(f"tune {search.recipe.name}", min(round(done), round(total)), round(total))
    found = sorted((Found.of(search.points()) for search in searches), key=lambda one: -one.best.score)
    best = [one.best.recipe for one in found]
    others = [recipe for recipe in config.recipes if not axes_of(recipe)]
    return Tuning(tuple(found), field.described(), config.model_copy(update={"recipes": (*best, *others)}))


def _chosen(config: TrainConfig, names: Sequence[str]) -> list[Recipe]:
    able = {recipe.name: recipe for recipe in config.recipes if axes_of(recipe)}
    for name in names:
        if name not in able:
            known = ", ".join(able) or "none"
            raise ConfigError(
                f"expected a recipe of the configuration that has settings to choose ({known}), found {name!r}; "
                "correct --recipe or --config"
            )
    if not able:
        raise ConfigError(
            "expected a recipe that has settings to choose, found baselines only; add one, such as model = 'als'"
        )
    return [able[name] for name in dict.fromkeys(names or able)]


def writable(path: Path) -> None:
    """Check that the configuration can be written to ``path``: before a search, not after it.

    Raises
    ------
    ConfigError
        There is a file that ``tune`` did not write, or none can be written there.
    """
    try:
        if path.exists() and not path.read_bytes().startswith(_WRITTEN.encode()):
            raise ConfigError(
                f"expected no file at {path} or one of `nextbest tune`, found another; choose another --to"
            )
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}."):
            pass
    except OSError as error:
        raise ConfigError(
            f"expected a place to write to at {path}, found {error.strerror}; choose another --to"
        ) from error


def write(tuning: Tuning, path: Path) -> None:
    """Write the configuration that reproduces what was found, with where it comes from, for ``train --config``.

    Raises
    ------
    ConfigError
        See ``writable``.
    """
    writable(path)
    staged = path.with_name(f".{path.name}.{os.getpid()}.partial")
    staged.write_text(to_toml(tuning))
    staged.replace(path)


def to_toml(tuning: Tuning) -> str:
    """Return the configuration as TOML; read again it is the same."""
    told = tuning.described
    best = {found.best.recipe.name: found for found in tuning.found}
    parts = [
        f"{_WRITTEN}: the best settings found, for `nextbest train TABLES --config` this file.\n"
        f"# data: {told['tables_hash']} (SHA-256 of the tables)\n"
        f"# window: fitted on what was known before {told['fitted_before']}, judged on purchases until "
        f"{told['judged_until']};\n# what came later was not looked at\n"
        f"# metric: {told['metric']}, purchased = {told['purchased']!r}; the higher of many is flattered by chance\n"
        f"# seed: {told['seed']}; nextbest {told['version']}\n",
        tomli_w.dumps(tuning.config.model_dump(mode="json", exclude={"recipes"})),
    ]
    for recipe in tuning.config.recipes:
        about = "not searched"
        if found := best.get(recipe.name):
            one = found.to_json()
            about = (
                f"{told['metric']} {one['best']:.4f} in trial {one['best_trial']} of {one['trials']}, "
                f"{one['start']:.4f} where it began"
            )
        table = tomli_w.dumps({"recipes": _told(recipe)}).replace("[recipes]", "[[recipes]]", 1)
        parts.append(f"# {recipe.name}: {about}\n{table}")
    text = "\n".join(parts)
    if TrainConfig.parse(text, "tuned.toml") != tuning.config:
        raise ConfigError("expected settings that TOML can hold, found others; please report this")
    return text


def _told(recipe: Recipe) -> dict[str, Any]:
    """Return a recipe without what is as if it had not been said, and without null, which TOML has not."""
    models = recipe.blend.weights if recipe.model == "blend" else {}
    told = {}
    for name, value in recipe:
        is_idle = name not in (recipe.model, *models) and value == Recipe.model_fields[name].get_default(
            call_default_factory=True
        )
        if value is not None and not (isinstance(value, Config) and is_idle):
            told[name] = value.model_dump(mode="json") if isinstance(value, Config) else value
    return {**told, "popularity_days": recipe.popularity_days or 0}


def _settings(recipe: Recipe) -> dict[str, Any]:
    config: Config = getattr(recipe, recipe.model)
    return config.model_dump(mode="json")
