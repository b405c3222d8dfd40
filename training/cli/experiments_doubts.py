"""What a file of experiments may say and nobody would mean: ``nextbest experiments check`` warns of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations
from typing import Any

from feature_repo import names as v
from feature_repo.build import FeatureSet
from feature_repo.errors import DataError
from feature_repo.store import latest
from serving.experiments_file import Experiment, Experiments
from serving.settings import Settings


def unreached(told: Experiments) -> Iterator[str]:
    """Yield a sentence for each experiment all of whose requests are taken by earlier ones of the file."""
    for number, later in enumerate(told.experiments):
        earlier = [one for one in told.experiments[:number] if _is_for_all_of(one, later)]
        takers = [
            next((one.name for one in earlier if one.surfaces is None or surface in one.surfaces), None)
            for surface in later.surfaces or (None,)
        ]
        if all(takers):
            yield (
                f"nobody can be in {later.name}: {', '.join(dict.fromkeys(filter(None, takers)))} comes before it and "
                "takes all of its customers; put it first, or give each its surfaces or customers"
            )


def _is_for_all_of(earlier: Experiment, later: Experiment) -> bool:
    """Return whether an experiment is for every customer of another one."""
    return all(
        name in later.customers and set(later.customers[name]) <= set(values)
        for name, values in earlier.customers.items()
    )


def alike(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    """Yield a sentence for each two variants of an experiment with the same bundle under the same rules.

    Parameters
    ----------
    rows
        What ``check`` tells of variants: their ``experiment``, ``variant``, ``bundle`` and ``rules_digest``.
    """
    for one, other in combinations(rows, 2):
        if all(one[key] == other[key] for key in ("experiment", "bundle", "rules_digest")):
            yield (
                f"{one['variant']} and {other['variant']} of {one['experiment']} differ in nothing: the same bundle "
                "under the same rules; give one of them another bundle or rules, unless this is a test of the test"
            )


def unmatched(settings: Settings, told: Experiments) -> Iterator[str]:
    """Yield a sentence for each experiment that is for customers whom the built features do not know."""
    try:
        features = FeatureSet.read(settings.features)
    except DataError:
        return  # nothing is known of customers here
    if not told.attributes or not features.path(v.CUSTOMER_ATTRIBUTES).is_dir():
        return
    customers = latest(features, v.CUSTOMER_ATTRIBUTES)
    since = f"as of the features of {features.as_of:%Y-%m-%d}"
    for experiment in told.experiments:
        is_for = None
        is_told = False
        for name, values in experiment.customers.items():
            if name not in customers:
                continue
            for value in values:
                if not (customers[name] == value).any():
                    yield f"{experiment.name}: no customer has {name} = {value}, {since}; correct it"
                    is_told = True
            has_one = customers[name].isin(list(values))
            is_for = has_one if is_for is None else is_for & has_one
        if is_for is not None and not is_for.any() and not is_told:
            yield f"{experiment.name}: no customer has all that its customers ask for, {since}; correct it"
