"""UCI Online Retail: a wholesaler's invoice lines, 2010-12 to 2011-12, as the tables of the contract.

The export mixes sales with bookkeeping. Each line is decided once, in this order: what is not a product
(postage, fees, vouchers, manual entries), stock adjustments, lines without a price, and exact copies are left
out, with their reason; cancellations become returns; the rest are purchases. Lines without a customer stay,
anonymous. Deliberately absent: categories and launch dates, which this data does not have, and the matching
of a cancellation to its order, whose number it does not carry.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import cast, literal, quoted, text
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.invoices import (
    INTERACTIONS_QUERY,
    PRICE_DAYS,
    PRICED,
    as_utf8,
    group_step,
    line_steps,
    one,
    write_all,
)
from feature_repo.importers.report import ImportReport, Step, write_rejected
from feature_repo.schema import (
    CUSTOMER_ID,
    CUSTOMERS,
    INTERACTIONS,
    NAME,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    REASON,
    RETURN,
    ROW_NUMBER,
)
from feature_repo.tables import connect
from feature_repo.views import Malformed, read_file, stored_columns

__all__ = ["COUNTRY", "import_online_retail"]

COUNTRY: Final = "country"

# The source's columns, less spaces and case, under both names the two editions of the data use.
_COLUMNS: Final = {
    "invoice": ("invoiceno", "invoice"),
    "code": ("stockcode",),
    "description": ("description",),
    "quantity": ("quantity",),
    "date": ("invoicedate",),
    "price": ("unitprice", "price"),
    "customer": ("customerid",),
    "country": ("country",),
}
# Goods have five digits and perhaps letters, or start with DCGS (party bags, dog collars).
_GOODS: Final = "^([0-9]{5}[A-Z]*|DCGS[0-9A-Z]+)$"
_SERVICES: Final = ("23444", "22016")  # next day carriage, a gift voucher: numbered like goods

_NOT_PRODUCT: Final = "not a product"
_STOCK: Final = "stock adjustment"
_NEGATIVE_PRICE: Final = "negative price"
_NO_PRICE: Final = "zero price"
_COPY: Final = "exact copy"
_DONE: Final = {
    "no readable date": "without its time a line cannot be placed in history; left out",
    "no readable number": "without quantity and unit price a line says nothing; left out",
    _NOT_PRODUCT: "postage, carriage, fees, discounts, samples, vouchers and manual entries; left out",
    _STOCK: "quantity of zero or less outside a cancellation: damage, loss, recount; left out",
    _NEGATIVE_PRICE: "a correction of the books; left out",
    _NO_PRICE: "found stock, gifts and replacements: nobody chose to buy them; left out",
    _COPY: "all eight fields equal to those of an earlier line, counted once; left out",
}


def import_online_retail(
    source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> ImportReport:
    """Write ``interactions``, ``products`` and ``customers`` from an Online Retail export.

    Parameters
    ----------
    source
        Parquet or CSV file (UTF-8 or Latin-1; dates ISO 8601 or month/day/year, as UCI has them).
    directory
        Where the tables go.
    column_map
        Must be empty: the columns of this format are known.

    Returns
    -------
    ImportReport
        Also written beside the tables.

    Raises
    ------
    ConfigError
        A column map was given.
    DataError
        The file or one of its columns is missing or cannot be read, or no line is a sale.
    """
    if column_map:
        raise ConfigError(
            "expected no --map with online-retail, whose columns are known; use format interactions"
        )
    path, folder = Path(source), Path(directory)
    if not path.is_file():
        raise DataError(f"expected the Online Retail export at {path}, found no file; give its path")
    with tempfile.TemporaryDirectory(prefix="nextbest-import-") as scratch:
        con = connect(scratch, memory_limit="600MB")
        try:
            malformed = read_file(con, "source", as_utf8(path, Path(scratch)), scratch=Path(scratch))
            _decide(con, path)
            report = _write(con, path, folder, malformed)
        finally:
            con.close()
    report.save(folder)
    return report


def _decide(con: duckdb.DuckDBPyConnection, path: Path) -> None:
    """Create the table ``lines``: each line of the source, typed, with the reason to leave it out or NULL."""
    stored = stored_columns(con, "raw_source")
    plain = {name.replace(" ", "").lower(): name for name in stored}
    names = {ours: next((plain[n] for n in theirs if n in plain), None) for ours, theirs in _COLUMNS.items()}
    if missing := [_COLUMNS[ours][0] for ours, name in names.items() if name is None]:
        raise DataError(f"expected column(s) {', '.join(missing)} in {path}, found {', '.join(stored)}")
    column = {ours: (quoted(name), stored[name]) for ours, name in names.items() if name is not None}

    when, number = column["date"], "regexp_replace({}, '[.]0$', '')"
    us_date = f"try_strptime({text(*when)}, ['%m/%d/%Y %H:%M', '%m/%d/%Y %H:%M:%S'])"
    values = {
        "invoice": f"upper({number.format(text(*column['invoice']))})",
        "stored_code": text(*column["code"]),
        "code": f"upper({text(*column['code'])})",
        "description": text(*column["description"]),
        "quantity": cast(*column["quantity"], "float"),
        "at": f"coalesce({cast(*when, 'timestamp')}, {us_date})"
        if when[1] == "VARCHAR"
        else cast(*when, "timestamp"),
        "price": cast(*column["price"], "float"),
        "customer": number.format(text(*column["customer"])),
        "country": text(*column["country"]),
    }
    typed = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in values.items())
    whole_line = ", ".join(expression for expression, _ in column.values())
    services = ", ".join(literal(code) for code in _SERVICES)
    con.execute(f"""
        CREATE TABLE lines AS
        SELECT * EXCLUDE (copy), invoice LIKE 'C%' AS cancelled, CASE
            WHEN "at" IS NULL THEN 'no readable date'
            WHEN quantity IS NULL OR price IS NULL THEN 'no readable number'
            WHEN code IS NULL OR NOT regexp_matches(code, {literal(_GOODS)}) OR code IN ({services})
                THEN {literal(_NOT_PRODUCT)}
            WHEN quantity = 0 OR quantity < 0 AND coalesce(invoice NOT LIKE 'C%', TRUE) THEN {literal(_STOCK)}
            WHEN price < 0 THEN {literal(_NEGATIVE_PRICE)}
            WHEN price = 0 THEN {literal(_NO_PRICE)}
            WHEN copy > 1 THEN {literal(_COPY)} END AS {REASON}
        FROM (SELECT {ROW_NUMBER}, {typed},
            row_number() OVER (PARTITION BY hash({whole_line}) ORDER BY {ROW_NUMBER}) AS copy
            FROM raw_source)""")
    con.execute(f"CREATE VIEW kept AS SELECT * FROM lines WHERE {REASON} IS NULL")


# Goods are described in capitals; what staff noted ("damaged", "?", "check") is not a name.
_PRODUCTS: Final = f"""
    WITH named AS (
        SELECT code, description, count(*) AS n FROM kept
        WHERE length(regexp_replace(description, '[^A-Z]', '', 'g')) >= 3 GROUP BY code, description
        QUALIFY row_number() OVER (PARTITION BY code ORDER BY n DESC, description) = 1),
    priced AS ({PRICED})
    SELECT code AS {PRODUCT_ID}, description AS {quoted(NAME)}, price AS {PRICE}
    FROM (SELECT DISTINCT code FROM kept) LEFT JOIN named USING (code) LEFT JOIN priced USING (code)
    ORDER BY code"""

_CUSTOMERS: Final = f"""
    SELECT customer AS {CUSTOMER_ID}, nullif(country, 'Unspecified') AS {COUNTRY} FROM (
        SELECT customer, country, count(*) AS n FROM kept
        WHERE customer IS NOT NULL GROUP BY customer, country
        QUALIFY row_number() OVER (PARTITION BY customer ORDER BY n DESC, country) = 1)
    ORDER BY customer"""


def _write(con: duckdb.DuckDBPyConnection, path: Path, folder: Path, malformed: Malformed) -> ImportReport:
    read = one(con, "SELECT count(*) FROM lines")
    if one(con, "SELECT count(*) FROM kept") == 0:
        raise DataError(
            f"expected sales in {path}, found none in {read} lines; check that it is Online Retail"
        )
    queries = {INTERACTIONS: INTERACTIONS_QUERY, PRODUCTS: _PRODUCTS, CUSTOMERS: _CUSTOMERS}
    written = write_all(con, queries, folder)
    dropped = write_rejected(
        con,
        f"(SELECT {ROW_NUMBER}, {REASON} FROM lines WHERE {REASON} IS NOT NULL)",
        source="raw_source",
        done=_DONE,
        malformed=malformed,
        directory=folder,
    )
    steps = (*dropped, *_kept_steps(con))
    return ImportReport("online-retail", str(path), read + malformed.count, written, steps)


def _kept_steps(con: duckdb.DuckDBPyConnection) -> list[Step]:
    """Count what was decided about the lines that stay."""
    lines, several = line_steps(con), "product with several descriptions"
    return [
        lines(
            "time without zone", "InvoiceDate is UK local time without a zone, and is taken as UTC", "TRUE"
        ),
        lines(
            "anonymous line",
            f"kept with an empty {CUSTOMER_ID}: counts for products only",
            "customer IS NULL",
        ),
        lines("cancellation", f"kept as {RETURN} with positive quantity and value", "cancelled"),
        lines(
            "code in small letters", "written in capitals, so that 85123a is 85123A", "code <> stored_code"
        ),
        group_step(con, "codes that differ in case", "one product each", key="code", value="stored_code"),
        group_step(con, several, f"{NAME} is the most frequent", key="code", value="description"),
        group_step(
            con,
            "customer in several countries",
            f"{COUNTRY} is the most frequent",
            key="customer",
            value="country",
        ),
        Step(
            "product price",
            one(con, "SELECT count(DISTINCT code) FROM kept WHERE NOT cancelled"),
            f"{PRICE} is the median unit price of the last {PRICE_DAYS} days in which the product was sold",
        ),
    ]
