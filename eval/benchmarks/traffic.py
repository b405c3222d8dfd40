"""Requests as they come to a shop: few customers often, most rarely, and some never seen before.

Those to the drawn shop ask for what real pages ask for: products shown a moment ago are excluded, some are filtered by
category or price, some come from the page of a product.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from feature_repo import schema as s
from serving.catalog import Catalog

#: The JSON object of a request of ``/v1/recommend``.
Request = dict[str, Any]

N: Final = 10
UNKNOWN_SHARE: Final = 0.1
FILTERED_SHARE: Final = 1 / 3
CONTEXT_SHARE: Final = 0.25
_EXCLUDED: Final = (10, 20)
_MOST_CATEGORIES: Final = 8
_MOST_CONTEXT: Final = 3


def draw(customers: Sequence[str], *, count: int, seed: int) -> list[str]:
    """Draw ``count`` customers: weight 1/rank over a random order, a tenth unknown."""
    rng = np.random.default_rng(seed)
    weights = 1.0 / np.arange(1, len(customers) + 1)
    known = rng.choice(
        rng.permutation(np.array(customers, dtype=object)), size=count, p=weights / weights.sum()
    )
    unknown = rng.random(count) < UNKNOWN_SHARE
    return [f"unknown-{i}" if unknown[i] else str(known[i]) for i in range(count)]


def plain(customers: Sequence[str]) -> list[Request]:
    """Return a request for each of ``customers`` that asks for nothing particular."""
    return [{"customer_id": customer, "n": N} for customer in customers]


def particular(customers: Sequence[str], catalog: Catalog, *, seed: int) -> list[Request]:
    """Return a request for each of ``customers`` with exclusions, some with filters and some with context.

    All exclude 10 to 20 products; a third are filtered, half of these by 1 to 8 categories and half by a band of
    prices; a quarter come from a page that shows 1 to 3 products.
    """
    rng = np.random.default_rng(seed)
    categories = sorted(set(catalog.frame[s.CATEGORY].dropna()))
    prices = np.sort(catalog.frame[s.PRICE].dropna().to_numpy(dtype=np.float64))

    def products(least: int, most: int) -> list[str]:
        count = int(rng.integers(least, most + 1))
        return [catalog.ids[row] for row in rng.choice(len(catalog), count, replace=False)]

    def filters() -> Request:
        if rng.random() < 0.5:
            count = int(rng.integers(1, min(_MOST_CATEGORIES, len(categories)) + 1))
            return {
                "category": [categories[code] for code in rng.choice(len(categories), count, replace=False)]
            }
        low, width = rng.uniform(0.0, 0.7), rng.uniform(0.1, 0.3)
        band = np.quantile(prices, [low, low + width])
        return {"price_min": float(band[0]), "price_max": float(band[1])}

    asked = []
    for request in plain(customers):
        request["exclude"] = products(*_EXCLUDED)
        if rng.random() < FILTERED_SHARE:
            request["filters"] = filters()
        if rng.random() < CONTEXT_SHARE:
            request["context"] = {"product_ids": products(1, _MOST_CONTEXT), "surface": "product page"}
        asked.append(request)
    return asked
