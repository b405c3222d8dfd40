"""After how long a product bought before is due: the category's days, the customer's own rhythm, what is usual."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from feature_repo import schema as s
from feature_repo.recent import DAY_US
from serving.catalog import Catalog
from serving.rules.config import Due
from serving.subject import Bought

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
        self._usual = catalog.repurchase_days
        days = catalog.frame[s.CATEGORY].map(due.days)
        self._of_category: Floats = np.asarray(days, dtype=np.float64)

    def days(self, bought: Bought) -> Floats:
        """Return after how many days each product bought before (m,) is due; NaN where nobody buys it at a rhythm.

        The customer's own gap is the mean between the first and the last day of purchase; it is not known in bundles
        that do not tell when a product was first bought.
        """
        products = bought.products
        set_days, own = self._of_category[products], np.full(len(products), np.nan)
        if bought.first is not None:
            often = bought.days >= self._purchases
            span = bought.last[often] // DAY_US - bought.first[often] // DAY_US
            own[often] = span / (bought.days[often] - 1)
        return np.where(np.isnan(set_days), np.where(np.isnan(own), self._usual[products], own), set_days)
