"""How well the models rank on a published split: the full catalogue, each customer's train products masked.

Every setting is chosen on a part of train; the test part is ranked once, by the models refitted on all of train. Each
model runs in a process of its own, so that its memory is its own.
"""

from __future__ import annotations

import multiprocessing as mp
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from eval.metrics import NDCG, RECALL, Relevant, ranking_metrics
from feature_repo.recent import History
from serving.encoders import spec as e
from serving.encoders.blend import covariance, scaled
from serving.encoders.weights import HistoryWeights
from serving.errors import ConfigError, DataError, NextbestError
from serving.neighbours import Neighbours
from serving.scoring import Blocked, top
from serving.subject import Bought, Subject
from training.benchmarks.listed import AS_OF, Listed, Matrix, training_set
from training.dataset import TrainingSet
from training.models import popularity, registry
from training.models.base import Embeddings
from training.models.configs import Config
from training.recipe import Recipe
from training.spaces import SPACES, WEIGHTS, named
from training.tune import Trial, walk

Float32 = NDArray[np.float32]
Int32 = NDArray[np.int32]
Progress = Callable[[str, int, int], None]

MODELS: Final = ("popularity", "als", "bpr", "knn", "spectral", "lightfm", "two_tower", "blend")
_BLENDED: Final = ("spectral", "als")
_JUDGED: Final = 4000


