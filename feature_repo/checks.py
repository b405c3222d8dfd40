"""The checks that ``feature_repo.validate`` runs over the tables.

A check is data: a table, an SQL query for the numbers of the rows that break it, how bad that is, and one
sentence that says what is then done with those rows or what to do about them. Queries read the views of
``feature_repo.tables``. Deliberately absent: repairs. Nothing here changes a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Literal

from feature_repo.casts import literal, quoted
from feature_repo.schema import (
    AT,
    CAMPAIGN_ID,
    CAMPAIGNS,
    CONSENT_PREFIX,
    CONTACTS,
    CUSTOMER_ID,
    CUSTOMERS,
    ENDS_AT,
    INTERACTIONS,
    KIND,
    LAUNCHED_AT,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    PROPENSITY,
    PURCHASE,
    QUANTITY,
    RETURN,
    ROW_NUMBER,
    STARTS_AT,
    TABLES,
    VALID_FROM,
    VALUE,
    WITHDRAWN_AT,
    Column,
    DType,
    Table,
)

__all__ = ["Check", "Status", "checks"]

Status = Literal["PASS", "WARN", "FAIL"]

_OLDEST: Final = "1990-01-01"
_MOST: Final = 0.5  # a flaw of most rows is a wrong file, not a few bad rows
_SOME: Final = 0.05  # above this, a wrong sign is a convention and not a slip
_NEARLY_ALL: Final = 0.99
_YEAR_SECONDS: Final = 366 * 86_400
_EMPTY_WORDS: Final = ("nan", "none", "null", "n/a", "na", "<na>", "nat", "undefined")


@dataclass(frozen=True)
class Check:
    """One question to one table.

    Attributes
    ----------
    name
        What must hold, in a few words.
    table
        The table whose rows are counted.
    rows
        SQL for the ``row_number`` of every row that breaks the check.
    message
        What such rows are, and what happens with them or what to do.
    status
        Status when there are such rows; ``PASS`` for a number that is only told.
    fail_above
        Share of the rows above which the status is ``FAIL``.
    needs
        Other tables without which the question makes no sense.
    shown
        Columns that an example shows.
    """

    name: str
    table: str
    rows: str
    message: str
    status: Status = "WARN"
    fail_above: float | None = None
    needs: tuple[str, ...] = ()
    shown: tuple[str, ...] = field(default=(), kw_only=True)


def checks(spec: Table, attributes: Mapping[str, DType], *, now: str | None = None) -> Iterator[Check]:
    """Yield the checks of one table, in the order in which they are told.

    Parameters
    ----------
    spec
        The table.
    attributes
        Its extra columns.
    now
        The present, ISO 8601 in UTC: later times are in the future. Without it, only times far beyond
        all others are.
    """
    for column in spec.columns:
        yield from _of_column(spec, column)
    for name in attributes:
        if name.lower().startswith(CONSENT_PREFIX):
            yield _unreadable(spec.name, name, "the consent is then unknown")
    yield from _of_times(spec, now)
    if spec.name in (PRODUCTS, CUSTOMERS):
        yield from _of_versions(spec.name, PRODUCT_ID if spec.name == PRODUCTS else CUSTOMER_ID)
    yield from _OWN.get(spec.name, ())


def _where(table: str, predicate: str) -> str:
    """Return the rows of the typed view, where the unreadable is NULL, that fulfil the predicate."""
    return f"SELECT {ROW_NUMBER} FROM typed_{table} WHERE {predicate}"


def _of_column(spec: Table, column: Column) -> Iterator[Check]:
    name = column.name
    if column.required and not column.may_be_empty:
        yield Check(
            f"{name} readable",
            spec.name,
            _where(spec.name, f"{quoted(name)} IS NULL"),
            f"{name} is empty or cannot be read ({_FORMS[column.dtype]}); these rows are rejected",
            fail_above=_MOST,
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
            _where(spec.name, f"{quoted(name)} NOT IN ({known})"),
            f"{name} is none of {', '.join(column.choices)}; these rows are rejected",
            "WARN" if spec.name == INTERACTIONS else "FAIL",
            _MOST,
            shown=(name,),
        )
    if name in (CUSTOMER_ID, PRODUCT_ID):
        words = ", ".join(literal(word) for word in _EMPTY_WORDS)
        yield Check(
            f"{name} is an id",
            spec.name,
            _where(spec.name, f"lower({quoted(name)}) IN ({words})"),
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
        fail_above=_MOST,
        shown=(column,),
    )


def _of_times(spec: Table, now: str | None) -> Iterator[Check]:
    if AT not in spec.names:
        return
    at = quoted(AT)
    yield Check(
        f"{AT} not before {_OLDEST[:4]}",
        spec.name,
        _where(spec.name, f"{at} < TIMESTAMP {literal(_OLDEST)}"),
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
        _where(spec.name, later),
        "such times lie far beyond all others or after the present, and would become the end of history; "
        "correct or remove the rows",
        shown=spec.names,
    )
    low_fence = f"SELECT q[1] - greatest({_YEAR_SECONDS}, 3 * (q[2] - q[1])) FROM ({quartiles})"
    yield Check(
        f"{AT} not long before the rest",
        spec.name,
        _where(spec.name, f"{at} >= TIMESTAMP {literal(_OLDEST)} AND {seconds} < ({low_fence})"),
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
        _where(table, f"{quoted(VALID_FROM)} IS NULL"),
        "without it the table holds today's truth only: price, availability, consent and attributes "
        "do not enter past training rows",
        shown=(key,),
    )


def _missing_in(table: str, key: str, message: str, *, fail_above: float | None = None) -> Check:
    """Return the check that ``key`` of interactions or contacts is found in the table that describes it."""
    home = {PRODUCT_ID: PRODUCTS, CUSTOMER_ID: CUSTOMERS, CAMPAIGN_ID: CAMPAIGNS}[key]
    known = f"SELECT {quoted(key)} FROM {home}"
    return Check(
        f"{key} in {home}",
        table,
        f"SELECT {ROW_NUMBER} FROM typed_{table} ANTI JOIN ({known}) USING ({quoted(key)}) "
        f"WHERE {quoted(key)} IS NOT NULL",
        message,
        fail_above=fail_above,
        needs=(home,),
        shown=(key,),
    )


_IS_PURCHASE: Final = f"coalesce({quoted(KIND)}, {literal(PURCHASE)}) = {literal(PURCHASE)}"
_IS_RETURN: Final = f"{quoted(KIND)} = {literal(RETURN)}"
_AT: Final = quoted(AT)

_REPEATED_LINES: Final = f"""
    WITH lines AS (
        SELECT {ROW_NUMBER}, hash(*COLUMNS(* EXCLUDE ({ROW_NUMBER}))) AS line FROM raw_{INTERACTIONS}),
    repeated AS (SELECT line, min({ROW_NUMBER}) AS first FROM lines GROUP BY line HAVING count(*) > 1)
    SELECT {ROW_NUMBER} FROM lines JOIN repeated USING (line) WHERE {ROW_NUMBER} > first"""

_RETURNS_WITHOUT_PURCHASE: Final = f"""
    WITH bought AS (SELECT {CUSTOMER_ID}, {PRODUCT_ID}, min({_AT}) AS first FROM typed_{INTERACTIONS}
        WHERE {_IS_PURCHASE} AND {CUSTOMER_ID} IS NOT NULL GROUP BY ALL)
    SELECT {ROW_NUMBER} FROM typed_{INTERACTIONS} LEFT JOIN bought USING ({CUSTOMER_ID}, {PRODUCT_ID})
    WHERE {_IS_RETURN} AND {CUSTOMER_ID} IS NOT NULL AND (first IS NULL OR first > {_AT})"""

_OFF_SALE: Final = f"""
    WITH sale AS (SELECT {PRODUCT_ID}, min({LAUNCHED_AT}) AS opens,
        CASE WHEN count({WITHDRAWN_AT}) = count(*) THEN max({WITHDRAWN_AT}) END AS closes
        FROM {PRODUCTS} GROUP BY {PRODUCT_ID})
    SELECT {ROW_NUMBER} FROM typed_{INTERACTIONS} JOIN sale USING ({PRODUCT_ID})
    WHERE {_IS_PURCHASE} AND ({_AT} < opens OR {_AT} >= closes)"""

_OWN: Final[dict[str, tuple[Check, ...]]] = {
    INTERACTIONS: (
        Check(
            "rows usable",
            INTERACTIONS,
            f"SELECT {ROW_NUMBER} FROM rejected_{INTERACTIONS}",
            "these rows are left out of everything that follows, for the reasons above",
            fail_above=_MOST,
        ),
        Check(
            "customers known",
            INTERACTIONS,
            _where(INTERACTIONS, f"{CUSTOMER_ID} IS NULL"),
            f"{CUSTOMER_ID} is empty: anonymous rows count for products, not for customers",
            fail_above=_NEARLY_ALL,
            shown=(PRODUCT_ID, AT),
        ),
        Check(
            "lines differ",
            INTERACTIONS,
            _REPEATED_LINES,
            "exact copies of an earlier line are kept and counted again; drop them in the source if they "
            "are not two of the same on one receipt",
            fail_above=_MOST,
            shown=(CUSTOMER_ID, PRODUCT_ID, AT),
        ),
        Check(
            "returns",
            INTERACTIONS,
            _where(INTERACTIONS, _IS_RETURN),
            "returns are taken off purchases, never learned from as purchases",
            "PASS",
            shown=(CUSTOMER_ID, PRODUCT_ID, AT),
        ),
        Check(
            "returns follow a purchase",
            INTERACTIONS,
            _RETURNS_WITHOUT_PURCHASE,
            "the customer bought no such product before (history may begin later); the rows are kept",
            shown=(CUSTOMER_ID, PRODUCT_ID, AT),
        ),
        Check(
            f"{QUANTITY} above zero",
            INTERACTIONS,
            _where(INTERACTIONS, f"{QUANTITY} <= 0 AND ({_IS_PURCHASE} OR {_IS_RETURN})"),
            f"expected kind {RETURN} with positive {QUANTITY} for a return; as it is, the row lowers sums",
            fail_above=_SOME,
            shown=(CUSTOMER_ID, PRODUCT_ID, QUANTITY),
        ),
        Check(
            f"{VALUE} not negative",
            INTERACTIONS,
            _where(INTERACTIONS, f"{quoted(VALUE)} < 0"),
            f"expected kind {RETURN} with positive {VALUE} for a return; as it is, the row lowers sums",
            fail_above=_SOME,
            shown=(CUSTOMER_ID, PRODUCT_ID, VALUE),
        ),
        _missing_in(
            INTERACTIONS,
            PRODUCT_ID,
            "such products have no name, price or category and are never recommended",
            fail_above=_MOST,
        ),
        _missing_in(INTERACTIONS, CUSTOMER_ID, "such customers have no attributes and no consent"),
        Check(
            "bought while on sale",
            INTERACTIONS,
            _OFF_SALE,
            f"bought before {LAUNCHED_AT} or from {WITHDRAWN_AT} on; the rows are kept, but the product was "
            "no candidate then: correct the dates",
            fail_above=_MOST,
            needs=(PRODUCTS,),
            shown=(PRODUCT_ID, AT),
        ),
    ),
    PRODUCTS: (
        Check(
            f"{LAUNCHED_AT} before {WITHDRAWN_AT}",
            PRODUCTS,
            _where(PRODUCTS, f"{LAUNCHED_AT} > {WITHDRAWN_AT}"),
            "such a product is never on sale; correct the dates",
            "FAIL",
            shown=(PRODUCT_ID, LAUNCHED_AT, WITHDRAWN_AT),
        ),
        Check(
            f"{PRICE} above zero",
            PRODUCTS,
            _where(PRODUCTS, f"{PRICE} <= 0"),
            "a price of zero or less is no price; leave it empty where it is not known",
            fail_above=_SOME,
            shown=(PRODUCT_ID, PRICE),
        ),
    ),
    CAMPAIGNS: (
        Check(
            f"{STARTS_AT} before {ENDS_AT}",
            CAMPAIGNS,
            _where(CAMPAIGNS, f"{STARTS_AT} > {ENDS_AT}"),
            "such a campaign never runs; correct the dates",
            "FAIL",
            shown=(CAMPAIGN_ID, STARTS_AT, ENDS_AT),
        ),
    ),
    CONTACTS: (
        Check(
            f"{PROPENSITY} is a probability",
            CONTACTS,
            _where(CONTACTS, f"{PROPENSITY} <= 0 OR {PROPENSITY} > 1"),
            "expected more than 0 and at most 1; effects weighted by it would be wrong",
            "FAIL",
            shown=(CAMPAIGN_ID, CUSTOMER_ID, PROPENSITY),
        ),
        _missing_in(CONTACTS, CAMPAIGN_ID, "the campaign of these contacts is not described"),
    ),
}
