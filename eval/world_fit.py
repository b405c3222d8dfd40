"""How a shop sells, in a dozen numbers, and two shops side by side.

The simulated world is to sell like a real one before any model is judged on it: these statistics of it were
fitted to UCI Online Retail's by its parameters, on seeds 0 to 2, and then frozen. They describe purchases by
known customers, are computed in the same way from any directory of tables, and say nothing about models.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo.errors import DataError
from feature_repo.schema import AT, CUSTOMER_ID, INTERACTIONS, KIND, ORDER_ID, PRODUCT_ID, PURCHASE, RETURN
from feature_repo.tables import Tables

FITTED: Final = (
    "gini_of_products",
    "repeat_share",
    "lines_per_order",
    "orders_per_buyer",
    "one_time_share",
)
"""The statistics that were fitted, to within ``TOLERANCE``; the others are only told."""
TOLERANCE: Final = 0.1

LABELS: Final = {
    "buyers": "customers who bought",
    "products_sold": "products sold",
    "orders": "orders",
    "purchase_lines": "purchase lines (a product in an order)",
    "history_days": "days from first to last order",
    "gini_of_products": "Gini of lines over products sold",
    "top_percent_share": "share of lines of the top 1 % of products",
    "repeat_share": "share of lines that repeat an earlier order's",
    "lines_per_order": "lines an order, mean",
    "lines_per_order_median": "lines an order, median",
    "lines_per_order_p90": "lines an order, 90th percentile",
    "orders_per_buyer": "orders a buyer, mean",
    "orders_per_buyer_p99": "orders a buyer, 99th percentile",
    "one_time_share": "share of buyers with one order",
    "days_between_orders": "days between orders, median",
    "days_since_last_order": "days since a buyer's last order, median",
    "products_per_buyer": "distinct products a buyer, median",
    "return_share": "returned lines a purchase line",
    "weekend_share": "share of orders on Saturday and Sunday",
    "office_share": "share of orders from 9:00 to 17:00 UTC",
}

_LINES: Final = f"""
    CREATE TEMP TABLE lines AS
    SELECT {CUSTOMER_ID} AS c, {PRODUCT_ID} AS p,
        coalesce({ORDER_ID}, strftime("{AT}", '%Y-%m-%d') || ' ' || {CUSTOMER_ID}) AS o, min("{AT}") AS t
    FROM {INTERACTIONS} WHERE {KIND} = '{PURCHASE}' AND {CUSTOMER_ID} IS NOT NULL GROUP BY ALL"""
_ORDERS: Final = """
    CREATE TEMP TABLE orders AS
    SELECT c, o, t, n, date_diff('second', lag(t) OVER (PARTITION BY c ORDER BY t, o), t) / 86400 AS gap
    FROM (SELECT c, o, min(t) AS t, count(*) AS n FROM lines GROUP BY c, o)"""
_BUYERS: Final = """
    CREATE TEMP TABLE buyers AS
    SELECT c, count(*) AS orders, date_diff('second', max(t), (SELECT max(t) FROM orders)) / 86400 AS since
    FROM orders GROUP BY c"""
_PRODUCTS: Final = """
    CREATE TEMP TABLE sold AS
    SELECT n, row_number() OVER (ORDER BY n, p) AS place, sum(n) OVER () AS total, count(*) OVER () AS size
    FROM (SELECT p, count(*) AS n FROM lines GROUP BY p)"""
_STATISTICS: Final = {
    "buyers": "SELECT count(*) FROM buyers",
    "products_sold": "SELECT count(*) FROM sold",
    "orders": "SELECT count(*) FROM orders",
    "purchase_lines": "SELECT count(*) FROM lines",
    "history_days": "SELECT date_diff('second', min(t), max(t)) / 86400 FROM orders",
    "gini_of_products": "SELECT 2 * sum(place * n) / (any_value(size) * sum(n)) - (any_value(size) + 1) / "
    "any_value(size) FROM sold",
    "top_percent_share": "SELECT sum(n) FILTER (size - place < ceil(size / 100)) / sum(n) FROM sold",
    "repeat_share": "SELECT avg((first < t)::INT) FROM lines JOIN "
    "(SELECT c, p, min(t) AS first FROM lines GROUP BY c, p) USING (c, p)",
    "lines_per_order": "SELECT avg(n) FROM orders",
    "lines_per_order_median": "SELECT median(n) FROM orders",
    "lines_per_order_p90": "SELECT quantile_cont(n, 0.9) FROM orders",
    "orders_per_buyer": "SELECT avg(orders) FROM buyers",
    "orders_per_buyer_p99": "SELECT quantile_cont(orders, 0.99) FROM buyers",
    "one_time_share": "SELECT avg((orders = 1)::INT) FROM buyers",
    "days_between_orders": "SELECT median(gap) FROM orders",
    "days_since_last_order": "SELECT median(since) FROM buyers",
    "products_per_buyer": "SELECT median(n) FROM (SELECT count(DISTINCT p) AS n FROM lines GROUP BY c)",
    "return_share": f"SELECT count(*) / (SELECT count(*) FROM lines) FROM {INTERACTIONS} "
    f"WHERE {KIND} = '{RETURN}' AND {CUSTOMER_ID} IS NOT NULL",
    "weekend_share": "SELECT avg((isodow(t) > 5)::INT) FROM orders",
    "office_share": "SELECT avg((hour(t) BETWEEN 9 AND 16)::INT) FROM orders",
}


@dataclass(frozen=True)
class Line:
    """One statistic of two shops; ``ratio`` is the first over the second, None where that is 0."""

    name: str
    label: str
    ours: float
    theirs: float
    ratio: float | None
    fitted: bool


def world_statistics(tables: str | Path) -> dict[str, float]:
    """Return how the shop of a directory of tables sells.

    Parameters
    ----------
    tables
        Directory with at least ``interactions`` and ``products``.

    Returns
    -------
    dict
        Statistic → value, in the order of ``LABELS``, which says what each is. Several lines of one product
        in an order count once; without ``order_id``, a customer's purchases of a day are one order; a
        statistic without data (days between orders where nobody ordered twice) is not a number.

    Raises
    ------
    DataError
        The tables cannot be read, or no known customer bought anything.
    """
    with Tables.open(tables) as opened:
        for statement in (_LINES, _ORDERS, _BUYERS, _PRODUCTS):
            opened.con.execute(statement)
        found = {name: opened.con.execute(query).fetchone() for name, query in _STATISTICS.items()}
    values = {
        name: float("nan") if row is None or row[0] is None else float(row[0]) for name, row in found.items()
    }
    if not values["orders"]:
        raise DataError(
            f"expected purchases by known customers in {tables}, found none; look at its interactions"
        )
    return values


def compare(ours: dict[str, float], theirs: dict[str, float]) -> list[Line]:
    """Put the statistics of two shops side by side.

    Parameters
    ----------
    ours, theirs
        As ``world_statistics`` gives them.
    """
    return [
        Line(
            name,
            label,
            ours[name],
            theirs[name],
            ours[name] / theirs[name] if theirs[name] else None,
            name in FITTED,
        )
        for name, label in LABELS.items()
    ]


def table(lines: list[Line], *, names: tuple[str, str] = ("world", "Online Retail")) -> str:
    """Return the comparison as a Markdown table; fitted statistics are marked with ``*``."""
    head = f"| statistic | {names[0]} | {names[1]} | ratio |\n|---|---:|---:|---:|"
    rows = [
        f"| {line.label}{' *' if line.fitted else ''} | {line.ours:.4g} | {line.theirs:.4g} | "
        f"{'' if line.ratio is None else f'{line.ratio:.2f}'} |"
        for line in lines
    ]
    return "\n".join([head, *rows, "", "\\* fitted on other seeds; the others are only told"])
