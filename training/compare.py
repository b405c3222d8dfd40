"""Two bundles side by side: recipes, data, what their backtests measured, indexes and sizes.

A bundle's metrics belong to its recipe, fitted on an earlier window. Two of them are compared where one backtest judged
both recipes: on one window with the same customers. Then the means differ by so much; how sure that is cannot be told
from means (``nextbest evaluate --bundle A --bundle B`` compares them customer by customer).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from serving.bundle import NAME, verify
from serving.errors import ConfigError
from serving.manifest import Manifest, Policy
from training.recipe import Recipe

_WINDOW: Final = ("train_before", "judged_until")
_OWN: Final = "recipe"
_RECIPES: Final = "recipes"


@dataclass(frozen=True)
class Side:
    """One of the two: its version, manifest, and what its backtest measured."""

    version: str
    manifest: Manifest
    metrics: Mapping[str, Any]

    @classmethod
    def read(cls, bundles: Path, tag: str) -> Side:
        """Verify and read the bundle ``tag``.

        Raises
        ------
        ConfigError
            There is no such bundle.
        BundleError
            It is not whole.
        """
        version = tag.removeprefix(f"{NAME}:")
        if not version or "/" in version or not (bundles / version).is_dir():
            raise ConfigError(f"expected the tag of a published bundle, found {tag!r}; see `nextbest models`")
        manifest = verify(bundles / version, version)
        path = bundles / version / "bundle" / "metrics.json"
        return cls(version, manifest, json.loads(path.read_bytes()) if path.is_file() else {})

    @property
    def tag(self) -> str:
        """``name:version``."""
        return f"{NAME}:{self.version}"

    def own(self) -> str | None:
        """Return the bundle's recipe's name among the results; None where a bundle of old does not say so clearly."""
        if _OWN in self.metrics:
            return str(self.metrics[_OWN])
        name = str(self.manifest.recipe["name"])
        names = {result["model"] for result in self.metrics.get("results", ())}
        return name if name in names and f"{name}@live" not in names else None

    def name_of(self, other: Side) -> str | None:
        """Return how the other's recipe is called in this backtest, None where it was not judged."""
        wanted = _settings(other.manifest.recipe)
        for name, recipe in self.metrics.get(_RECIPES, {}).items():
            if _settings(recipe) == wanted:
                return str(name)
        return None

    def told(self) -> dict[str, Any]:
        """Return what is said of one side, as JSON values."""
        manifest = self.manifest
        files = {name: info.size for name, info in manifest.files.items()}
        return {
            "tag": self.tag,
            "created_at": manifest.created_at.isoformat(),
            "code_version": manifest.code_version,
            "model": manifest.policy.model,
            "seed": manifest.seed,
            "data": {
                "as_of": manifest.data.as_of.isoformat(),
                "rows": manifest.data.rows,
                "tables_hash": manifest.data.tables_hash,
            },
            "ranker": ranker_told(manifest.policy),
            "window": {key: self.metrics.get(key) for key in _WINDOW},
            "index": manifest.index,
            "bytes": {"all": sum(files.values()), **files},
        }


def ranker_told(policy: Policy) -> str:
    """Return in words whether a bundle has a ranker, and why one that should have is without."""
    if policy.unranked is not None:
        return f"none: {policy.unranked}"
    return "none asked for" if policy.ranker is None else f"chances within {policy.ranker.horizon_days} days"


def compare(bundles: Path, a: str, b: str) -> dict[str, Any]:
    """Compare two bundles.

    Parameters
    ----------
    bundles
        Directory that holds one folder a version.
    a, b
        Their tags; differences are b − a.

    Returns
    -------
    dict
        ``a`` and ``b`` (see ``Side.told``), ``recipe`` (path → the two settings, where they differ), ``same_data``,
        ``metrics`` (one entry a window that judged both, with ``rows`` of both means and their difference) and
        ``comparable`` (a sentence on what that is worth).

    Raises
    ------
    ConfigError
        There is no such bundle.
    BundleError
        One is not whole.
    """
    return compared(Side.read(bundles, a), Side.read(bundles, b))


def compared(a: Side, b: Side) -> dict[str, Any]:
    """Compare two sides; see ``compare``."""
    metrics = list(_metrics(a, b))
    return {
        "a": a.told(),
        "b": b.told(),
        "recipe": _different(_settings(a.manifest.recipe), _settings(b.manifest.recipe)),
        "same_data": _same_data(a, b),
        "metrics": metrics,
        "comparable": _comparable(a, b, metrics),
    }


