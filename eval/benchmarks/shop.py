"""A drawn shop of the size of a real one: its catalog, its product vectors, and what its customers did.

Products lie in clusters (``eval.benchmarks.index.drawn``) and categories follow them: each product is of the category
of the nearest of a few random products. A customer has three favourite categories and looks around a little beyond;
within a category the popular are taken more often. Kinds are mixed, several events in a row are often of one product,
and all of them lie in the four weeks before the shop's instant. Deliberately absent: anything learned, and files.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from eval.benchmarks.index import drawn
from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US, KIND_CODES, History, to_micros
from serving.catalog import REPURCHASE_DAYS, Catalog
from serving.errors import ConfigError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]

HISTORY_DAYS: Final = 28
FAVOURITES: Final = 3
#: How often an event is of the first, second and third favourite category; the rest is of any.
_TASTE: Final = (0.4, 0.25, 0.15)
_KINDS: Final = {s.VIEW: 0.70, s.CLICK: 0.12, s.CART: 0.09, s.PURCHASE: 0.08, s.RETURN: 0.01}
_SAME_AGAIN: Final = 0.3
_EARLIER: Final = 12
_CATEGORIES: Final = 200


@dataclass(frozen=True)
class Size:
    """How large a shop is; ``history`` is the number of recent events of each customer.

    Raises
    ------
    ConfigError
        A number is out of its bounds.
    """

    products: int = 50_000
    dimensions: int = 64
    customers: int = 200_000
    history: int = v.HISTORY_LENGTH

    def __post_init__(self) -> None:
        bounds = {
            "products": (100, 1_000_000),
            "dimensions": (2, 4096),
            "customers": (10, 10_000_000),
            "history": (1, v.HISTORY_LENGTH),
        }
        for name, (least, most) in bounds.items():
            found = getattr(self, name)
            if not least <= found <= most:
                raise ConfigError(f"expected {name} from {least} to {most}, found {found}; correct --{name}")


@dataclass(frozen=True)
class Shop:
    """What was drawn; product and category are int32 codes, times µs since 1970.

    Parameters
    ----------
    size, at
        Its size, and the instant it stands at.
    catalog
        (products,) with categories, prices, sale dates and attributes.
    vectors
        (products, dimensions) float32.
    popularity
        (products,) how often a product is taken, relative to others of its category.
    category_names, category
        Names by code, and the code (products,) of each product.
    customers
        Ids, in the order of their bytes.
    favourites
        (customers, ``FAVOURITES``) categories, the dearest first.
    products, kinds, times
        (customers, history) events, oldest first.
    earlier, earlier_times
        (customers, 12) purchases of the year before.
    """

    size: Size
    at: datetime
    catalog: Catalog
    vectors: Float32
    popularity: Float64
    category_names: list[str]
    category: Int32
    customers: list[str]
    favourites: Int32
    products: Int32
    kinds: Int8
    times: Int64
    earlier: Int32
    earlier_times: Int64

    @property
    def as_of(self) -> datetime:
        """The instant at which the data of the shop's bundle ended: half a day before the shop's own."""
        return self.at - timedelta(hours=12)

    def values(self, rows: slice) -> Float64:
        """Return the money (rows, history) of events of some customers: the price of what was bought or returned."""
        prices = self.catalog.frame[s.PRICE].to_numpy(dtype=np.float64)
        paid = np.isin(self.kinds[rows], [KIND_CODES[s.PURCHASE], KIND_CODES[s.RETURN]])
        return np.where(paid, prices[self.products[rows]], 0.0)

    def history(self, row: int) -> History:
        """Return the recent events of one customer."""
        ids = tuple(self.catalog.ids[product] for product in self.products[row].tolist())
        return History(ids, self.kinds[row], self.times[row], self.values(slice(row, row + 1))[0])

    def segment(self, row: int) -> str:
        """Return the segment of one customer, as the features name it."""
        return f"category:{self.category_names[self.favourites[row, 0]]}"


def draw_shop(size: Size, *, seed: int, at: datetime) -> Shop:
    """Draw a shop; the same size, seed and instant give the same one."""
    generator = np.random.default_rng(seed)
    vectors = drawn(size.products, size.dimensions, generator)
    category = _categories(vectors, generator)
    names = [f"category {code:03d}" for code in range(int(category.max()) + 1)]
    popularity = generator.permutation(np.arange(1, size.products + 1) ** -0.8)
    shelves = _Shelves(category, popularity)
    favourites = generator.integers(len(names), size=(size.customers, FAVOURITES), dtype=np.int32)
    products = shelves.taken(favourites, size.history, generator)
    again = generator.random(products.shape) < _SAME_AGAIN
    again[:, 0] = False
    first = np.maximum.accumulate(np.where(again, 0, np.arange(size.history)), axis=1)
    kinds = np.array([KIND_CODES[kind] for kind in _KINDS], dtype=np.int8)
    shape = (size.customers, size.history)
    now = to_micros(at)
    return Shop(
        size=size,
        at=at,
        catalog=_catalog(category, names, generator, at),
        vectors=vectors,
        popularity=popularity,
        category_names=names,
        category=category,
        customers=[f"c{row:08d}" for row in range(size.customers)],
        favourites=favourites,
        products=np.take_along_axis(products, first, axis=1),
        kinds=kinds[generator.choice(len(kinds), p=list(_KINDS.values()), size=shape)],
        times=now - np.sort(generator.integers(1, HISTORY_DAYS * DAY_US, size=shape), axis=1)[:, ::-1],
        earlier=shelves.taken(favourites, _EARLIER, generator),
        earlier_times=now
        - generator.integers(HISTORY_DAYS * DAY_US, 365 * DAY_US, size=(size.customers, _EARLIER)),
    )


class _Shelves:
    """Draws products of a category, or of any, in proportion to their popularity."""

    def __init__(self, category: Int32, popularity: Float64) -> None:
        self._order = np.argsort(category, kind="stable").astype(np.int32)
        self._reach = np.cumsum(popularity[self._order])
        ends = self._reach[np.cumsum(np.bincount(category)) - 1]
        # one shelf more, with everything
        self._low = np.concatenate([[0.0], ends[:-1], [0.0]])
        self._high = np.concatenate([ends, ends[-1:]])

    def taken(self, favourites: Int32, count: int, generator: np.random.Generator) -> Int32:
        """Return (customers, count) products."""
        customers = len(favourites)
        chances = [*_TASTE, 1.0 - sum(_TASTE)]
        everything = np.full((customers, 1), len(self._low) - 1, dtype=np.int32)
        choices = generator.choice(len(chances), p=chances, size=(customers, count))
        shelf = np.take_along_axis(np.hstack([favourites, everything]), choices, axis=1)
        low = self._low[shelf]
        place = low + generator.random((customers, count)) * (self._high[shelf] - low)
        found = np.searchsorted(self._reach, place, side="right")
        taken: Int32 = self._order[np.minimum(found, len(self._order) - 1)]
        return taken


def _categories(vectors: Float32, generator: np.random.Generator) -> Int32:
    """Return the category (products,) of each product: the nearest, by cosine, of a few random products."""
    count = min(_CATEGORIES, len(vectors) // 20)
    middles = vectors[generator.choice(len(vectors), count, replace=False)]
    nearest = np.argmax(vectors @ (middles / np.linalg.norm(middles, axis=1, keepdims=True)).T, axis=1)
    return np.unique(nearest, return_inverse=True)[1].astype(np.int32)


def _catalog(category: Int32, names: list[str], generator: np.random.Generator, at: datetime) -> Catalog:
    """Draw the product table: a few products are not on sale, two attributes are text, two are not."""
    size = len(category)
    brands = [f"Brand {code:03d}" for code in range(150)]
    brand = generator.integers(len(brands), size=size)
    begun = pd.Timestamp(at) - pd.to_timedelta(generator.integers(-5, 1000, size), unit="D")
    ended = pd.Series(pd.Timestamp(at) + pd.to_timedelta(generator.integers(-100, 100, size), unit="D"))
    return Catalog(
        pd.DataFrame(
            {
                s.PRODUCT_ID: [f"p{row:07d}" for row in range(size)],
                s.NAME: [f"{brands[brand[row]]}, {names[category[row]]}, no. {row}" for row in range(size)],
                s.CATEGORY: np.array(names, dtype=object)[category],
                s.PRICE: generator.lognormal(3.0, 0.9, size).round(2),
                s.AVAILABLE: pd.array(generator.random(size) < 0.97, dtype="boolean"),
                s.LAUNCHED_AT: begun,
                s.WITHDRAWN_AT: ended.where(generator.random(size) < 0.04),
                "brand": np.array(brands, dtype=object)[brand],
                "colour": generator.choice(["black", "blue", "green", "red", "white"], size),
                "stars": generator.integers(1, 6, size).astype(float),
                "eco": generator.random(size) < 0.2,
                REPURCHASE_DAYS: np.where(
                    generator.random(size) < 0.5, np.nan, generator.uniform(5, 90, size)
                ),
            }
        )
    )
