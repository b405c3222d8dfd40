"""What is really so in the simulated world: hidden tastes, and what customers would buy.

``Truth`` is the answer sheet. Models never see it; evaluation ranks by it to learn how well one could do at
all, and tests recover against it. The simulation draws from the very functions that are offered here, so
the truth cannot drift from the data. Deliberately absent: what a customer *will* do. Intensities are
expectations before chance, and whether a customer is still there is told apart (``alive_until``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

from eval.world_config import WorldConfig
from feature_repo.errors import DataError
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    LAUNCHED_AT,
    PRODUCT_ID,
    PRODUCT_IDX,
    SIGNED_UP_AT,
    WITHDRAWN_AT,
)

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

ALIVE_UNTIL: Final = "alive_until"
VISITS_PER_DAY: Final = "visits_per_day"
APPEAL: Final = "appeal"
SEASON: Final = "season"
PEAK_DAY: Final = "peak_day"
REPLENISH_DAYS: Final = "replenish_days"

DAY: Final = 86_400
"""Seconds in a day."""

_BLOCK = 1024  # rows of a dense (rows, products) matrix held at once
_YEAR_DAYS = 365.25
_FOREVER = np.iinfo(np.int64).max


def to_instant(at: datetime) -> int:
    """Whole seconds since 1970 of one instant; DataError if it has no timezone."""
    if at.tzinfo is None:
        raise DataError(f"expected an instant with a timezone, found {at!r}: give it one, such as UTC.")
    return math.floor(at.timestamp())


def to_seconds(times: pd.Series) -> IntArray:
    """Whole seconds since 1970 of a column of instants; a missing instant is far in the future."""
    seconds = times.dt.as_unit("s").astype("int64").to_numpy()
    return np.where(times.isna(), _FOREVER, seconds)


def to_times(seconds: FloatArray | IntArray) -> pd.Series:
    """Instants (UTC, microseconds) of seconds since 1970, cut to whole ones; inf becomes a missing one."""
    known = np.isfinite(seconds)
    micros = np.where(known, seconds, 0).astype(np.int64) * 1_000_000
    return pd.Series(micros.view("datetime64[us]")).dt.tz_localize("UTC").where(known)


@dataclass(frozen=True, eq=False)
class Truth:
    """The hidden side of a world.

    Attributes
    ----------
    config
        What the world was made from.
    customers
        ``customer_id``, ``signed_up_at``, ``alive_until`` (the customer does nothing from then on; may lie
        after the end of the history), ``visits_per_day`` (mean rate of browsing visits).
    products
        ``product_id``, ``launched_at``, ``withdrawn_at``, ``available``, ``appeal`` (log popularity),
        ``season`` and ``peak_day`` (demand swings by ``exp(±season)``), ``replenish_days`` (0: it lasts).
    tastes
        Shape (customers, tastes, factors + 2): taste vectors; the last two dimensions are eco and price.
    taste_weights
        Shape (customers, tastes): how often a visit follows each taste; rows sum to 1.
    product_factors
        Shape (products, factors + 2): in the same space.
    owned
        ``customer_idx``, ``product_idx``, ``at``: the first purchase of each pair and each renewal of what
        had run out, in order of time.
    """

    config: WorldConfig
    customers: pd.DataFrame
    products: pd.DataFrame
    tastes: FloatArray
    taste_weights: FloatArray
    product_factors: FloatArray
    owned: pd.DataFrame

    @property
    def signed_up_at(self) -> pd.Series:
        """When each customer signed up, by ``customer_id``."""
        return self.customers.set_index(CUSTOMER_ID)[SIGNED_UP_AT]

    @property
    def alive_until(self) -> pd.Series:
        """When each customer leaves for good, by ``customer_id``."""
        return self.customers.set_index(CUSTOMER_ID)[ALIVE_UNTIL]

    def affinity(
        self,
        customer_ids: Iterable[str],
        *,
        at: datetime,
        product_ids: Iterable[str] | None = None,
        repeats: bool = False,
    ) -> FloatArray:
        """Expected purchases of each product by each customer per day at an instant, while they are there.

        Taste, popularity, season and novelty make it up, as if the customer owned nothing; with ``repeats``
        what was bought before ``at`` counts too: less interest in what one has, more in what runs out. The
        rhythm of week and year, which is the same for all products, is left out, and so is whether the
        customer has signed up or left.

        Parameters
        ----------
        customer_ids
            Customers, in the order of the rows.
        at
            The instant, timezone-aware.
        product_ids
            Products, in the order of the columns; default all, in the order of ``products``.
        repeats
            Take account of what each customer bought before ``at``.

        Returns
        -------
        ndarray
            Shape (customers, products), purchases a day; 0 exactly where the product is not on sale.

        Raises
        ------
        DataError
            An id is unknown, or ``at`` has no timezone.
        """
        rows = _positions(self.customers[CUSTOMER_ID], customer_ids)
        columns = slice(None) if product_ids is None else _positions(self.products[PRODUCT_ID], product_ids)
        instant = np.array([to_instant(at)])
        intensity = np.concatenate(
            [np.empty((0, len(self.products)))]
            + [self._discovery(rows[i : i + _BLOCK], instant) for i in range(0, len(rows), _BLOCK)]
        )
        if repeats:
            intensity = self._with_repeats(intensity, rows, int(instant[0]))
        return intensity[:, columns]

    def top(
        self, customer_ids: Iterable[str], *, n: int, at: datetime, exclude: pd.DataFrame | None = None
    ) -> npt.NDArray[np.object_]:
        """Products a customer would most likely discover next, best first: what an oracle recommends.

        Parameters
        ----------
        customer_ids
            Customers, in the order of the rows.
        n
            How many products each.
        at
            The instant, timezone-aware.
        exclude
            Pairs (``customer_id``, ``product_id``) to leave out, such as past purchases.

        Returns
        -------
        ndarray
            Shape (customers, n): product ids; None where fewer than ``n`` products are left.
        """
        customers = list(customer_ids)
        intensity = self.affinity(customers, at=at)
        if exclude is not None:
            row_of, distinct = pd.factorize(np.array(customers, dtype=object))
            pairs = exclude[exclude[CUSTOMER_ID].isin(distinct)]
            barred = np.zeros((len(distinct), len(self.products)), dtype=bool)
            row = pd.Index(distinct).get_indexer(pd.Index(pairs[CUSTOMER_ID]))
            barred[row, _positions(self.products[PRODUCT_ID], pairs[PRODUCT_ID])] = True
            intensity[barred[row_of]] = 0.0
        order = np.argsort(-intensity, axis=1, kind="stable")[:, :n]
        best = np.full((len(customers), n), None, dtype=object)
        row, rank = np.nonzero(np.take_along_axis(intensity, order, axis=1))
        best[row, rank] = self.products[PRODUCT_ID].to_numpy(dtype=object)[order[row, rank]]
        return best

    def on_sale(self, product_idx: IntArray, *, at: IntArray) -> BoolArray:
        """Tell whether products are on sale at instants (seconds since 1970); the two are broadcast."""
        launched, withdrawn = self._on_sale_between
        sold: BoolArray = (launched[product_idx] <= at) & (at < withdrawn[product_idx])
        return sold

    def view_shares(self, tastes: FloatArray, *, at: IntArray) -> FloatArray:
        """Chance that a look in a visit falls on each product.

        Parameters
        ----------
        tastes
            Shape (visits, factors + 2): the taste each visit follows.
        at
            Shape (visits,) or (1,): when, seconds since 1970.

        Returns
        -------
        ndarray
            Shape (visits, products); rows sum to 1, or to 0 where nothing is on sale.
        """
        # Season and novelty are products of a function of time and one of the product (a cosine of a
        # difference, an exponential of one), so that the whole logit is a single matrix product.
        angle = 2 * np.pi * at / (DAY * _YEAR_DAYS)
        fading = np.exp(-(at - self._origin) / (DAY * self.config.novelty_days))
        moment = np.stack([np.cos(angle), np.sin(angle), np.ones(len(at)), fading], axis=1)
        context = np.hstack([tastes, np.broadcast_to(moment, (len(tastes), 4))])
        logits = context @ self._loadings.T
        sold = self.on_sale(np.arange(len(self.products)), at=at[:, None])
        np.copyto(logits, -np.inf, where=~sold)
        weights: FloatArray = np.exp(logits, out=logits)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total > 0, total, 1.0)
        return weights

    def cart_rate(self, match: FloatArray) -> FloatArray:
        """Chance that a viewed product goes into the cart, given taste · product (any shape)."""
        logit = self.config.cart_bias + self.config.cart_slope * (match - 1.0)
        return 1.0 / (1.0 + np.exp(-logit))

    def write(self, directory: Path) -> None:
        """Write the truth as Parquet, ``.npy`` and JSON files into ``directory``."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(self.config.model_dump_json(indent=2) + "\n")
        for name in _FRAMES:
            getattr(self, name).to_parquet(directory / f"{name}.parquet", index=False)
        for name in _ARRAYS:
            np.save(directory / f"{name}.npy", getattr(self, name), allow_pickle=False)

    @classmethod
    def read(cls, directory: Path) -> Truth:
        """Read what ``write`` wrote."""
        return cls(
            config=WorldConfig.model_validate_json((directory / "config.json").read_text()),
            **{name: pd.read_parquet(directory / f"{name}.parquet") for name in _FRAMES},  # type: ignore[arg-type]
            **{name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in _ARRAYS},
        )

    @cached_property
    def _origin(self) -> int:
        return to_instant(self.config.ends_at)

    @cached_property
    def _on_sale_between(self) -> tuple[IntArray, IntArray]:
        launched = to_seconds(self.products[LAUNCHED_AT])
        withdrawn = to_seconds(self.products[WITHDRAWN_AT])
        return launched, np.where(self.products[AVAILABLE], withdrawn, launched)

    @cached_property
    def _loadings(self) -> FloatArray:
        """Shape (products, factors + 6): the product's side of ``view_shares``."""
        config, products = self.config, self.products
        peak = 2 * np.pi * products[PEAK_DAY].to_numpy() / _YEAR_DAYS
        season = products[SEASON].to_numpy()
        age = (self._on_sale_between[0] - self._origin) / (DAY * config.novelty_days)
        return np.column_stack(
            [
                config.sharpness * self.product_factors,
                season * np.cos(peak),
                season * np.sin(peak),
                products[APPEAL].to_numpy(),
                config.novelty * np.exp(age),
            ]
        )

    def _discovery(self, rows: IntArray, at: IntArray) -> FloatArray:
        """Purchases a day from browsing, shape (rows, products)."""
        config = self.config
        further = config.views_per_visit - 1
        bought = np.zeros((len(rows), len(self.products)))
        for taste, weight in zip(self.tastes[rows].swapaxes(0, 1), self.taste_weights[rows].T, strict=True):
            share = self.view_shares(taste, at=at)
            # 1 + Poisson(further) looks, each on the product with chance `share`: seen at least once
            seen = 1 - (1 - share) * np.exp(-further * share)
            bought += weight[:, None] * seen * self.cart_rate(taste @ self.product_factors.T)
        visits = self.customers[VISITS_PER_DAY].to_numpy()[rows, None]
        intensity: FloatArray = bought * config.checkout_rate * visits
        return intensity

    def _with_repeats(self, discovery: FloatArray, rows: IntArray, at: int) -> FloatArray:
        """Purchases a day given what each customer has: less out of interest, more of what runs out.

        The latter is the hazard of a Weibull waiting time that is infinite with chance 1 - ``rebuy_rate``.
        """
        config = self.config
        past = self.owned[to_seconds(self.owned[AT]) <= at]
        past = past.drop_duplicates([CUSTOMER_IDX, PRODUCT_IDX], keep="last")
        distinct, inverse = np.unique(rows, return_inverse=True)
        row = pd.Index(distinct).get_indexer(pd.Index(past[CUSTOMER_IDX]))
        past, row = past[row >= 0], row[row >= 0]
        product = past[PRODUCT_IDX].to_numpy()

        days = self.products[REPLENISH_DAYS].to_numpy()[product]
        scale = np.where(days > 0, days, np.inf) / math.gamma(1 + 1 / config.rebuy_shape)
        age = (at - to_seconds(past[AT])) / DAY / scale
        waiting = np.exp(-(age**config.rebuy_shape))
        density = config.rebuy_shape / scale * age ** (config.rebuy_shape - 1) * waiting
        due = np.zeros((len(distinct), len(self.products)))
        due[row, product] = config.rebuy_rate * density / (1 - config.rebuy_rate * (1 - waiting))
        interest = np.ones_like(due)
        interest[row, product] = config.again_rate
        sold = self.on_sale(np.arange(len(self.products)), at=np.array([at]))
        return discovery * interest[inverse] + np.where(sold, due[inverse], 0.0)


_FRAMES = ("customers", "products", "owned")
_ARRAYS = ("tastes", "taste_weights", "product_factors")


def _positions(known: pd.Series, wanted: Iterable[str]) -> IntArray:
    """Row numbers of ids; DataError if one is not known."""
    ids = list(wanted)
    positions: IntArray = pd.Index(known).get_indexer(ids).astype(np.int64)
    if (positions < 0).any():
        stranger = ids[int(np.argmin(positions))]
        raise DataError(f"expected ids of this world in {known.name}, found {stranger!r}.")
    return positions
