"""Who and what there is in the simulated world before anything happens: its products and its customers.

Each is drawn with a public side (the columns of the input tables) and a hidden one (taste, appeal, rates,
the day of leaving). Attributes carry signal: brand, eco and price level place a product in the space of
tastes; region and age lean a customer towards some of it. Deliberately absent: anything that happens, and
consent, which changes (``eval.world_consent``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from eval.world_config import WorldConfig
from eval.world_names import AGE_BANDS, BRANDS, CATEGORIES, REGIONS, name_products
from eval.world_time import DAY, FloatArray, IntArray, at_hours, spread, to_instant, to_times
from eval.world_truth import (
    ALIVE_UNTIL,
    APPEAL,
    LOOKS_PER_VISIT,
    PEAK_DAY,
    PRICE_SENSITIVITY,
    REPLENISH_DAYS,
    SEASON,
    VISITS_PER_DAY,
    WEALTH,
)
from feature_repo.schema import (
    AVAILABLE,
    CATEGORY,
    CUSTOMER_ID,
    LAUNCHED_AT,
    MARGIN,
    NAME,
    PRICE,
    PRODUCT_ID,
    SIGNED_UP_AT,
    WITHDRAWN_AT,
)

REGION: Final = "region"
AGE_BAND: Final = "age_band"
BRAND: Final = "brand"
ECO: Final = "eco"
CHANNELS: Final = ("web", "app", "store")

_OLDEST_LAUNCH_DAYS = 730  # before the history starts
_OLDEST_SIGN_UP_DAYS = 365
_SHORTEST_SALE_DAYS = 30
_FURTHEST_DAYS = 3650  # lifetimes are told no further than this after the history ends
_CHANNEL_WEIGHTS = np.array([3.0, 2.0, 1.5])  # Dirichlet: web, app, store
_FLAGS = ("for new customers", "loyalty")  # in names of products


@dataclass(frozen=True, eq=False)
class Stock:
    """All products.

    Attributes
    ----------
    table
        Public columns and hidden ones (``appeal``, ``season``, ``peak_day``, ``replenish_days``).
    factors
        Shape (products, factors + 2): place in the space of tastes; the last two are eco and price level.
    centres
        Shape (categories, factors): where each category lies.
    """

    table: pd.DataFrame
    factors: FloatArray
    centres: FloatArray


@dataclass(frozen=True, eq=False)
class People:
    """All customers.

    Attributes
    ----------
    table
        Public columns and hidden ones (``alive_until``, ``visits_per_day``, ``looks_per_visit``,
        ``price_sensitivity``, ``wealth``).
    main
        Shape (customers,): index into ``CATEGORIES`` of what each likes most.
    tastes
        Shape (customers, tastes, factors + 2).
    taste_weights
        Shape (customers, tastes): rows sum to 1.
    channel_weights
        Shape (customers, channels): rows sum to 1.
    """

    table: pd.DataFrame
    main: IntArray
    tastes: FloatArray
    taste_weights: FloatArray
    channel_weights: FloatArray


def make_stock(config: WorldConfig) -> Stock:
    """Draw the products."""
    rng = config.chance("stock")
    size = config.products
    kind = rng.permutation(np.arange(size) % len(CATEGORIES))  # every category has products

    departments = np.unique([category.department for category in CATEGORIES], return_inverse=True)[1]
    centres = 0.6 * _noise((departments.max() + 1, config.factors), rng=rng)[departments]
    centres += 0.8 * _noise((len(CATEGORIES), config.factors), rng=rng)  # norm about 1

    # a department has its own brands, the first ones larger
    per_department = len(BRANDS) // (departments.max() + 1)
    rank = np.minimum(rng.geometric(0.4, size=size) - 1, per_department - 1)
    brand = departments[kind] * per_department + rank
    brand_factors = _noise((len(BRANDS), config.factors), rng=rng)
    brand_is_green = rng.random(len(BRANDS)) < 0.5
    eco = rng.random(size) < config.eco_share * np.where(brand_is_green[brand], 1.6, 0.4)
    level = rng.standard_normal(size)

    factors = centres[kind] + config.brand_effect * brand_factors[brand]
    factors += config.individuality * _noise((size, config.factors), rng=rng)

    start, end = to_instant(config.starts_at), to_instant(config.ends_at)
    fresh = rng.random(size) < config.new_share
    launched = np.where(
        fresh,
        spread(fresh, start, end, rng=rng),
        spread(~fresh, start - _OLDEST_LAUNCH_DAYS * DAY, start, rng=rng),
    )
    launched = np.floor(launched / DAY) * DAY
    ending = (rng.random(size) < config.withdrawn_share) & (launched + _SHORTEST_SALE_DAYS * DAY < end)
    earliest = np.maximum(launched, start) + _SHORTEST_SALE_DAYS * DAY
    withdrawn = np.where(ending, earliest + rng.random(size) * (end - earliest), np.inf)
    withdrawn = np.floor(withdrawn / DAY) * DAY

    price = np.array([category.price for category in CATEGORIES])[kind]
    price = np.maximum(np.round(price * np.exp(config.price_sigma * level), 2), 0.5)
    table = pd.DataFrame(
        {
            PRODUCT_ID: _ids("p", size),
            NAME: _flagged(name_products(kind, rng=rng), config, rng=rng),
            CATEGORY: np.array([category.name for category in CATEGORIES], dtype=object)[kind],
            PRICE: price,
            MARGIN: np.round(price * rng.uniform(0.3, 0.6, size=size), 2),
            AVAILABLE: rng.random(size) >= config.unavailable_share,
            LAUNCHED_AT: to_times(launched),
            WITHDRAWN_AT: to_times(withdrawn),
            BRAND: np.array(BRANDS, dtype=object)[brand],
            ECO: eco,
            APPEAL: config.appeal_spread * rng.standard_normal(size),
            SEASON: np.array([category.season for category in CATEGORIES])[kind],
            PEAK_DAY: np.array([category.peak_day for category in CATEGORIES])[kind] + rng.normal(0, 8, size),
            REPLENISH_DAYS: np.array([category.replenish_days for category in CATEGORIES])[kind]
            * rng.uniform(0.8, 1.25, size=size),
        }
    )
    return Stock(table, np.column_stack([factors, eco - config.eco_share, level]), centres)


def make_people(config: WorldConfig, *, centres: FloatArray) -> People:
    """Draw the customers; ``centres`` is where the categories lie."""
    rng = config.chance("people")
    size = config.customers
    region = rng.integers(len(REGIONS), size=size)
    age = rng.choice(len(AGE_BANDS), p=[0.13, 0.22, 0.21, 0.18, 0.15, 0.11], size=size)
    years = age - age.mean()  # in age bands, centred

    # each taste is near a category, drawn by what is liked in general, in the region and at the age
    liking = (
        0.5 * rng.standard_normal(len(CATEGORIES))
        + config.attribute_signal * rng.standard_normal((len(REGIONS), 1, len(CATEGORIES)))
        + config.attribute_signal * rng.standard_normal((1, len(AGE_BANDS), len(CATEGORIES)))
    )[region, age]
    kind = np.stack(
        [(liking + rng.gumbel(size=liking.shape)).argmax(axis=1) for _ in range(config.tastes)], 1
    )
    own = config.individuality * _noise((size, config.tastes, config.factors), rng=rng)
    green = 0.1 * (age == 1) - 0.05 * years + config.eco_spread * rng.standard_normal(size)
    wealth = rng.standard_normal(size)
    dear = 0.03 * years + config.price_spread * (0.6 * wealth + 0.8 * rng.standard_normal(size))
    visible = np.broadcast_to(np.stack([green, dear], axis=1)[:, None, :], (size, config.tastes, 2))

    start, end = to_instant(config.starts_at), to_instant(config.ends_at)
    founder = rng.random(size) < config.founder_share
    signed_up = np.where(
        founder,
        spread(founder, start - _OLDEST_SIGN_UP_DAYS * DAY, start, rng=rng),
        spread(~founder, start, end, rng=rng),
    )
    signed_up = np.minimum(at_hours(signed_up, config, rng=rng), end - 1)
    # Pareto II (an exponential lifetime whose rate is gamma), counted for founders from the start of the
    # history: they are those of the early customers who were still there
    leaving = rng.gamma(config.lifetime_shape, 1 / config.lifetime_days, size=size)
    lifetime = rng.standard_exponential(size) / leaving * DAY
    alive_until = np.minimum(np.maximum(signed_up, start) + lifetime, end + _FURTHEST_DAYS * DAY)

    channels = rng.dirichlet(_CHANNEL_WEIGHTS, size=size)
    channels *= np.stack([np.ones(size), np.exp(-0.3 * years), np.exp(0.2 * years)], axis=1)
    looks = rng.lognormal(-(config.views_spread**2) / 2, config.views_spread, size=size)
    sensitivity = config.price_sensitivity * rng.gamma(
        config.sensitivity_shape, 1 / config.sensitivity_shape, size=size
    )
    table = pd.DataFrame(
        {
            CUSTOMER_ID: _ids("c", size),
            SIGNED_UP_AT: to_times(signed_up),
            REGION: np.array(REGIONS, dtype=object)[region],
            AGE_BAND: np.array(AGE_BANDS, dtype=object)[age],
            ALIVE_UNTIL: to_times(alive_until),
            VISITS_PER_DAY: rng.lognormal(np.log(config.visits_per_month / 30), config.visits_spread, size),
            LOOKS_PER_VISIT: 1 + (config.mean_looks - 1) * looks,
            PRICE_SENSITIVITY: sensitivity * np.exp(-0.4 * wealth) / np.exp(0.08),
            WEALTH: wealth,
        }
    )
    weights = rng.dirichlet(np.full(config.tastes, 1.5), size=size)
    return People(
        table,
        main=kind[np.arange(size), weights.argmax(axis=1)],
        tastes=np.concatenate([centres[kind] + own, visible], axis=2),
        taste_weights=weights,
        channel_weights=channels / channels.sum(axis=1, keepdims=True),
    )


def _noise(shape: tuple[int, ...], *, rng: np.random.Generator) -> FloatArray:
    """Random vectors (last axis) of expected squared norm 1."""
    vectors: FloatArray = rng.standard_normal(shape) / np.sqrt(shape[-1])
    return vectors


def _flagged(names: list[str], config: WorldConfig, *, rng: np.random.Generator) -> list[str]:
    """Mark some names as meant for new customers or for loyal ones."""
    share = min(config.flagged_share, 0.5)
    flag = rng.choice(3, p=[share, share, 1 - 2 * share], size=len(names))
    marks = [f" ({words})" for words in _FLAGS] + [""]
    return [name + marks[number] for name, number in zip(names, flag, strict=True)]


def _ids(letter: str, size: int) -> pd.Series:
    """Ids such as ``c000123``: wide enough that they sort like numbers."""
    width = max(len(str(size - 1)), {"c": 6, "p": 4}[letter])
    return pd.Series(np.arange(size)).astype(str).str.zfill(width).radd(letter)
