"""The account of an import of many sources: every row of every source, every field of every table.

For each source the rows read are the rows written, merged into another, found to be duplicates, or
rejected; an account in which they are not is an error, never a report. For each field it says who gave its
values, who was overruled, and what was unreadable. It lies beside the tables as JSON, and per field as CSV for
a spreadsheet. Deliberately absent: opinions on whether the data are good, which is ``nextbest validate``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from feature_repo.errors import DataError
from feature_repo.importers.report import REPORT, Step
from feature_repo.importers.sources.needs import Need
from feature_repo.spreadsheet import write_csv

__all__ = ["SHEET", "Conflict", "FieldAccount", "Reason", "SourceAccount", "SourcesReport"]

SHEET: Final = "import_report.csv"


@dataclass(frozen=True)
class Reason:
    """Why rows or values were rejected: how many, some of the values, and where the first one stands."""

    field: str | None
    reason: str
    count: int
    values: tuple[str, ...]
    source: str
    file: str
    row: int


@dataclass(frozen=True)
class Conflict:
    """One disagreement of two rows about a field, with both values and where they stand."""

    key: str
    kept: str
    kept_source: str
    kept_file: str
    kept_row: int
    other: str
    other_source: str
    other_file: str
    other_row: int


@dataclass(frozen=True)
class SourceAccount:
    """What became of the rows of one source.

    Attributes
    ----------
    name, table, files
        The source, the table it feeds, and its files.
    rows_read
        Rows and broken lines in the files.
    records
        What they stand for: a row of a wide source is one record a measure, any other row is one.
    written, merged, duplicates, rejected, empty_cells
        What became of the records; ``empty_cells`` only for a wide source.
    values_rejected
        Values that could not be read in rows that were kept.
    reasons
        Why rows (``rejected``) were rejected, most frequent first.
    values
        The same for values.
    same_as
        Other source → duplicates of rows of that source.
    unused_columns
        Columns of the files that the map does not use.
    notes
        What else was decided.

    Raises
    ------
    DataError
        The records do not add up.
    """

    name: str
    table: str
    files: tuple[str, ...]
    rows_read: int
    records: int
    written: int
    merged: int
    duplicates: int
    rejected: int
    empty_cells: int
    values_rejected: int
    reasons: tuple[Reason, ...]
    values: tuple[Reason, ...]
    same_as: dict[str, int]
    unused_columns: tuple[str, ...]
    notes: tuple[Step, ...]

    def __post_init__(self) -> None:
        found = self.written + self.merged + self.duplicates + self.rejected + self.empty_cells
        if self.records != found:
            raise DataError(
                f"expected {self.records} rows of source {self.name} to be written, merged, duplicates or rejected, "
                f"found {found}; this is a fault of the importer, please report it"
            )


@dataclass(frozen=True)
class FieldAccount:
    """One column of one table: who gave its values, who disagreed, and what was rejected.

    Attributes
    ----------
    table, field, dtype
        The column.
    rows, filled
        Rows of the table, and those with a value.
    origins
        Source → rows whose value came from it.
    rejected
        Why values were rejected.
    conflicts
        Values that were overruled.
    won
        ``a over b`` → how often.
    examples
        Some of the conflicts.
    """

    table: str
    field: str
    dtype: str
    rows: int
    filled: int
    origins: dict[str, int]
    rejected: tuple[Reason, ...] = ()
    conflicts: int = 0
    won: dict[str, int] | None = None
    examples: tuple[Conflict, ...] = ()

    @property
    def share(self) -> float:
        """Filled share of the rows, 0 for a table without rows."""
        return self.filled / self.rows if self.rows else 0.0


@dataclass(frozen=True)
class SourcesReport:
    """The account of one import of a map; the same surface as ``ImportReport``.

    Raises
    ------
    DataError
        The rows of a table are not the rows its sources wrote.
    """

    source: str
    rows_written: dict[str, int]
    sources: tuple[SourceAccount, ...]
    fields: tuple[FieldAccount, ...]
    needs: tuple[Need, ...]
    steps: tuple[Step, ...]
    derived: tuple[str, ...] = ()
    format: str = "sources"

    def __post_init__(self) -> None:
        for table, rows in self.rows_written.items():
            found = sum(source.written for source in self.sources if source.table == table)
            if table not in self.derived and rows != found:
                raise DataError(
                    f"expected {found} rows of {table}, as its sources wrote, found {rows}; "
                    "this is a fault of the importer, please report it"
                )

    @property
    def rows_read(self) -> int:
        """Rows and broken lines of all files."""
        return sum(source.rows_read for source in self.sources)

    @property
    def rows_dropped(self) -> int:
        """Records that were rejected or duplicates."""
        return sum(source.rejected + source.duplicates for source in self.sources)

    def of(self, name: str) -> SourceAccount:
        """Return the account of a source; KeyError if there is none."""
        return {source.name: source for source in self.sources}[name]

    def field(self, table: str, name: str) -> FieldAccount:
        """Return the account of a column; KeyError if there is none."""
        return {(field.table, field.field): field for field in self.fields}[table, name]

    def step(self, kind: str) -> Step:
        """Return the step of a kind; KeyError if there was none."""
        return {step.kind: step for step in self.steps}[kind]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        told = asdict(self) | {"rows_read": self.rows_read, "rows_dropped": self.rows_dropped}
        for field, account in zip(told["fields"], self.fields, strict=True):
            field["share"] = round(account.share, 4)
        return told

    def save(self, directory: Path) -> Path:
        """Write ``import_report.json`` and ``import_report.csv``, each in one step; return the former's path."""
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str) + "\n"
        write_csv(directory / SHEET, _COLUMNS, _sheet(self.fields, self.needs))
        target = directory / REPORT
        partial = target.with_name(f".{REPORT}.{os.getpid()}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
        return target


_COLUMNS: Final = (
    "table",
    "field",
    "type",
    "rows",
    "filled",
    "share",
    "sources",
    "rejected",
    "reasons",
    "conflicts",
    "winner",
    "example",
    "goes_without",
)


def _sheet(fields: Sequence[FieldAccount], needs: Sequence[Need]) -> Iterator[list[Any]]:
    """Give the fields row by row, with the inputs that are not there at the end."""
    lacking = {(need.table, need.field): need.without for need in needs}
    for field in fields:
        reasons = "; ".join(
            f"{r.source}: {r.reason}: {r.count}" + (f" ({', '.join(r.values)})" if r.values else "")
            for r in field.rejected
        )
        example = field.examples[0] if field.examples else None
        told = (
            ""
            if example is None
            else (
                f"{example.key}: {example.kept} ({example.kept_source}, {example.kept_file} row "
                f"{example.kept_row}) over "
                f"{example.other} ({example.other_source}, {example.other_file} row {example.other_row})"
            )
        )
        yield [
            field.table,
            field.field,
            field.dtype,
            field.rows,
            field.filled,
            f"{field.share:.4f}",
            "; ".join(f"{name}: {count}" for name, count in field.origins.items()),
            sum(reason.count for reason in field.rejected),
            reasons,
            field.conflicts,
            "; ".join(f"{who}: {count}" for who, count in (field.won or {}).items()),
            told,
            lacking.pop((field.table, field.field), ""),
        ]
    for (table, name), without in lacking.items():
        yield [table, name or "", "", 0, 0, "0.0000", "", 0, "", 0, "", "", without]