def accuracy(
    directory: Path,
    *,
    models: Sequence[str],
    k: int,
    seed: int,
    with_two_tower: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run the benchmark on the split in ``directory``; see the module.

    Returns
    -------
    dict
        ``data`` (counts) and ``results``, one entry a model, in the order asked for.

    Raises
    ------
    ConfigError
        A model is not known.
    DataError
        The split cannot be read, or has nothing to choose settings or to judge by.
    """
    unknown = [name for name in models if name not in MODELS]
    if unknown or not models:
        raise ConfigError(
            f"expected models of {', '.join(MODELS)}, found {(unknown or ['none'])[0]!r}; correct --models"
        )
    data = Listed.read(directory)
    if not data.test.nnz:
        raise DataError(
            f"expected interactions to judge by in {directory / 'test.txt'}, found none; give some"
        )
    results: dict[str, dict[str, Any]] = {}
    found: dict[str, dict[str, Any]] = {}
    # the blend takes over what its parts found, wherever it was asked for
    for number, name in enumerate(sorted(dict.fromkeys(models), key=lambda name: name == "blend"), start=1):
        told = _alone(_run, directory, name, k, seed, found, with_two_tower)
        found[name] = told.pop("config", {})
        results[name] = told
        if progress is not None:
            progress(name, number, len(set(models)))
    return {
        "data": {
            "customers": data.train.shape[0],
            "products": data.train.shape[1],
            "train": int(data.train.nnz),
            "test": int(data.test.nnz),
        },
        "k": k,
        "seed": seed,
        "results": [results[name] for name in dict.fromkeys(models)],
    }


def _alone(work: Callable[..., dict[str, Any]], *args: Any) -> dict[str, Any]:
    """Run ``work`` in a new process and return what it returns, or raise what it raised."""
    ours, theirs = mp.get_context("spawn").Pipe(duplex=False)
    process = mp.get_context("spawn").Process(target=_sent, args=(theirs, work, args))
    process.start()
    theirs.close()
    try:
        told = ours.recv()
    except EOFError as error:
        process.join()
        raise ConfigError(
            f"expected a result, found the process ended with {process.exitcode}; it may have run out of memory"
        ) from error
    process.join()
    if isinstance(told, Exception):
        raise told
    return dict(told)


def _sent(pipe: Any, work: Callable[..., dict[str, Any]], args: Sequence[Any]) -> None:
    try:
        pipe.send(work(*args))
    except NextbestError as error:
        pipe.send(error)


def _run(
    directory: Path, name: str, k: int, seed: int, found: Mapping[str, dict[str, Any]], with_two_tower: bool
) -> dict[str, Any]:
    """Tune, fit and judge one model; ``found`` holds the settings that its parts were given before."""
    data = Listed.read(directory)
    started = time.perf_counter()
    validation = data.validation(seed=seed)
    if name == "blend":
        parts = (*_BLENDED, "two_tower") if with_two_tower else _BLENDED
        recipe, trials = tuned_blend(validation, parts, found, k=k, seed=seed)
    else:
        recipe, trials = tuned(name, validation, k=k, seed=seed)
    tuned_at, cpu = time.perf_counter(), time.process_time()
    train = training_set(data.train)
    fitted = registry.fit(recipe, train, seed=seed)
    fit_seconds, fit_cpu_seconds = time.perf_counter() - tuned_at, time.process_time() - cpu
    ranked = rank(recipe, fitted, train, data.train, np.arange(data.train.shape[0]), k=k)
    metrics = judged(ranked, data.test, k=k)
    return {
        "model": name,
        f"recall@{k}": round(float(metrics[RECALL].mean()), 5),
        f"ndcg@{k}": round(float(metrics[NDCG].mean()), 5),
        "tune_seconds": round(tuned_at - started, 1),
        "fit_seconds": round(fit_seconds, 1),
        "fit_cpu_seconds": round(fit_cpu_seconds, 1),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "settings": settings(recipe),
        "trials": trials,
        "config": {} if name in registry.BASELINES else getattr(recipe, name).model_dump(mode="json"),
    }


def settings(recipe: Recipe) -> dict[str, Any]:
    """Return the settings that a recipe's model was given."""
    if recipe.model == "blend":
        return {
            "weights": dict(recipe.blend.weights),
            **{part: named(getattr(recipe, part)) for part in recipe.blend.weights},
        }
    return {} if recipe.model in registry.BASELINES else named(getattr(recipe, recipe.model))


def tuned(name: str, validation: Listed, *, k: int, seed: int) -> tuple[Recipe, list[dict[str, Any]]]:
    """Walk the model's axes on the validation part; return the best recipe and every point judged."""
    if name not in SPACES:
        return Recipe.model_validate({"name": name, "model": name, "popularity_days": None}), []
    train = training_set(validation.train)
    asked = sampled(validation, seed=seed)

    def judge(config: Config) -> float:
        recipe = Recipe.model_validate({"name": name, "model": name, name: config.model_dump()})
        fitted = registry.fit(recipe, train, seed=seed)
        ranked = rank(recipe, fitted, train, validation.train, asked, k=k)
        return float(judged(ranked, validation.test[asked], k=k)[NDCG].mean())

    start, axes = SPACES[name]
    trials: list[Trial[Config]] = []
    best = walk(_within(start, validation.train.shape), axes, judge, trials=trials)
    recipe = Recipe.model_validate({"name": name, "model": name, name: best.config.model_dump()})
    return recipe, [{"ndcg": round(trial.score, 5), **named(trial.config)} for trial in trials]


def tuned_blend(
    validation: Listed,
    parts: Sequence[str],
    found: Mapping[str, dict[str, Any]],
    *,
    k: int,
    seed: int,
) -> tuple[Recipe, list[dict[str, Any]]]:
    """Tune the parts that were not tuned before, fit each once, and choose the weights beside the first one's 1."""
    configs = {
        part: found[part]
        if part in found
        else getattr(tuned(part, validation, k=k, seed=seed)[0], part).model_dump(mode="json")
        for part in parts
    }
    train, asked = training_set(validation.train), sampled(validation, seed=seed)
    fits = {}
    for part in parts:
        recipe = Recipe.model_validate({"name": part, "model": part, part: configs[part]})
        fitted = registry.fit(recipe, train, seed=seed)
        assert fitted is not None
        fits[part] = fitted
    wanted = validation.test[asked]
    queries = {part: queries_of(fit, train, asked) for part, fit in fits.items()}
    trials: list[dict[str, Any]] = []

    def score(weights: Mapping[str, float]) -> float:
        joined = np.hstack(
            [
                scaled(queries[part], covariance(_vectors(fits[part])), weight)
                for part, weight in weights.items()
            ]
        )
        vectors = np.hstack([_vectors(fits[part]) for part in weights])
        ranked, _ = top(joined, vectors, k, blocked=_rows(validation.train, asked))
        value = float(judged(ranked, wanted, k=k)[NDCG].mean())
        trials.append({"ndcg": round(value, 5), "weights": dict(weights)})
        return value

    weights: dict[str, float] = {parts[0]: 1.0}
    for part in parts[1:]:
        weights = max(({**weights, part: weight} for weight in WEIGHTS), key=score)
    recipe = Recipe.model_validate(
        {"name": "blend", "model": "blend", "blend": {"weights": weights}, **configs}
    )
    return recipe, trials


def sampled(validation: Listed, *, seed: int) -> NDArray[np.int64]:
    """Return up to 4,000 customers with something to find, in order."""
    able = np.flatnonzero(np.diff(validation.test.indptr) > 0)
    if not len(able):
        raise DataError(
            "expected customers with two products or more in train, to choose settings on a part of it, found none; "
            "give more data"
        )
    return np.sort(np.random.default_rng(seed).permutation(able)[:_JUDGED])


def rank(
    recipe: Recipe,
    fitted: Embeddings | None,
    data: TrainingSet,
    train: Matrix,
    customers: NDArray[np.int64],
    *,
    k: int,
) -> Int32:
    """Return each customer's best k products (customers, k) that are not in ``train``, −1 where there are fewer."""
    blocked = _rows(train, customers)
    if fitted is None:
        order, _ = popularity.fit(data, days=None)
        score = np.empty((len(order), 1), dtype=np.float32)
        score[order, 0] = -np.arange(len(order))
        return top(np.ones((len(customers), 1), dtype=np.float32), score, k, blocked=blocked)[0]
    if fitted.products is None:
        return _ranked_neighbours(fitted, data, customers, blocked, k=k)
    return top(queries_of(fitted, data, customers), fitted.products, k, blocked=blocked)[0]


def judged(ranked: Int32, test: Matrix, *, k: int) -> Any:
    """Return recall and NDCG at k of each customer who has something to find."""
    able = np.flatnonzero(np.diff(test.indptr) > 0)
    rows = test[able]
    relevant = Relevant(
        customers=np.arange(len(able), dtype=np.int32),
        indptr=rows.indptr.astype(np.int64),
        indices=rows.indices.astype(np.int32),
        n_products=test.shape[1],
    )
    padded = np.full((len(able), max(k, ranked.shape[1])), -1, dtype=np.int32)
    padded[:, : ranked.shape[1]] = ranked[able]
    return ranking_metrics(padded, relevant, k=k)


def queries_of(fitted: Embeddings, data: TrainingSet, customers: NDArray[np.int64]) -> Float32:
    """Return the query vectors (customers, d): what the encoder says at the model's clock.

    Where a matrix was fitted on the whole history it is taken as it is: folding in would give it again.
    """
    match fitted.encoder:
        case e.FoldInSpec() | e.LookupSpec():
            return np.asarray(fitted.matrices[e.CUSTOMERS][customers], dtype=np.float32)
        case e.BlendSpec(blocks=blocks):
            parts = _parts(fitted, data)
            blocked = []
            for block in blocks:
                own = parts.block(block)
                part = Embeddings(own.vectors, block.encoder, own.matrices, own.weights)
                queries = queries_of(part, data, customers)
                blocked.append(scaled(queries, own.array(e.COVARIANCE), block.weight))
            return np.hstack(blocked)
        case e.NeighboursSpec() | e.RepeatsSpec():
            raise ConfigError("expected a model with vectors, found neighbours")
        case spec:
            encoder = e.encoder(spec, _parts(fitted, data))
            queries = np.zeros((len(customers), _vectors(fitted).shape[1]), dtype=np.float32)
            for place, subject in enumerate(_subjects(data, customers)):
                vector = encoder.encode(subject)
                if vector is not None:
                    queries[place] = vector
            return queries


def _vectors(fitted: Embeddings) -> Float32:
    assert fitted.products is not None
    return fitted.products


def _parts(fitted: Embeddings, data: TrainingSet) -> e.Parts:
    return e.Parts(_vectors(fitted), fitted.matrices, fitted.weights, data.catalog.index, data.as_of)


def _subjects(data: TrainingSet, customers: NDArray[np.int64]) -> list[Subject]:
    states = data.reader.read([data.customers.ids[row] for row in customers.tolist()], data.as_of)
    nothing = np.empty(0, dtype=np.int32)
    none = Bought(nothing, nothing, nothing.astype(np.int64))
    return [
        Subject(row, "", state.history, nothing, none, data.as_of, features=state.row)
        for row, state in zip(customers.tolist(), states, strict=True)
    ]


def _ranked_neighbours(
    fitted: Embeddings, data: TrainingSet, customers: NDArray[np.int64], blocked: Blocked, *, k: int
) -> Int32:
    assert isinstance(fitted.encoder, e.NeighboursSpec)
    near = Neighbours.of(fitted.matrices)
    history = HistoryWeights(fitted.encoder.weights, index=data.catalog.index, as_of=AS_OF)
    ranked = np.full((len(customers), k), -1, dtype=np.int32)
    for row, subject in enumerate(_subjects(data, customers)):
        held: History = subject.history
        products, scores = near.near(*history.of(held, AS_OF))
        kept = ~np.isin(products, blocked.indices[blocked.indptr[row] : blocked.indptr[row + 1]])
        best = products[kept][np.lexsort((products[kept], -scores[kept]))][:k]
        ranked[row, : len(best)] = best
    return ranked


def _rows(train: Matrix, customers: NDArray[np.int64]) -> Blocked:
    rows = train[customers]
    return Blocked(rows.indptr.astype(np.int64), rows.indices.astype(np.int32))


def _within(config: Config, shape: tuple[int, ...]) -> Config:
    """Return ``config`` with no more factors than the matrix has rows or columns."""
    factors = getattr(config, "factors", None)
    return config if factors is None else config.model_copy(update={"factors": min(factors, *shape)})
