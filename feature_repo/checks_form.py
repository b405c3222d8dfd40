"""The form of a check and of its answer, and the few pieces of SQL that checks share.

A check is data: a table, an SQL query for the numbers of the rows that break it, how bad that is, and one
sentence that says what is then done with those rows or what to do about them. Queries read the views of
``feature_repo.tables``. A finding is the answer, whoever asked: a check of rows, or a comparison of whole
tables. Deliberately absent: the checks themselves, and repairs. Nothing here changes a row.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

from feature_repo.casts import literal, quoted
from feature_repo.schema import AT, KIND, PURCHASE, RETURN, ROW_NUMBER

__all__ = [
    "IS_PURCHASE",
    "IS_RETURN",
    "MOST",
    "NEARLY_ALL",
    "SOME",
    "Check",
    "Finding",
    "Status",
    "before",
    "day",
    "rows_where",
]

Status = Literal["PASS", "WARN", "FAIL"]

MOST: Final = 0.5  # a flaw of most rows is a wrong file, not a few bad rows
SOME: Final = 0.05  # above this, a wrong sign is a convention and not a slip
NEARLY_ALL: Final = 0.99

IS_PURCHASE: Final = f"coalesce({quoted(KIND)}, {literal(PURCHASE)}) = {literal(PURCHASE)}"
IS_RETURN: Final = f"{quoted(KIND)} = {literal(RETURN)}"


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


@dataclass(frozen=True)
class Finding:
    """The answer to one check.

    Attributes
    ----------
    check
        What must hold.
    table
        The table that was asked.
    status
        ``PASS``, ``WARN`` or ``FAIL``.
    count
        Rows that break the check; of a comparison, the columns, days or values that do.
    total
        Rows of the table; of a comparison, what was compared.
    message
        What was expected, what is done with such rows or what to do.
    examples
        Some of the rows as they stand in the file, with ``row_number`` (1-based data row; for a malformed
        CSV line, ``line``); of a comparison, what was expected and what was found.
    """

    check: str
    table: str
    status: Status
    count: int
    total: int
    message: str
    examples: tuple[dict[str, Any], ...] = ()

    @property
    def share(self) -> float:
        """Return ``count / total``, 0 where nothing was asked."""
        return self.count / self.total if self.total else 0.0


def rows_where(table: str, predicate: str) -> str:
    """Return the rows of the typed view, where the unreadable is NULL, that fulfil the predicate."""
    return f"SELECT {ROW_NUMBER} FROM typed_{table} WHERE {predicate}"


def day(expression: str) -> str:
    """Return SQL for the day (UTC) of an instant."""
    return f"({expression})::DATE"


def before(first: str, second: str) -> str:
    """Return SQL that is true where ``first`` lies before ``second``.

    A ``first`` at midnight may be a date without a time: it is then no earlier than anything on that day.
    """
    a, b = quoted(first) if first == AT else first, quoted(second) if second == AT else second
    return f"({a} < {b} AND NOT ({a} = date_trunc('day', {a}) AND {day(a)} = {day(b)}))"