def _same_data(a: Side, b: Side) -> bool:
    return a.manifest.data.tables_hash == b.manifest.data.tables_hash


def _metrics(a: Side, b: Side) -> Iterator[dict[str, Any]]:
    """Yield the windows on which both recipes were judged: in one backtest, or in two of one window and one truth."""
    if not _same_recipe(a, b):
        for side, names in ((b, (b.name_of(a), b.own())), (a, (a.own(), a.name_of(b)))):
            if None not in names:
                yield _window(side, *(_results(side, name) for name in names), how="one backtest judged both")
                return
    mine, theirs = _results(a, a.own()), _results(b, b.own())
    both = mine.keys() & theirs.keys()
    is_one = _named(a) == _named(b) and all(
        mine[key]["customers"] == theirs[key]["customers"] for key in both
    )
    if both and is_one:
        on = "" if _same_data(a, b) else ", on other tables"
        yield _window(b, mine, theirs, how=f"two backtests of the same window{on}")


def _same_recipe(a: Side, b: Side) -> bool:
    return _settings(a.manifest.recipe) == _settings(b.manifest.recipe)


def _named(side: Side) -> tuple[Any, ...]:
    return tuple(side.metrics.get(key) for key in _WINDOW)


def _window(
    side: Side, mine: Mapping[tuple[Any, ...], Any], theirs: Mapping[tuple[Any, ...], Any], *, how: str
) -> dict[str, Any]:
    rows = []
    for key in mine.keys() & theirs.keys():
        purchased, products, k, which = key
        for metric in mine[key]["means"].keys() & theirs[key]["means"].keys():
            one, other = mine[key]["means"][metric], theirs[key]["means"][metric]
            rows.append(
                {
                    "purchased": purchased,
                    "products": products,
                    "slice": which,
                    "metric": f"{metric}@{k}",
                    "customers": theirs[key]["customers"],
                    "a": one,
                    "b": other,
                    "difference": round(other - one, 5),
                }
            )
    order = ("purchased", "products", "slice", "metric")
    rows.sort(key=lambda row: [(str(row[name]) != "all", str(row[name])) for name in order])
    return {**dict(zip(_WINDOW, _named(side), strict=True)), "how": how, "of": side.tag, "rows": rows}


def _results(side: Side, name: str | None) -> dict[tuple[Any, ...], Any]:
    """Return the means of one recipe by (purchased, products, k, slice)."""
    found = {}
    for result in side.metrics.get("results", ()):
        if result["model"] != name:
            continue
        for which, values in result["slices"].items():
            means = {metric: told["mean"] for metric, told in values.items() if isinstance(told, dict)}
            key = (result["purchased"], result["products"], result["k"], which)
            found[key] = {"customers": values["customers"], "means": means}
    return found


def _comparable(a: Side, b: Side, metrics: list[dict[str, Any]]) -> str:
    again = f"`nextbest evaluate TABLES --bundle {a.tag} --bundle {b.tag}` judges both, customer by customer"
    if metrics:
        return f"{metrics[0]['how']}; the differences have no intervals here: {again}"
    until = [str(side.metrics.get("judged_until", "never"))[:10] for side in (a, b)]
    why = "neither backtest judged both recipes"
    if _same_recipe(a, b):
        why = "the recipe is the same, so what differs there is the weeks"
    return f"not comparable: judged until {until[0]} and {until[1]}, and {why}; {again}"


def _settings(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe without its name; what an older version did not know has its default."""
    try:
        told = Recipe.model_validate(recipe).model_dump(mode="json")
    except ValidationError:  # of a later version, or a field that is no more
        told = dict(recipe)
    return {key: value for key, value in told.items() if key != "name"}


def _different(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return path → the two values, where recipes differ."""
    mine, theirs = dict(_leaves(a)), dict(_leaves(b))
    return {
        path: [mine.get(path), theirs.get(path)]
        for path in [*mine, *(path for path in theirs if path not in mine)]
        if mine.get(path) != theirs.get(path)
    }


def _leaves(value: Any, above: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _leaves(inner, f"{above}.{name}" if above else str(name))
    else:
        yield above, value
