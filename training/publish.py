"""Before a bundle can go live: golden queries, structural checks, and the bundle on disk, loaded again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from feature_repo import names as v
from feature_repo import schema as s
from serving import golden
from serving.bundle import Bundle, load, save
from serving.encoders.spec import CUSTOMERS
from serving.errors import BundleError
from serving.features import CustomerState, FrameReader
from serving.recommender import Query, Recommender
from serving.settings import Settings
from training.dataset import TrainingSet

_GOLDEN_CUSTOMERS = 8


def store(bundle: Bundle, data: TrainingSet, settings: Settings, *, metrics: Mapping[str, Any]) -> str:
    """Check ``bundle``, record its golden queries, save it and load it again; return its version. It is not live.

    Raises
    ------
    BundleError
        The bundle is not sound, or does not answer after loading as it did before saving.
    """
    check(bundle)
    recommender = Recommender(bundle, FrameReader({}))
    bundle = replace(bundle, golden=golden.record(recommender, golden_cases(data)))
    texts = {"metrics.json": json.dumps(metrics, indent=1), "MODEL_CARD.md": model_card(bundle)}
    version = save(bundle, settings.bundles, texts=texts)
    golden.replay(Recommender(load(settings.bundles, version), FrameReader({})))
    return version


def check(bundle: Bundle) -> None:
    """Check what every bundle must satisfy before anybody is served from it.

    Raises
    ------
    BundleError
        It has no products, vectors of another size or not finite, or an incomplete popularity order.
    """
    size = len(bundle.catalog)
    problems = [
        (size == 0, "at least one product", "none"),
        (
            sorted(bundle.popular.tolist()) != list(range(size)),
            "every product once in the popular order",
            "others",
        ),
        (
            len(bundle.purchased.indptr) != len(bundle.customers) + 1,
            "a purchase row for each customer",
            "others",
        ),
    ]
    if bundle.vectors is not None:
        problems.append((len(bundle.vectors) != size, f"{size} product vectors", str(len(bundle.vectors))))
        problems.append((not np.isfinite(bundle.vectors).all(), "finite product vectors", "others"))
    for name, array in (*bundle.matrices.items(), *bundle.weights.items()):
        problems.append((not np.isfinite(array).all(), f"finite values in {name}", "others"))
        if name.endswith(CUSTOMERS):
            rows = len(bundle.customers)
            problems.append((len(array) != rows, f"{rows} customer vectors", str(len(array))))
    for bad, expected, found in problems:
        if bad:
            raise BundleError(f"expected {expected}, found {found}; the bundle is not published")


def golden_cases(data: TrainingSet) -> Sequence[tuple[Query, CustomerState]]:
    """Choose inputs to replay: customers spread over the id order, a stranger, and a stranger with context."""
    places = np.linspace(
        0, len(data.customers) - 1, num=min(_GOLDEN_CUSTOMERS, len(data.customers)), dtype=int
    )
    ids = [data.customers.ids[place] for place in sorted(set(places.tolist()))]
    states = data.reader.read(ids, data.as_of)
    cases: list[tuple[Query, CustomerState]] = []
    for number, state in enumerate(states):
        policy = "allow" if number % 2 else "exclude"
        cases.append((Query(at=data.as_of, purchased=policy), state))  # type: ignore[arg-type]
    stranger = CustomerState()
    context = tuple(data.catalog.ids[:3])
    return [*cases, (Query(at=data.as_of), stranger), (Query(at=data.as_of, context=context), stranger)]


def model_card(bundle: Bundle) -> str:
    """Return the bundle's description for people, in Markdown."""
    manifest = bundle.manifest
    rows = manifest.data.rows
    lines = [
        f"# {manifest.policy.model}",
        "",
        f"Ranks products for customers. Fitted on {rows['interactions']:,} interactions of "
        f"{rows['customers']:,} customers with {rows['products']:,} products, all before "
        f"{manifest.data.as_of.isoformat()}.",
        "",
        f"- recipe: `{json.dumps(manifest.recipe)}`",
        f"- features: `{manifest.feature_service}` (schema {manifest.feature_schema_hash}), "
        f"slow ones from `{v.CUSTOMER_FEATURES}`, history from `{v.CUSTOMER_RECENT}`",
        *([] if manifest.policy.unranked is None else [f"- no ranker: {manifest.policy.unranked}"]),
        f"- seed: {manifest.seed}",
        f"- metrics belong to the same recipe fitted on an earlier window: see `metrics.json` ({s.PURCHASE}s "
        "of later customers, full catalogue)",
        "",
        "Not for: decisions about people other than which products to show them. Customers without history get "
        "their segment's favourites or what is popular. Products without interactions are shown only when "
        "little else passes the filters.",
    ]
    return "\n".join(lines) + "\n"
