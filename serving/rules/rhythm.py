"""After how long a product bought before is due: the category's days, the customer's own rhythm, what is usual."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History
from serving.catalog import Catalog
from serving.rules.config import Due

Int32 = NDArray[np.int32]
Floats = NDArray[np.float64]


class Rhythm:
    """Tells when products are due.

    Parameters
    ----------
    due
        What the file of rules says of it.
    catalog
        Of the bundle.
    """

    def __init__(self, due: Due, catalog: Catalog) -> None:
        self._purchases = due.purchases
        self._index: Mapping[str, int] = catalog.index
        self._usual = catalog.repurchase_days
        days = catalog.frame[s.CATEGORY].map(due.days)
        self._of_category: Floats = np.asarray(days, dtype=np.float64)

    def days(self, products: Int32, history: History) -> Floats:
        """Return after how many days each product (m,) is due; NaN where nobody buys it at a rhythm.

        The customer's own gap is the mean over the days of purchase that ``history`` shows: its length bounds how far
        back a rhythm is seen.
        """
        usual = self._usual[products]
        own = self._own(products, history)
        set_days = self._of_category[products]
        return np.where(np.isnan(set_days), np.where(np.isnan(own), usual, own), set_days)

    def _own(self, products: Int32, history: History) -> Floats:
        """Return the mean days (m,) between the customer's purchases of each product; NaN below ``purchases`` days."""
        own: Floats = np.full(len(products), np.nan)
        places = history.places(self._index)
        is_bought = history.kinds == KIND_CODES[s.PURCHASE]
        is_bought &= places >= 0
        if np.count_nonzero(is_bought) < self._purchases:
            return own
        dates: dict[int, set[int]] = {}
        for product, at in zip(places[is_bought].tolist(), history.at[is_bought].tolist(), strict=True):
            dates.setdefault(product, set()).add(at // DAY_US)
        for place, product in enumerate(products.tolist()):
            seen = dates.get(product, ())
            if len(seen) >= self._purchases:
                own[place] = (max(seen) - min(seen)) / (len(seen) - 1)
        return own
