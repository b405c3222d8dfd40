"""Invoice lines of any shop, as the tables of the contract.

One line is one product on one invoice: invoice, date, product, description, quantity, unit price, customer. Common
headers are recognised, and the report says which was taken for what. A negative quantity, or an invoice number
that starts with C, is a return. Each line is decided once and only for what makes it unusable. Deliberately
absent: judgement of what is a product (postage stays: ``online_retail`` knows its shop, this does not), dropping
of repeated lines, which may well be true, and number or date formats that must be guessed (``sources``
declares them).
"""

from __future__ import annotations

import difflib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import cast, dtype_of, literal, quoted, text
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
    AT,
    CUSTOMER_ID,
    INTERACTIONS,
    NAME,
    ORDER_ID,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    QUANTITY,
    REASON,
    RETURN,
    ROW_NUMBER,
)
from feature_repo.tables import connect
from feature_repo.views import Malformed, read_file, stored_columns

__all__ = ["import_invoice_lines"]

#: Our name → headers taken for it, less case and signs; the first that is there counts.
_HEADERS: Final = {
    "invoice": "invoiceno invoice invoiceid invoicenumber orderid orderno ordernumber order transactionid receiptid "
    "receiptno receipt billno rechnung rechnungsnummer 发票号 订单号",
    "date": (
        "invoicedate date datetime orderdate transactiondate purchasedate invoicetime timestamp "
        "time at datum 日期 时间"
    ),
    "product": (
        "stockcode productid product productcode sku itemid item itemcode articleid article "
        "artikel 商品编号 货号"
    ),
    "description": (
        "description productdescription productname itemname itemdescription name title "
        "bezeichnung 商品名称 名称"
    ),
    "quantity": "quantity qty units pieces menge 数量",
    "price": "unitprice price priceperunit itemprice einzelpreis preis 单价 价格",
    "customer": "customerid customer customerno customernumber custid clientid client memberid userid buyerid kunde "
    "kundennummer 客户 会员",
}
_OF_CONTRACT: Final = {
    ORDER_ID: "invoice",
    AT: "date",
    PRODUCT_ID: "product",
    NAME: "description",
    QUANTITY: "quantity",
    PRICE: "price",
    CUSTOMER_ID: "customer",
    "unit_price": "price",
}
_OPTIONAL: Final = ("description", "customer")
_DAY_FIRST: Final = ("%d.%m.%Y", "%d/%m/%Y", "%d-%m-%Y")
_MONTH_FIRST: Final = ("%m/%d/%Y", "%m-%d-%Y")
_CLOCKS: Final = ("", " %H:%M", " %H:%M:%S")
_DONE: Final = {
    "no readable date": "without its time a line cannot be placed in history; left out",
    "no readable number": "without quantity and unit price a line says nothing; left out",
    "no product": "a line without a product; left out",
    "quantity of zero": "nothing was sold or came back; left out",
    "negative price": "a correction of the books; left out",
}


