"""The profile of a directory of tables: what it looked like, in a few dozen kilobytes of JSON.

Per column: how many rows have a value and how the values are spread over bins that the column's own deciles
made, or over its most frequent texts. Per table: rows, days and weeks, and hashes that depend on what the rows
hold and not on their order. Deliberately absent: any row, and the counting (``quality_counts``).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from feature_repo.schema import DType

__all__ = ["ColumnProfile", "Profile", "TableProfile"]

_FORMAT: Final = 1


@dataclass(frozen=True)
class ColumnProfile:
    """How the values of a column, or of part of it, are spread.

    Attributes
    ----------
    dtype
        Type of the values.
    rows, filled
        Rows asked, and those with a value.
    units, filled_units
        How many of the rows, and of those with a value, are independent of each other, about: visits rather
        than lines.
    edges
        Upper ends of the bins of a number but the last, which is open; the first bin lies below the least.
    counts
        Rows in each bin, or with each text; of texts the last is all others.
    texts
        The most frequent texts.
    """

    dtype: DType
    rows: int
    filled: int
    units: int
    filled_units: int
    edges: tuple[float, ...] = ()
    texts: tuple[str, ...] = ()
    counts: tuple[int, ...] = ()

    @property
    def share(self) -> float:
        """Share of rows with a value."""
        return self.filled / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class TableProfile:
    """One table: rows, columns, days and weeks.

    Attributes
    ----------
    rows
        Rows of the file.
    content
        Hash of all rows, whatever their order.
    columns
        Column of the file → its profile; a measure is ``value[name]``.
    first, last
        First and last instant, ISO 8601; empty without times.
    days
        Day → (rows, hash of them).
    weeks
        Kind → Monday → rows.
    """

    rows: int
    content: str
    columns: dict[str, ColumnProfile]
    first: str = ""
    last: str = ""
    days: dict[str, tuple[int, str]] = field(default_factory=dict)
    weeks: dict[str, dict[str, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """All tables of a directory, as they were at one time.

    Attributes
    ----------
    made_at
        When, ISO 8601 in UTC; empty if not told.
    engine
        What made the hashes; those of another engine cannot be compared.
    tables
        Table → its profile.
    """

    made_at: str
    engine: str
    tables: dict[str, TableProfile]

    @property
    def digest(self) -> str:
        """Hash of what is described, without the time of describing."""
        text = json.dumps(self.to_dict()["tables"], sort_keys=True)
        return hashlib.sha256(f"{self.engine} {text}".encode()).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {"format": _FORMAT, **asdict(self)}

    @classmethod
    def from_dict(cls, told: Mapping[str, Any]) -> Profile:
        """Return the profile that ``to_dict`` wrote; ValueError, KeyError or TypeError if it is no such."""
        if told["format"] != _FORMAT:
            raise ValueError(f"expected format {_FORMAT}, found {told['format']}")
        tables = {}
        for name, table in told["tables"].items():
            columns = {column: _column(facts) for column, facts in table["columns"].items()}
            days = {day: (int(rows), str(content)) for day, (rows, content) in table["days"].items()}
            tables[name] = TableProfile(**{**table, "columns": columns, "days": days})
        return cls(str(told["made_at"]), str(told["engine"]), tables)


def _column(told: Mapping[str, Any]) -> ColumnProfile:
    lists: dict[str, Any] = {name: tuple(told[name]) for name in ("edges", "texts", "counts")}
    return ColumnProfile(**{**told, **lists})
