"""A small shop in which every feature moves: every table and column filled, dated, in Latin and Chinese script.

Made by chance from a seed; sizes are small, so that laws can be tried on it again and again.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from feature_repo import schema as s
from feature_repo.declared import DECLARATIONS
from feature_repo.tables import write_tables

END = datetime(2026, 3, 2, 15, 30, tzinfo=UTC)
DAYS = 500
CUSTOMERS, PRODUCTS, EVENTS = 70, 30, 4000
CATEGORIES = ("茶", "咖啡", "mugs", "garden", "gifts", "books", "kitchen")
DECLARED = """
cadence_days = 28

[constant]
products = ["name", "brand"]
customers = ["born_at"]

[name_flags]
for_new_customers = ["新客", "new customers?"]
loyalty = ["loyal", "会员"]
"""


def rich_shop(seed: int = 0, *, events: int = EVENTS) -> dict[str, pd.DataFrame]:
    """Tables of a shop up to ``END``."""
    chance = np.random.default_rng(seed)
    return {
        s.INTERACTIONS: _interactions(chance, events),
        s.PRODUCTS: _products(chance),
        s.CUSTOMERS: _customers(chance),
        s.MEASURES: _measures(chance),
    }


def write_shop(tables: dict[str, pd.DataFrame], directory: Path) -> Path:
    """Write the tables and what is declared of them."""
    write_tables(tables, directory)
    (directory / DECLARATIONS).write_text(DECLARED, encoding="utf-8")
    return directory


def before(tables: dict[str, pd.DataFrame], cut: datetime) -> dict[str, pd.DataFrame]:
    """What the same shop knew at ``cut``: later rows of every dated table are not there yet."""
    dated = {s.INTERACTIONS: s.AT, s.MEASURES: s.AT, s.PRODUCTS: s.VALID_FROM, s.CUSTOMERS: s.VALID_FROM}
    return {name: rows[~(rows[dated[name]] >= cut)].reset_index(drop=True) for name, rows in tables.items()}


def _instants(chance: np.random.Generator, size: int, days: float = DAYS) -> pd.Series[pd.Timestamp]:
    ago = pd.to_timedelta(np.sort(chance.uniform(0, days * 86_400e6, size))[::-1].astype("int64"), unit="us")
    return pd.Series(pd.Timestamp(END) - ago).astype("datetime64[us, UTC]")


def _interactions(chance: np.random.Generator, size: int) -> pd.DataFrame:
    at = _instants(chance, size // 2)
    visit = chance.integers(0, len(at), size)
    customer = chance.integers(0, CUSTOMERS, len(at))[visit]
    kind = chance.choice(s.KINDS, size, p=[0.25, 0.1, 0.1, 0.45, 0.1])
    product = np.minimum((chance.pareto(1.0, size) * 5).astype(int), PRODUCTS - 1)
    quantity = chance.integers(1, 5, size).astype(float)
    price = 2.0 + product * 0.7
    discount = np.where(chance.random(size) < 0.25, 0.2, 0.0)
    value = np.where(kind == s.PURCHASE, quantity * price * (1 - discount), 0.0)
    value = np.where(kind == s.RETURN, price, value)
    rows = pd.DataFrame(
        {
            s.CUSTOMER_ID: [f"客户{n:03d}" if n % 2 else f"c{n:03d}" for n in customer],
            s.PRODUCT_ID: [f"p{n:02d}" for n in product],
            s.AT: at.iloc[visit].reset_index(drop=True),
            s.KIND: kind,
            s.QUANTITY: quantity,
            s.VALUE: value.round(2),
            s.DISCOUNT: np.where(kind == s.PURCHASE, (quantity * price * discount).round(2), 0.0),
            s.ORDER_ID: [f"o{n}" if n % 3 else None for n in visit],
            s.CHANNEL: chance.choice(["web", "app", "门店", None], size, p=[0.4, 0.3, 0.2, 0.1]),
            s.STORE_ID: chance.choice(["london", "上海", "leeds", None], size, p=[0.3, 0.2, 0.1, 0.4]),
        }
    )
    rows.loc[chance.random(size) < 0.08, s.CUSTOMER_ID] = None
    return rows.sort_values(s.AT, kind="stable").reset_index(drop=True)


def _products(chance: np.random.Generator) -> pd.DataFrame:
    """Several dated rows a product: prices, stock and at times the category change; one never bought."""
    rows = []
    for number in range(PRODUCTS + 1):
        launched = pd.Timestamp(END) - pd.Timedelta(days=float(chance.uniform(20, DAYS + 60)))
        told = [launched - pd.Timedelta(days=3), *_instants(chance, int(chance.integers(0, 8)))]
        name = f"{chance.choice(['乌龙茶', 'Teapot', '杯子', 'Lamp'])} {number}"
        name += str(chance.choice(["", "", " (new customer)", " 新客专享", " Loyalty", " 会员"]))
        for place, since in enumerate(sorted(told)):
            rows.append(
                {
                    s.PRODUCT_ID: f"p{number:02d}",
                    s.NAME: name,
                    s.CATEGORY: CATEGORIES[(number + (place > 3)) % len(CATEGORIES)] if number % 9 else None,
                    s.PRICE: round(2.0 + number * 0.7 + place * 0.1, 2),
                    s.MARGIN: 0.5 + number * 0.1,
                    s.AVAILABLE: place % 2 == 0,
                    s.LAUNCHED_AT: launched if number % 5 else pd.NaT,
                    s.VALID_FROM: pd.NaT if place == 0 and number % 4 == 1 else since,
                    "brand": ("Alto", "波拉")[number % 2],
                    "eco": bool(number % 3 == 0),
                    "stars": float(1 + (number + place) % 5),
                    "best_before_at": since + pd.Timedelta(days=200),
                }
            )
    return pd.DataFrame(rows)


def _customers(chance: np.random.Generator) -> pd.DataFrame:
    """Two dated rows for every third, undated rows for every fourth; some who never did anything."""
    rows = []
    for number in range(CUSTOMERS + 10):
        signed = pd.Timestamp(END) - pd.Timedelta(days=float(chance.uniform(1, DAYS)))
        told = [pd.NaT] if number % 4 == 0 else [signed]
        if number % 3 == 0 and number % 4:
            told.append(signed + (pd.Timestamp(END) - signed) / 2)
        for place, since in enumerate(told):
            rows.append(
                {
                    s.CUSTOMER_ID: f"客户{number:03d}" if number % 2 else f"c{number:03d}",
                    s.SIGNED_UP_AT: signed,
                    s.VALID_FROM: since,
                    "region": ("north", "华东", "south")[(number + place) % 3],
                    "consent_email": bool((number + place) % 2),
                    "born_at": pd.Timestamp("1980-01-01", tz="UTC") + pd.Timedelta(days=97 * number),
                    "contract_ends_at": signed + pd.Timedelta(days=300 + 100 * place),
                }
            )
    return pd.DataFrame(rows)


def _measures(chance: np.random.Generator) -> pd.DataFrame:
    """A balance told now and then, an income monthly, visits daily for a few; also of some who never bought."""
    rows = []
    for number in range(0, CUSTOMERS + 10, 2):
        customer = f"c{number:03d}"
        level = float(chance.uniform(100, 5000))
        for at in _instants(chance, int(chance.integers(0, 40))):
            level = round(level * float(chance.uniform(0.8, 1.25)), 2)
            rows.append((customer, at, "余额", level))
        for day in np.cumsum(chance.integers(3, 40, 25)).tolist():
            rows.append((customer, pd.Timestamp(END - timedelta(days=day)), "income", 2000.0 + number * day))
    for number in range(0, 12, 2):
        for at in _instants(chance, 80, 120):
            rows.append((f"c{number:03d}", at, "app visits", float(chance.integers(0, 9))))
    frame = pd.DataFrame(rows, columns=[s.CUSTOMER_ID, s.AT, s.NAME, s.VALUE])
    frame[s.AT] = frame[s.AT].astype("datetime64[us, UTC]")
    return frame


__all__ = ["DECLARED", "END", "before", "rich_shop", "write_shop"]
