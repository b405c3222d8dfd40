"""A search for a recipe's best settings, on data that the gate does not judge by.

Optuna proposes (tree-structured Parzen estimator; Bergstra et al., *Algorithms for Hyper-Parameter Optimization*,
NeurIPS 2011). A point is fitted on what was known where the validation window begins, and judged on that window by
what the gate goes by. The gate's own window, the last one, is not looked at. Every trial is in a SQLite file, so a
search goes on where it was killed; the sampler's seed is that of the search plus the trials done, so it goes on as if
it had not been.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from eval.evaluate import Window, evaluate
from eval.metrics import NDCG
from feature_repo import schema as s
from feature_repo import store as feature_store
from feature_repo.features import schema_hash
from feature_repo.tables import Tables
from serving.bundle import NAME
from serving.errors import NextbestError
from serving.recommender import PurchasedPolicy, Recommender
from serving.settings import Settings
from training.assemble import assemble
from training.dataset import TrainingSet
from training.recipe import Recipe, TrainConfig
from training.spaces import axes_of
from training.train import last_split
from training.tune import Axis, changed, setting

#: Ranges whose ends differ by this factor are searched by ratio.
_WIDE: Final = 8.0
_SECONDS: Final = "seconds"
_WHY: Final = "why"


@dataclass(frozen=True)
class Field:
    """What points are fitted on and judged by: all that was known before ``window``, and what was bought in it."""

    data: TrainingSet
    window: Window
    until: datetime
    policy: PurchasedPolicy
    config: TrainConfig
    tables_hash: str
    now: datetime

    @classmethod
    def load(cls, settings: Settings, tables: Tables, config: TrainConfig, *, now: datetime) -> Field:
        """Load the window before the gate's, with the features that are built.

        Raises
        ------
        DataError
            The interactions do not reach far enough back, or nobody known bought anything in that window.
        """
        split = last_split(tables, config.horizon_days)
        rows = tables.frame(s.INTERACTIONS, [s.CUSTOMER_ID, s.PRODUCT_ID, s.AT, s.KIND])
        window = Window.cut(rows, at=split.train_end, end=split.validation_end)
        data = TrainingSet.load(
            tables,
            feature_store.open_store(settings.store),
            split.train_end,
            also=window.purchases[s.CUSTOMER_ID].unique().tolist(),
        )
        policy: PurchasedPolicy = "exclude" if len(window.truth("exclude")) else "allow"
        return cls(data, window, split.validation_end, policy, config, tables.hash(), now)

    def judge(self, recipe: Recipe) -> float:
        """Return the mean NDCG at k of ``recipe``."""
        config = self.config
        bundle = assemble(
            recipe, self.data, seed=config.seed, threads=config.threads, tables_hash="", now=self.now
        )
        found = evaluate(
            Recommender(bundle, self.data.reader),
            self.window,
            name=recipe.name,
            k=config.k,
            policy=self.policy,
        )
        return float(found.rows()[NDCG].mean())

    def described(self) -> dict[str, Any]:
        """Return what the result holds for, as JSON values."""
        return {
            "tables_hash": self.tables_hash,
            "fitted_before": self.window.at.isoformat(),
            "judged_until": self.until.isoformat(),
            "metric": f"NDCG@{self.config.k}",
            "purchased": self.policy,
            "seed": self.config.seed,
            "version": version(NAME),
        }


@dataclass(frozen=True)
class Point:
    """A recipe that was judged; ``why`` says why one could not be fitted, and counts nothing then."""

    recipe: Recipe
    score: float
    seconds: float
    why: str = ""


class Search:
    """The search from one recipe; trials of earlier calls on the same data and settings count.

    Parameters
    ----------
    path
        The SQLite file of all searches of a home.
    recipe
        Where it begins: this point is judged first, so the best is never worse.
    field
        Where points are judged.
    """

    def __init__(self, path: Path, recipe: Recipe, field: Field) -> None:
        self.recipe = recipe
        self._field = field
        self._axes = axes_of(recipe)
        self._space = {axis.path: distribution(axis, self._held(axis)) for axis in self._axes}
        path.parent.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._study = optuna.create_study(
            storage=optuna.storages.RDBStorage(f"sqlite:///{path}"),
            study_name=f"{recipe.name}-{self._key()}",
            direction="maximize",
            load_if_exists=True,
        )
        for left in self._study.get_trials(states=(TrialState.RUNNING,)):
            self._study.tell(left.number, state=TrialState.FAIL)

    def points(self) -> list[Point]:
        """Return what was judged so far, in order."""
        return [
            Point(
                self._recipe(trial.params),
                float(trial.value or 0.0),
                float(trial.user_attrs[_SECONDS]),
                str(trial.user_attrs.get(_WHY, "")),
            )
            for trial in self._study.get_trials(states=(TrialState.COMPLETE,))
        ]

    def step(self, judge: Callable[[Recipe], float]) -> None:
        """Judge one more point; one that cannot be fitted gets 0."""
        done = len(self._study.get_trials(states=(TrialState.COMPLETE,), deepcopy=False))
        waiting = self._study.get_trials(states=(TrialState.WAITING,), deepcopy=False)
        if not done and not waiting:
            self._study.enqueue_trial({axis.path: self._held(axis) for axis in self._axes})
        self._study.sampler = optuna.samplers.TPESampler(seed=(self._field.config.seed + done) % 2**32)
        trial = self._study.ask(self._space)
        began = time.perf_counter()
        try:
            score = judge(self._recipe(trial.params))
        except NextbestError as error:
            trial.set_user_attr(_WHY, str(error))
            score = 0.0
        trial.set_user_attr(_SECONDS, time.perf_counter() - began)
        self._study.tell(trial, score)

    def _recipe(self, found: Mapping[str, Any]) -> Recipe:
        """Return the recipe of a trial; numbers that were drawn have four digits, which nobody can tell from more."""
        config = getattr(self.recipe, self.recipe.model)
        for axis in self._axes:
            value = found[axis.path]
            if isinstance(value, float) and value != self._held(axis):
                value = float(f"{value:.4g}")
            config = changed(config, axis, value)
        return self.recipe.model_copy(update={self.recipe.model: config})

    def _held(self, axis: Axis) -> Any:
        return setting(getattr(self.recipe, self.recipe.model), axis.path)

    def _key(self) -> str:
        """Return what makes trials comparable, as a hash: data, window, metric, seed, code, start and space."""
        field = self._field
        told = [
            field.described(),
            schema_hash(),
            self.recipe.model_dump(mode="json"),
            {path: str(held) for path, held in self._space.items()},
        ]
        return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:12]


def distribution(axis: Axis, held: Any) -> BaseDistribution:
    """Return the range between the ends of an axis, widened to what a recipe holds; the words of an axis of words.

    Wide ranges of positive numbers are drawn from by ratio.
    """
    values = [*axis.values, held]
    if any(isinstance(value, str) for value in values):
        return CategoricalDistribution(tuple(dict.fromkeys(values)))
    low, high = min(values), max(values)
    by_ratio = low > 0 and high / low >= _WIDE
    if all(isinstance(value, int) for value in values):
        return IntDistribution(int(low), int(high), log=by_ratio)
    return FloatDistribution(float(low), float(high), log=by_ratio)
