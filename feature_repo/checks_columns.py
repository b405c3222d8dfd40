"""The checks that follow from the schema: readable values, known choices, times, versions, ids and text.

Each is made from a column or a table of ``feature_repo.schema``, so that a column added there is checked
without a line here. Deliberately absent: anything that knows what a table means.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from feature_repo.casts import literal, quoted
from feature_repo.checks_form import MOST, Check, rows_where
from feature_repo.schema import (
    AGENT_ID,
    AT,
    CAMPAIGNS,
    CONSENT_PREFIX,
    CUSTOMER_ID,
    CUSTOMERS,
    INTERACTIONS,
    ORDER_ID,
    OTHER_ID,
    PRODUCT_ID,
    PRODUCTS,
    REQUEST_ID,
    ROW_NUMBER,
    TABLES,
    VALID_FROM,
    Column,
    DType,
    Table,
)

__all__ = ["ID_COLUMNS", "of_columns", "of_ids", "of_text"]

#: Columns that name things rather than describe them.
ID_COLUMNS: Final = (CUSTOMER_ID, PRODUCT_ID, OTHER_ID, ORDER_ID, REQUEST_ID, AGENT_ID)

_OLDEST: Final = "1990-01-01"
_YEAR_SECONDS: Final = 366 * 86_400
_EMPTY_WORDS: Final = ("nan", "none", "null", "n/a", "na", "<na>", "nat", "undefined")

# Marks of UTF-8 that was read as Latin-1 or Windows-1252 (Ã©, â€™, ä½ å¥½), of bytes replaced because they
# could not be read (U+FFFD, 锟斤拷 once it was read again), and of letters that became question marks.
_TAIL: Final = r"\x{80}-\x{9F}\x{A1}-\x{BF}ŒœŠšŸŽžƒˆ˜–—‘’‚“”„†‡•…‰‹›€™"
_GARBLED: Final = "|".join(
    (
        r"\x{FFFD}",
        "锟斤拷",
        r"[ÂÃ][\x{80}-\x{BF}]",
        "â€",
        rf"[ä-é][{_TAIL}]([\x{{A0}}{_TAIL}]|$)",
        r"^[^\pL\pN]*\?\?[^\pL\pN]*$",
    )
)


def of_columns(spec: Table, attributes: Mapping[str, DType], *, now: str | None) -> Iterator[Check]:
    """Yield what must hold of the columns of one table, by their types."""
    for column in spec.columns:
        yield from _of_column(spec, column)
    for name in attributes:
        if name.lower().startswith(CONSENT_PREFIX):
            yield _unreadable(spec.name, name, "the consent is then unknown")
    yield from _of_times(spec, now)
    if spec.name in (PRODUCTS, CUSTOMERS):
        yield from _of_versions(spec.name, PRODUCT_ID if spec.name == PRODUCTS else CUSTOMER_ID)


def of_ids(spec: Table) -> Iterator[Check]:
    """Yield the checks that ids which are nearly the same are not meant to be one."""
    for key in (CUSTOMER_ID, PRODUCT_ID):
        if spec.name not in (INTERACTIONS, CUSTOMERS, PRODUCTS) or key not in spec.names:
            continue
        plain = f"regexp_replace(lower({key}), '\\s+|^0+', '', 'g')"
        yield Check(
            f"{key} in one spelling",
            spec.name,
            f"""WITH ids AS (SELECT {key}, count(*) AS n FROM typed_{spec.name} WHERE {key} IS NOT NULL GROUP BY ALL),
            alike AS (SELECT *, {plain} AS plain FROM ids),
            twins AS (SELECT {key} FROM alike
                QUALIFY row_number() OVER (PARTITION BY plain ORDER BY n DESC, {key}) > 1)
            SELECT {ROW_NUMBER} FROM typed_{spec.name} SEMI JOIN twins USING ({key})""",
            f"expected one spelling of each {key}; these differ from a more frequent one only by capitals, "
            "spaces or leading zeros and are taken as others: write them alike if they are the same",
            shown=(key,),
        )


def of_text(spec: Table, attributes: Mapping[str, DType]) -> Iterator[Check]:
    """Yield the check that texts were decoded as what they are."""
    if spec.name not in (PRODUCTS, CUSTOMERS, CAMPAIGNS):
        return
    dtypes = {column.name: column.dtype for column in spec.columns} | dict(attributes)
    texts = [name for name, dtype in dtypes.items() if dtype == "string" and name not in ID_COLUMNS]
    if texts:
        garbled = " OR ".join(f"regexp_matches({quoted(name)}, {literal(_GARBLED)})" for name in texts)
        yield Check(
            "text decoded rightly",
            spec.name,
            rows_where(spec.name, f"({garbled})"),
            "expected readable text, found signs of a wrong encoding (such as Ã©, ä½, �, ???); "
            "export the table again as UTF-8",
            fail_above=MOST,
            shown=tuple(name.lower() for name in (spec.names[0], *texts)),
        )


def _of_column(spec: Table, column: Column) -> Iterator[Check]:
    name = column.name
    if column.required and not column.may_be_empty:
        yield Check(
            f"{name} readable",
            spec.name,
            rows_where(spec.name, f"{quoted(name)} IS NULL"),
            f"{name} is empty or cannot be read ({_FORMS[column.dtype]}); these rows are rejected",
            fail_above=MOST,
            shown=spec.names,
        )
    elif column.dtype != "string":
        value = "empty" if column.default is None else column.default
        yield _unreadable(spec.name, name, f"it is then taken as {value}")
    if column.choices:
        known = ", ".join(literal(choice) for choice in column.choices)
        yield Check(
            f"{name} known",
            spec.name,
            rows_where(spec.name, f"{quoted(name)} NOT IN ({known})"),
            f"{name} is none of {', '.join(column.choices)}; these rows are rejected",
            "WARN" if spec.name == INTERACTIONS else "FAIL",
            MOST,
            shown=(name,),
        )
    if name in (CUSTOMER_ID, PRODUCT_ID):
        words = ", ".join(literal(word) for word in _EMPTY_WORDS)
        yield Check(
            f"{name} is an id",
            spec.name,
            rows_where(spec.name, f"lower({quoted(name)}) IN ({words})"),
            f"{name} is a program's word for nothing and is taken as one id; leave the field empty instead",
            shown=(name,),
        )


_FORMS: Final[dict[DType, str]] = {
    "string": "expected text",
    "timestamp": "expected ISO 8601, such as 2024-05-31T18:00:00Z",
    "float": "expected a number with a decimal point",
    "bool": "expected true or false",
}


def _unreadable(table: str, column: str, consequence: str) -> Check:
    spec = {c.name: c.dtype for c in TABLES[table].columns}
    return Check(
        f"{column} readable",
        table,
        f"SELECT {ROW_NUMBER} FROM unreadable_{table} WHERE {quoted(column)}",
        f"{column} is there but cannot be read ({_FORMS[spec.get(column, 'bool')]}); {consequence}",
        fail_above=MOST,
        shown=(column,),
    )


def _of_times(spec: Table, now: str | None) -> Iterator[Check]:
    if AT not in spec.names:
        return
    at = quoted(AT)
    yield Check(
        f"{AT} not before {_OLDEST[:4]}",
        spec.name,
        rows_where(spec.name, f"{at} < TIMESTAMP {literal(_OLDEST)}"),
        "such times are usually an empty field or a wrong unit; the rows are kept",
        shown=spec.names,
    )
    seconds = f"epoch({at})"
    quartiles = f"SELECT quantile_disc({seconds}, [0.25, 0.75]) AS q FROM typed_{spec.name}"
    fence = f"SELECT q[2] + greatest({_YEAR_SECONDS}, 3 * (q[2] - q[1])) FROM ({quartiles})"
    later = f"{seconds} > ({fence})" + (f" OR {at} > TIMESTAMP {literal(now)}" if now else "")
    yield Check(
        f"{AT} not in the future",
        spec.name,
        rows_where(spec.name, later),
        "such times lie far beyond all others or after the present, and would become the end of history; "
        "correct or remove the rows",
        shown=spec.names,
    )
    low_fence = f"SELECT q[1] - greatest({_YEAR_SECONDS}, 3 * (q[2] - q[1])) FROM ({quartiles})"
    yield Check(
        f"{AT} not long before the rest",
        spec.name,
        rows_where(spec.name, f"{at} >= TIMESTAMP {literal(_OLDEST)} AND {seconds} < ({low_fence})"),
        "such times lie more than a year before nearly all others, and would become the beginning of history; "
        "correct them if they are slips; the rows are kept",
        shown=spec.names,
    )


def _of_versions(table: str, key: str) -> Iterator[Check]:
    columns = f"{quoted(key)}, {quoted(VALID_FROM)}"
    again = f"row_number() OVER (PARTITION BY {columns} ORDER BY {ROW_NUMBER}) > 1"
    yield Check(
        f"{key} once",
        table,
        f"SELECT {ROW_NUMBER} FROM typed_{table} WHERE {quoted(key)} IS NOT NULL QUALIFY {again}",
        f"the same {key} stands in several rows; keep one, or date the versions with {VALID_FROM}",
        "FAIL",
        shown=(key, VALID_FROM),
    )
    yield Check(
        f"{VALID_FROM} given",
        table,
        rows_where(table, f"{quoted(VALID_FROM)} IS NULL"),
        "without it the table holds today's truth only: price, availability, consent and attributes "
        "do not enter past training rows",
        shown=(key,),
    )
