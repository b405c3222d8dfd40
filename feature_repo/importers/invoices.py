"""What importers of invoice lines have in common: one relation ``kept`` of decided lines, and what follows from it.

``kept`` has ``row_number, invoice, code, description, quantity, at, price, customer, cancelled``; from it come the
interactions, the price of a product, and counts of what was decided. Deliberately absent: which lines are kept.
That is each importer's own judgement.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import duckdb

from feature_repo.casts import literal, quoted
from feature_repo.importers.report import Step, example_of
from feature_repo.schema import (
    AT,
    CUSTOMER_ID,
    KIND,
    ORDER_ID,
    PRICE,
    PRODUCT_ID,
    PURCHASE,
    QUANTITY,
    RETURN,
    ROW_NUMBER,
    VALUE,
)
from feature_repo.tables import write_query

__all__ = [
    "INTERACTIONS_QUERY",
    "PRICED",
    "PRICE_DAYS",
    "as_utf8",
    "group_step",
    "line_steps",
    "one",
    "write_all",
]

PRICE_DAYS: Final = 90

INTERACTIONS_QUERY: Final = f"""
    SELECT customer AS {CUSTOMER_ID}, code AS {PRODUCT_ID}, "at" AS {quoted(AT)},
        CASE WHEN cancelled THEN {literal(RETURN)} ELSE {literal(PURCHASE)} END AS {KIND},
        abs(quantity) AS {QUANTITY}, round(abs(quantity) * price, 2) AS {quoted(VALUE)}, invoice AS {ORDER_ID}
    FROM kept ORDER BY "at", {ROW_NUMBER}"""

#: Today's price: the median of the last days in which it was sold for money, so that one slip does not set it.
PRICED: Final = f"""
        SELECT code, round(median(price), 2) AS {PRICE} FROM (
            SELECT code, price FROM kept WHERE NOT cancelled AND price > 0
            QUALIFY "at" >= max("at") OVER (PARTITION BY code) - INTERVAL {PRICE_DAYS} DAY)
        GROUP BY code"""


def as_utf8(path: Path, scratch: Path) -> Path:
    """Return ``path``, or a UTF-8 copy of it if it is a CSV file in Latin-1."""
    if path.suffix.lower() == ".parquet":
        return path
    try:
        with path.open(encoding="utf-8") as file:
            while file.read(1 << 20):
                pass
    except UnicodeDecodeError:
        copy = scratch / "utf8.csv"
        with (
            path.open(encoding="latin-1", newline="") as old,
            copy.open("w", encoding="utf-8", newline="") as new,
        ):
            while block := old.read(1 << 20):
                new.write(block)
        return copy
    return path


def write_all(con: duckdb.DuckDBPyConnection, queries: dict[str, str], folder: Path) -> dict[str, int]:
    """Write tables from queries and return their rows."""
    written = {}
    for name, query in queries.items():
        write_query(con, query, name, folder)
        written[name] = int(one(con, f"SELECT count(*) FROM ({query})"))
    return written


def line_steps(con: duckdb.DuckDBPyConnection) -> Callable[[str, str, str], Step]:
    """Return a function of kind, what was done, and a condition that counts such lines of ``kept``."""

    def lines(kind: str, done: str, where: str) -> Step:
        count = one(con, f"SELECT count(*) FROM kept WHERE {where}")
        first = one(con, f"SELECT min({ROW_NUMBER}) FROM kept WHERE {where}") if count else None
        return Step(kind, count, done, example_of(con, "raw_source", first))

    return lines


def group_step(con: duckdb.DuckDBPyConnection, kind: str, done: str, *, key: str, value: str) -> Step:
    """Count the keys of ``kept`` that have several values, with an example."""
    grouped = f"SELECT {key} FROM kept WHERE {key} IS NOT NULL GROUP BY {key}"
    several = f"{grouped} HAVING count(DISTINCT {value}) > 1"
    examples = con.execute(
        f"SELECT {key}, list_sort(list(DISTINCT {value}))::VARCHAR FROM kept "
        f"WHERE {key} = (SELECT min({key}) FROM ({several})) GROUP BY ALL"
    ).fetchone()
    example = None if examples is None else {key: examples[0], value: examples[1]}
    return Step(kind, one(con, f"SELECT count(*) FROM ({several})"), done, example)


def one(con: duckdb.DuckDBPyConnection, query: str) -> Any:
    """Return the single value of a query, 0 if there is none."""
    row = con.execute(query).fetchone()
    return row[0] if row else 0