def import_invoice_lines(
    source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> ImportReport:
    """Write ``interactions`` and ``products`` from invoice lines.

    Parameters
    ----------
    source
        Parquet or CSV file (UTF-8 or Latin-1). Dates are ISO 8601, or day first or month first, whichever reads
        more of them; times without an offset are UTC. Numbers have a decimal point.
    directory
        Where the tables go.
    column_map
        Ours → theirs, for headers that are not recognised; ours are invoice, date, product, description,
        quantity, price, customer, or the contract's names for them.

    Returns
    -------
    ImportReport
        Also written beside the tables.

    Raises
    ------
    ConfigError
        The map names a column that does not exist.
    DataError
        The file is missing or cannot be read, a column is not found, day and month cannot be told apart, or
        there is no usable line.
    """
    path, folder = Path(source), Path(directory)
    if not path.is_file():
        raise DataError(
            f"expected invoice lines at {path}, found no file; give the path of a CSV or Parquet file"
        )
    with tempfile.TemporaryDirectory(prefix="nextbest-import-") as scratch:
        con = connect(scratch, memory_limit="600MB")
        try:
            malformed = read_file(con, "source", as_utf8(path, Path(scratch)), scratch=Path(scratch))
            stored = stored_columns(con, "raw_source")
            columns = _columns(list(stored), column_map or {}, path)
            dates = _date_formats(con, quoted(columns["date"]), stored[columns["date"]], path)
            _decide(con, columns, stored, dates)
            report = _write(con, columns, stored, dates, path, folder, malformed)
        finally:
            con.close()
    report.save(folder)
    return report


def _columns(stored: list[str], column_map: Mapping[str, str], path: Path) -> dict[str, str]:
    """Return our name → the column of the file."""
    columns: dict[str, str] = {}
    for ours, theirs in column_map.items():
        name = _OF_CONTRACT.get(ours, ours)
        if name not in _HEADERS:
            near = difflib.get_close_matches(ours, [*_HEADERS, *_OF_CONTRACT], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(_HEADERS)}"
            raise ConfigError(
                f"expected a column of invoice lines in --map {ours}={theirs}, found {ours!r}; {hint}"
            )
        if theirs not in stored:
            near = difflib.get_close_matches(theirs, stored, n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(stored)}"
            raise ConfigError(f"expected a column of {path} in --map {ours}={theirs}, found none; {hint}")
        columns[name] = theirs
    plain = {re.sub(r"[\W_]+", "", name.lower()): name for name in reversed(stored)}
    for ours, headers in _HEADERS.items():
        taken = next((plain[header] for header in headers.split() if header in plain), None)
        if ours not in columns and taken is not None and taken not in columns.values():
            columns[ours] = taken
    if missing := [ours for ours in _HEADERS if ours not in columns and ours not in _OPTIONAL]:
        raise DataError(
            f"expected column(s) {', '.join(missing)} in {path}, found {', '.join(stored)}; "
            f"name them with --map {missing[0]}=COLUMN"
        )
    return columns


def _date_formats(con: duckdb.DuckDBPyConnection, column: str, kind: str, path: Path) -> list[str]:
    """Return the strptime formats of dates that are not ISO 8601; none if all are."""
    if dtype_of(kind) == "timestamp":
        return []
    value = text(column, kind)
    other = f"FROM raw_source WHERE {value} IS NOT NULL AND {cast(column, kind, 'timestamp')} IS NULL"
    orders = [[date + clock for date in dates for clock in _CLOCKS] for dates in (_DAY_FIRST, _MONTH_FIRST)]
    read = [one(con, f"SELECT count({_strptime(value, formats)}) {other}") for formats in orders]
    if not any(read):
        return []
    day, month = (_strptime(value, formats) for formats in orders)
    if read[0] == read[1] and one(con, f"SELECT count(*) {other} AND {day} <> {month}"):
        raise DataError(
            f"expected dates in {path} that say which number is the day, found none above 12; "
            "import it with format sources, where the date format is declared"
        )
    return orders[0] if read[0] >= read[1] else orders[1]


def _strptime(value: str, formats: list[str]) -> str:
    return f"try_strptime({value}, [{', '.join(literal(form) for form in formats)}])"


def _decide(
    con: duckdb.DuckDBPyConnection, columns: Mapping[str, str], stored: Mapping[str, str], dates: list[str]
) -> None:
    """Create the table ``lines``: each line, typed, with the reason to leave it out or NULL."""

    def read(ours: str) -> str:
        if ours not in columns:
            return "NULL::VARCHAR"
        # An id that a program wrote as a decimal number, because others in the column were missing.
        return (
            f"regexp_replace({text(quoted(columns[ours]), stored[columns[ours]])}, '^([0-9]+)[.]0$', '\\1')"
        )

    when = (quoted(columns["date"]), stored[columns["date"]])
    at = cast(*when, "timestamp")
    values = {
        "invoice": read("invoice"),
        "code": read("product"),
        "description": text(quoted(columns["description"]), stored[columns["description"]])
        if "description" in columns
        else "NULL::VARCHAR",
        "quantity": cast(quoted(columns["quantity"]), stored[columns["quantity"]], "float"),
        "at": f"coalesce({at}, {_strptime(text(*when), dates)})" if dates else at,
        "price": cast(quoted(columns["price"]), stored[columns["price"]], "float"),
        "customer": read("customer"),
    }
    typed = ", ".join(f"{expression} AS {quoted(name)}" for name, expression in values.items())
    con.execute(f"""
        CREATE TABLE lines AS
        SELECT *, coalesce(quantity < 0 OR upper(invoice) LIKE 'C%', FALSE) AS cancelled, CASE
            WHEN "at" IS NULL THEN 'no readable date'
            WHEN quantity IS NULL OR price IS NULL THEN 'no readable number'
            WHEN code IS NULL THEN 'no product'
            WHEN quantity = 0 THEN 'quantity of zero'
            WHEN price < 0 THEN 'negative price' END AS {REASON}
        FROM (SELECT {ROW_NUMBER}, {typed} FROM raw_source)""")
    con.execute(f"CREATE VIEW kept AS SELECT * FROM lines WHERE {REASON} IS NULL")


# The most frequent description; of equally frequent ones the latest.
_PRODUCTS: Final = f"""
    WITH named AS (
        SELECT code, description FROM kept WHERE description IS NOT NULL GROUP BY code, description
        QUALIFY row_number() OVER (PARTITION BY code ORDER BY count(*) DESC, max("at") DESC, description) = 1),
    priced AS ({PRICED})
    SELECT code AS {PRODUCT_ID}, description AS {quoted(NAME)}, {PRICE}
    FROM (SELECT DISTINCT code FROM kept) LEFT JOIN named USING (code) LEFT JOIN priced USING (code)
    ORDER BY code"""


def _write(
    con: duckdb.DuckDBPyConnection,
    columns: Mapping[str, str],
    stored: Mapping[str, str],
    dates: list[str],
    path: Path,
    folder: Path,
    malformed: Malformed,
) -> ImportReport:
    read = one(con, "SELECT count(*) FROM lines")
    if one(con, "SELECT count(*) FROM kept") == 0:
        reason = one(con, f"SELECT any_value({REASON}) FROM lines") or "the file has no lines"
        raise DataError(f"expected usable lines in {path}, found none: {reason}; correct the file or --map")
    written = write_all(con, {INTERACTIONS: INTERACTIONS_QUERY, PRODUCTS: _PRODUCTS}, folder)
    dropped = write_rejected(
        con,
        f"(SELECT {ROW_NUMBER}, {REASON} FROM lines WHERE {REASON} IS NOT NULL)",
        source="raw_source",
        done=_DONE,
        malformed=malformed,
        directory=folder,
    )
    lines = line_steps(con)
    named = ", ".join(f"{ours}={columns[ours]}" for ours in _HEADERS if ours in columns)
    unused = [name for name in stored if name not in columns.values()]
    order = "day first" if dates and dates[0] in _DAY_FIRST else "month first" if dates else "ISO 8601"
    copies = (
        'SELECT invoice, code, description, quantity, "at", price, customer FROM kept GROUP '
        "BY ALL HAVING count(*) > 1"
    )
    steps = (
        *dropped,
        Step("column", len(columns), f"read as {named}"),
        Step("column not used", len(unused), ", ".join(unused) or "there is none"),
        lines("date", f"read as {order}; a time without an offset is taken as UTC", "TRUE"),
        lines(
            "anonymous line",
            f"kept with an empty {CUSTOMER_ID}: counts for products only",
            "customer IS NULL",
        ),
        lines(
            "return",
            f"negative quantity or invoice C…: kept as {RETURN}, positive quantity and value",
            "cancelled",
        ),
        lines("line without a price", "price 0: kept with a value of 0", "price = 0"),
        Step(
            "line that occurs several times",
            one(con, f"SELECT count(*) FROM ({copies})"),
            "kept as often as it occurs",
        ),
        group_step(
            con,
            "product with several descriptions",
            f"{NAME} is the most frequent, of equally frequent ones the latest",
            key="code",
            value="description",
        ),
        Step(
            "product price",
            one(con, "SELECT count(DISTINCT code) FROM kept WHERE NOT cancelled"),
            f"{PRICE} is the median unit price of the last {PRICE_DAYS} days in which the product was sold",
        ),
    )
    return ImportReport("invoice-lines", str(path), read + malformed.count, written, steps)
