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
from eval.world_shelf import Shelf
from eval.world_time import (
    DAY,
    YEAR_DAYS,
    BoolArray,
    FloatArray,
    IntArray,
    TextArray,
    to_instant,
    to_seconds,
)
from feature_repo.errors import DataError
from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    CUSTOMER_IDX,
    LAUNCHED_AT,
    PRODUCT_ID,
    PRODUCT_IDX,
    SIGNED_UP_AT,
)

ALIVE_UNTIL: Final = "alive_until"
VISITS_PER_DAY: Final = "visits_per_day"
LOOKS_PER_VISIT: Final = "looks_per_visit"
PRICE_SENSITIVITY: Final = "price_sensitivity"
WEALTH: Final = "wealth"
APPEAL: Final = "appeal"
SEASON: Final = "season"
PEAK_DAY: Final = "peak_day"
REPLENISH_DAYS: Final = "replenish_days"

_BLOCK = 1024  # rows of a dense (rows, products) matrix held at once


@dataclass(frozen=True, eq=False)
class Truth:
    """The hidden side of a world.

    Attributes
    ----------
    config
        What the world was made from.
    customers
        ``customer_id``, ``signed_up_at``, ``alive_until`` (the customer does nothing from then on; may lie
        after the end of the history), ``visits_per_day`` (mean rate of browsing visits),
        ``looks_per_visit`` (mean), ``price_sensitivity`` (logits of carting gained if a product cost
        nothing), ``wealth`` (standard normal).
    products
        ``product_id``, ``launched_at``, ``withdrawn_at``, ``price`` (at launch), ``appeal`` (log popularity),
        ``season`` and ``peak_day`` (demand swings by ``exp(±season)``), ``replenish_days`` (0: it lasts).
    versions
        ``product_idx``, ``valid_from``, ``available``, ``price``, ``margin``: what is so from then on.
    tastes
        Shape (customers, tastes, factors + 2): taste vectors; the last two dimensions are eco and price.
    taste_weights
        Shape (customers, tastes): how often a visit follows each taste; rows sum to 1.
    product_factors
        Shape (products, factors + 2): in the same space.
    owned
        ``customer_idx``, ``product_idx``, ``at``: the first purchase of each pair and each renewal of what
        had run out, in order of time.
    effects
        What each planned contact does to its customer: see ``eval.world_campaigns.EFFECT_COLUMNS``.
    agents
        ``agent_id``, ``skill``: factor on the chance to persuade.
    relevance
        ``request_id``, ``product_id``, ``relevance`` (chance that the customer would look at the product in
        that visit), ``examined``: row by row beside ``World.exposures``.
    """

    config: WorldConfig
    customers: pd.DataFrame
    products: pd.DataFrame
    versions: pd.DataFrame
    tastes: FloatArray
    taste_weights: FloatArray
    product_factors: FloatArray
    owned: pd.DataFrame
    effects: pd.DataFrame
    agents: pd.DataFrame
    relevance: pd.DataFrame

    @property
    def signed_up_at(self) -> pd.Series:
        """When each customer signed up, by ``customer_id``."""
        return self.customers.set_index(CUSTOMER_ID)[SIGNED_UP_AT]

    @property
    def alive_until(self) -> pd.Series:
        """When each customer leaves for good, by ``customer_id``."""
        return self.customers.set_index(CUSTOMER_ID)[ALIVE_UNTIL]

    @property
    def examination(self) -> FloatArray:
        """Chance that each position of a shown list is examined, shape (positions,), the first one first."""
        positions = np.arange(1, self.config.list_length + 1, dtype=np.float64)
        chance: FloatArray = positions**-self.config.examination_power
        return chance

    @cached_property
    def shelf(self) -> Shelf:
        """What is on sale on each day, and at what price."""
        return Shelf.of(self.products, self.versions, self.config)

    def affinity(
        self,
        customer_ids: Iterable[str],
        *,
        at: datetime,
        product_ids: Iterable[str] | None = None,
        repeats: bool = False,
    ) -> FloatArray:
        """Expected purchases of each product by each customer per day at an instant, while they are there.

        Taste, popularity, season, novelty and price make it up, as if the customer owned nothing; with
        ``repeats`` what was bought before ``at`` counts too: less interest in what one has, more in what runs
        out. The rhythm of week and year, which is the same for all products, is left out, and so are
        campaigns, and whether the customer has signed up or left.

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
        instant = to_instant(at)
        intensity = np.concatenate(
            [np.empty((0, len(self.products)))]
            + [self._discovery(rows[i : i + _BLOCK], instant) for i in range(0, len(rows), _BLOCK)]
        )
        if repeats:
            intensity = self._with_repeats(intensity, rows, instant)
        return intensity[:, columns]

    def top(
        self, customer_ids: Iterable[str], *, n: int, at: datetime, exclude: pd.DataFrame | None = None
    ) -> TextArray:
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
        sold: BoolArray = self.shelf.stocked[self.shelf.row(at), product_idx]
        return sold

    def price_cut(self, product_idx: IntArray, *, at: IntArray) -> FloatArray:
        """How far prices lie below those at launch, as a share of them; negative where they rose."""
        cut: FloatArray = 1.0 - self.shelf.price[self.shelf.row(at), product_idx].astype(np.float64)
        return cut

    def weights(self, tastes: FloatArray, *, at: int) -> npt.NDArray[np.float32]:
        """Chance that a look in a visit falls on each product, up to a factor of each row.

        Parameters
        ----------
        tastes
            Shape (visits, factors + 2): the taste each visit follows.
        at
            When, seconds since 1970; the same for all rows.

        Returns
        -------
        ndarray
            Shape (visits, products), float32; 0 where the product is not on sale. Single precision because
            the matrix is the largest thing there is, and chance blurs far more than its seventh digit.
        """
        # Season and novelty are products of a function of time and one of the product (a cosine of a
        # difference, an exponential of one), so that the logit is one matrix product and one vector.
        angle = 2 * np.pi * at / (DAY * YEAR_DAYS)
        fading = np.exp(-(at - self._origin) / (DAY * self.config.novelty_days))
        moment = self._loadings @ np.array([np.cos(angle), np.sin(angle), 1.0, fading])
        moment[~self.shelf.stocked[self.shelf.row(np.array(at))]] = -np.inf
        logits = tastes.astype(np.float32) @ self._factors.T
        logits += moment.astype(np.float32)
        weights: npt.NDArray[np.float32] = np.exp(logits, out=logits)
        return weights

    def view_shares(self, tastes: FloatArray, *, at: int) -> FloatArray:
        """Chance that a look in a visit falls on each product: ``weights`` with rows that sum to 1.

        Rows are 0 where nothing is on sale.
        """
        weights = self.weights(tastes, at=at).astype(np.float64)
        total = weights.sum(axis=1, keepdims=True)
        weights /= np.where(total > 0, total, 1.0)
        return weights

    def cart_rate(self, match: FloatArray, *, pull: FloatArray | float = 0.0) -> FloatArray:
        """Chance that a viewed product goes into the cart.

        Parameters
        ----------
        match
            Taste · product (any shape).
        pull
            Price sensitivity times the share by which the price lies below the one at launch (same shape).
        """
        logit = self.config.cart_bias + self.config.cart_slope * (match - 1.0) + pull
        return 1.0 / (1.0 + np.exp(-logit))

    def mean_cart_rate(self, match: FloatArray, *, sensitivity: FloatArray, cut: FloatArray) -> FloatArray:
        """``cart_rate`` averaged over whether a visit has a coupon, and which; all shapes are broadcast."""
        config = self.config
        plain = self.cart_rate(match, pull=sensitivity * cut)
        if config.discount_share == 0 or config.price_sensitivity == 0:
            return plain
        lowered = [
            self.cart_rate(match, pull=sensitivity * (1 - (1 - cut) * (1 - coupon)))
            for coupon in config.discounts
        ]
        mean: FloatArray = np.mean(lowered, axis=0)
        return (1 - config.discount_share) * plain + config.discount_share * mean

    def seen_rate(self, share: FloatArray, looks: FloatArray) -> FloatArray:
        """Chance that a visit falls on a product (or a set of them) at least once.

        A visit has 1 + Poisson looks whose mean is gamma distributed around the customer's own.

        Parameters
        ----------
        share
            Chance of one look.
        looks
            Mean looks of the customer's visits (broadcast).
        """
        shape = self.config.views_shape
        seen: FloatArray = 1 - (1 - share) * (1 + (looks - 1) * share / shape) ** -shape
        return seen

    def renewal_rate(self, product_idx: IntArray, days: FloatArray) -> FloatArray:
        """Renewals a day of products last bought some days ago.

        The hazard of a Weibull waiting time that is infinite with chance 1 - ``rebuy_rate``.
        """
        config = self.config
        period = self.products[REPLENISH_DAYS].to_numpy()[product_idx]
        scale = np.where(period > 0, period, np.inf) / math.gamma(1 + 1 / config.rebuy_shape)
        age = days / scale
        waiting = np.exp(-(age**config.rebuy_shape))
        density = config.rebuy_shape / scale * age ** (config.rebuy_shape - 1) * waiting
        return config.rebuy_rate * density / (1 - config.rebuy_rate * (1 - waiting))

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
    def _factors(self) -> npt.NDArray[np.float32]:
        return (self.config.sharpness * self.product_factors).astype(np.float32)

    @cached_property
    def _loadings(self) -> FloatArray:
        """Shape (products, 4): what of a product's draw depends on time."""
        config, products = self.config, self.products
        peak = 2 * np.pi * products[PEAK_DAY].to_numpy() / YEAR_DAYS
        season = products[SEASON].to_numpy()
        age = (to_seconds(products[LAUNCHED_AT]) - self._origin) / (DAY * config.novelty_days)
        return np.column_stack(
            [
                season * np.cos(peak),
                season * np.sin(peak),
                products[APPEAL].to_numpy(),
                config.novelty * np.exp(age),
            ]
        )

    def _discovery(self, rows: IntArray, at: int) -> FloatArray:
        """Purchases a day from browsing, shape (rows, products)."""
        hidden = self.customers.iloc[rows]
        looks = hidden[LOOKS_PER_VISIT].to_numpy()[:, None]
        sensitivity = hidden[PRICE_SENSITIVITY].to_numpy()[:, None]
        cut = self.price_cut(np.arange(len(self.products)), at=np.array(at))
        bought = np.zeros((len(rows), len(self.products)))
        for taste, weight in zip(self.tastes[rows].swapaxes(0, 1), self.taste_weights[rows].T, strict=True):
            seen = self.seen_rate(self.view_shares(taste, at=at), looks)
            match = taste @ self.product_factors.T
            bought += weight[:, None] * seen * self.mean_cart_rate(match, sensitivity=sensitivity, cut=cut)
        visits = hidden[VISITS_PER_DAY].to_numpy()[:, None]
        intensity: FloatArray = bought * self.config.checkout_rate * visits
        return intensity

    def _with_repeats(self, discovery: FloatArray, rows: IntArray, at: int) -> FloatArray:
        """Purchases a day given what each customer has: less out of interest, more of what runs out."""
        config = self.config
        past = self.owned[to_seconds(self.owned[AT]) <= at]
        past = past.drop_duplicates([CUSTOMER_IDX, PRODUCT_IDX], keep="last")
        distinct, inverse = np.unique(rows, return_inverse=True)
        row = pd.Index(distinct).get_indexer(pd.Index(past[CUSTOMER_IDX]))
        past, row = past[row >= 0], row[row >= 0]
        product = past[PRODUCT_IDX].to_numpy()

        due = np.zeros((len(distinct), len(self.products)))
        due[row, product] = self.renewal_rate(product, (at - to_seconds(past[AT])) / DAY)
        interest = np.ones_like(due)
        interest[row, product] = config.again_rate
        sold = self.on_sale(np.arange(len(self.products)), at=np.array([at]))
        return discovery * interest[inverse] + np.where(sold, due[inverse], 0.0)


_FRAMES = ("customers", "products", "versions", "owned", "effects", "agents", "relevance")
_ARRAYS = ("tastes", "taste_weights", "product_factors")


def _positions(known: pd.Series, wanted: Iterable[str]) -> IntArray:
    """Row numbers of ids; DataError if one is not known."""
    ids = list(wanted)
    positions: IntArray = pd.Index(known).get_indexer(ids).astype(np.int64)
    if (positions < 0).any():
        stranger = ids[int(np.argmin(positions))]
        raise DataError(f"expected ids of this world in {known.name}, found {stranger!r}.")
    return positions
