"""The customers of the simulated world as visitors who are shown lists: what they look at, click and buy.

Who comes, how often, with which taste and for how many looks is as in the history (``eval.world_visits``,
``eval.world_history``); so is the position-based model of clicks (``eval.world_exposure``): a product is clicked if
its place was examined *and* the customer looks at it in that visit. The looks of a visit are a Poisson number, so that
given taste and length of the visit products are looked at independently of each other (Kingman, "Poisson Processes",
1993, §5.1); the one look that every visit has is treated alike.

Expectations are exact (``chance``, ``expected_clicks``), so that what an experiment finds can be held against what is
so. Deliberately absent: the rhythm of week and year, which is the same for all variants, and any effect of what was
shown in one visit on the next.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import numpy as np
import numpy.typing as npt

from eval.world_time import DAY, BoolArray, FloatArray, IntArray, to_instant, to_seconds
from eval.world_truth import (
    ALIVE_UNTIL,
    LOOKS_PER_VISIT,
    PRICE_SENSITIVITY,
    VISITS_PER_DAY,
    Truth,
)
from feature_repo.errors import ConfigError
from feature_repo.schema import CUSTOMER_ID, PRICE, PRODUCT_ID, SIGNED_UP_AT


@dataclass(frozen=True, eq=False)
class Visits:
    """Visits: whose (row of ``Visitors``), following which taste, with how many looks and which coupon, paid or not."""

    visitor: IntArray
    taste: IntArray
    looks: IntArray
    coupon: FloatArray
    pays: BoolArray


@dataclass(frozen=True, eq=False)
class Visitors:
    """The customers who are there at an instant, and the visits they are expected to make from then on.

    Attributes
    ----------
    truth
        The world.
    at
        The instant, seconds since 1970: what is on sale, and at what price, is that of this instant throughout.
    rows
        Shape (visitors,): rows of ``truth.customers``.
    expected
        Shape (visitors,): mean number of visits in the days from then on, leaving taken account of.
    """

    truth: Truth
    at: int
    rows: IntArray
    expected: FloatArray

    @classmethod
    def of(cls, truth: Truth, *, at: datetime, days: float) -> Visitors:
        """Return the customers who are there at an instant, with their visits of the ``days`` from then on.

        Raises
        ------
        ConfigError
            Nobody is there, or ``days`` is not positive.
        """
        if not days > 0:
            raise ConfigError(f"expected more than 0 days, found {days}; 28 are usual")
        now = to_instant(at)
        leaves = to_seconds(truth.customers[ALIVE_UNTIL])
        there = (to_seconds(truth.customers[SIGNED_UP_AT]) <= now) & (leaves > now)
        rows = np.flatnonzero(there).astype(np.int64)
        if not len(rows):
            raise ConfigError(
                f"expected customers who are there on {at:%Y-%m-%d}, found none; choose a time in the history"
            )
        stays = np.minimum(leaves[rows] - now, days * DAY) / DAY
        return cls(truth, now, rows, truth.customers[VISITS_PER_DAY].to_numpy()[rows] * stays)

    @cached_property
    def ids(self) -> list[str]:
        """Ids of the visitors, shape (visitors,)."""
        return [str(one) for one in self.truth.customers[CUSTOMER_ID].to_numpy()[self.rows]]

    @cached_property
    def index(self) -> dict[str, int]:
        """Product id → column."""
        return {str(one): column for column, one in enumerate(self.truth.products[PRODUCT_ID])}

    @cached_property
    def shares(self) -> npt.NDArray[np.float32]:
        """Chance that one look falls on each product, shape (visitors, tastes, products); 0 where it is not on sale."""
        tastes = self.truth.tastes[self.rows]
        found = np.empty((*tastes.shape[:2], len(self.truth.products)), dtype=np.float32)
        for taste in range(tastes.shape[1]):
            found[:, taste] = self.truth.view_shares(tastes[:, taste], at=self.at)
        return found

    @cached_property
    def chance(self) -> FloatArray:
        """Chance that a visit looks at each product, over tastes and lengths of visits, shape (visitors, products)."""
        looks = self.truth.customers[LOOKS_PER_VISIT].to_numpy()[self.rows, None]
        weights = self.truth.taste_weights[self.rows]
        found = np.zeros((len(self.rows), self.shares.shape[2]))
        for taste in range(self.shares.shape[1]):
            seen = self.truth.seen_rate(self.shares[:, taste].astype(np.float64), looks)
            found += weights[:, taste, None] * seen
        return found

    def examination(self, n: int) -> FloatArray:
        """Chance that each of ``n`` places is examined, the first one first, shape (n,)."""
        places: FloatArray = np.arange(1, n + 1, dtype=np.float64) ** -self.truth.config.examination_power
        return places

    def expected_clicks(self, products: IntArray) -> FloatArray:
        """Return the expected clicks of a visit to which a list (visitors, n) is shown, −1 beyond its end; exact."""
        seen = np.take_along_axis(self.chance, np.maximum(products, 0), axis=1)
        clicks: FloatArray = np.where(products >= 0, seen, 0.0) @ self.examination(products.shape[1])
        return clicks

    def visits(self, visitor: IntArray, *, rng: np.random.Generator) -> Visits:
        """Draw one visit of each given visitor (a row may come more than once)."""
        config, hidden = self.truth.config, self.truth.customers
        follows = np.cumsum(self.truth.taste_weights[self.rows[visitor]], axis=1)[:, :-1]
        taste = (rng.random((len(visitor), 1)) > follows).sum(axis=1)
        mean = hidden[LOOKS_PER_VISIT].to_numpy()[self.rows[visitor]] - 1
        mean = mean * rng.gamma(config.views_shape, 1 / config.views_shape, size=len(visitor))
        coupon = rng.choice(config.discounts, size=len(visitor))
        coupon = coupon * (rng.random(len(visitor)) < config.discount_share)
        return Visits(
            visitor,
            taste.astype(np.int64),
            1 + rng.poisson(mean),
            coupon,
            rng.random(len(visitor)) < config.checkout_rate,
        )

    def outcomes(
        self, visits: Visits, products: IntArray, *, rng: np.random.Generator
    ) -> tuple[BoolArray, BoolArray]:
        """Draw what of the lists that visits are shown is clicked, and bought.

        Parameters
        ----------
        visits
            As ``visits`` draws them.
        products
            Shape (visits, n): columns of products, −1 beyond the end of a list.
        rng
            Source of chance; numbers are drawn whatever the list holds.

        Returns
        -------
        clicked, bought
            Shape (visits, n); what is bought is clicked.
        """
        shape = products.shape
        examined = rng.random(shape) < self.examination(shape[1])
        known, column = products >= 0, np.maximum(products, 0)
        share = self.shares[visits.visitor[:, None], visits.taste[:, None], column].astype(np.float64)
        wanted = rng.random(shape) < 1 - (1 - share) ** visits.looks[:, None]
        clicked = examined & wanted & known
        chances = rng.random(shape)
        row, place = np.nonzero(clicked & visits.pays[:, None])
        bought = np.zeros(shape, dtype=bool)
        bought[row, place] = chances[row, place] < self._carts(visits, row, column[row, place])
        return clicked, bought

    def prices(self, products: IntArray, coupon: FloatArray) -> FloatArray:
        """Return what products cost at the instant, less a coupon's share."""
        launch = self.truth.products[PRICE].to_numpy()[products]
        cut = self.truth.price_cut(products, at=np.array(self.at))
        paid: FloatArray = launch * (1 - cut) * (1 - coupon)
        return paid

    def _carts(self, visits: Visits, row: IntArray, product: IntArray) -> FloatArray:
        """Return the chance that each product clicked, in the visit of the same row, goes into the cart."""
        customer = self.rows[visits.visitor[row]]
        taste = self.truth.tastes[customer, visits.taste[row]]
        match = np.einsum("ij,ij->i", taste, self.truth.product_factors[product])
        cut = self.truth.price_cut(product, at=np.array(self.at))
        sensitivity = self.truth.customers[PRICE_SENSITIVITY].to_numpy()[customer]
        return self.truth.cart_rate(match, pull=sensitivity * (1 - (1 - cut) * (1 - visits.coupon[row])))
