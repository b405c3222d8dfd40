"""What an import did, counted so that every line of the source is accounted for.

The report lies beside the tables as ``import_report.json``, and the lines that were left out as
``rejected.parquet`` with their row number, the reason and their own columns. Deliberately absent: an import
without a report.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import duckdb

from feature_repo.casts import literal, quoted
from feature_repo.errors import DataError
from feature_repo.schema import INTERACTIONS, REASON, ROW_NUMBER
from feature_repo.tables import write_parquet
from feature_repo.views import Malformed, beside, stored_columns

__all__ = ["REJECTED", "REPORT", "ImportReport", "Step", "write_rejected"]

REPORT: Final = "import_report.json"
REJECTED: Final = "rejected.parquet"
MALFORMED: Final = "malformed line"


@dataclass(frozen=True)
class Step:
    """One kind of line or value that the import had to decide about.

    Attributes
    ----------
    kind
        What was found.
    count
        How many.
    done
        What was done with them, and why.
    example
        One of them.
    dropped
        Whether the lines are left out of the interactions.
    """

    kind: str
    count: int
    done: str
    example: dict[str, Any] | None = None
    dropped: bool = False


@dataclass(frozen=True)
class ImportReport:
    """The account of one import.

    Raises
    ------
    DataError
        Lines read are not lines written plus lines dropped.
    """

    format: str
    source: str
    rows_read: int
    rows_written: dict[str, int]
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        written = self.rows_written[INTERACTIONS]
        if self.rows_read != written + self.rows_dropped:
            raise DataError(
                f"expected {self.rows_read} lines of {self.source} to be written or dropped, found {written} "
                f"written and {self.rows_dropped} dropped; this is a fault of the importer, please report it"
            )

    @property
    def rows_dropped(self) -> int:
        """Lines of the source that became no interaction."""
        return sum(step.count for step in self.steps if step.dropped)

    def step(self, kind: str) -> Step:
        """Return the step of a kind; KeyError if there was none."""
        return {step.kind: step for step in self.steps}[kind]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self) | {"rows_dropped": self.rows_dropped}

    def save(self, directory: Path) -> Path:
        """Write ``import_report.json`` in one step and return its path."""
        target = directory / REPORT
        partial = target.with_name(f".{REPORT}.{os.getpid()}.partial")
        text = json.dumps(self.to_dict(), indent=2, ensure_ascii=False, default=str)
        partial.write_text(text + "\n", encoding="utf-8")
        partial.replace(target)
        return target


def write_rejected(
    con: duckdb.DuckDBPyConnection,
    rejected: str,
    *,
    source: str,
    malformed: Malformed,
    directory: Path,
    done: Mapping[str, str] | None = None,
) -> list[Step]:
    """Write ``rejected.parquet`` and return one step a reason.

    Parameters
    ----------
    con
        Connection that has both relations.
    rejected
        Relation of ``row_number`` and ``reason``.
    source
        Relation of the source: ``row_number`` and its own columns.
    malformed
        CSV lines that are no rows; they get their line number and text instead.
    directory
        Where to.
    done
        Reason → why such lines are left out, where the reason does not say it all.
    """
    own = beside(stored_columns(con, source), relation="own")
    joined = (
        f"(SELECT {ROW_NUMBER}, {REASON} FROM {rejected}) AS why JOIN {source} AS own USING ({ROW_NUMBER})"
    )
    rows = f"SELECT {ROW_NUMBER}, why.{REASON}, {own} FROM {joined}"
    query = f"{rows} ORDER BY {ROW_NUMBER}"
    if malformed.count:
        columns = f"{literal(MALFORMED)} AS {REASON}, line AS source_line, min(csv_line) AS source_text"
        lines = f"SELECT {columns} FROM reject_errors GROUP BY line"
        query = f"{rows} UNION ALL BY NAME ({lines}) ORDER BY {ROW_NUMBER}"
    directory.mkdir(parents=True, exist_ok=True)
    write_parquet(con, query, directory / REJECTED)
    counted = f"SELECT {REASON}, count(*), min({ROW_NUMBER}) FROM {rejected} GROUP BY ALL ORDER BY 2 DESC, 1"
    reasons = done or {}
    steps = [
        Step(reason, count, reasons.get(reason, "left out"), example_of(con, source, first), dropped=True)
        for reason, count, first in con.execute(counted).fetchall()
    ]
    if malformed.count:
        line, text = malformed.examples[0]
        done_with = "too few or too many fields for a row; left out"
        example = {"line": line, "text": text}
        steps.append(Step(MALFORMED, malformed.count, done_with, example, dropped=True))
    return steps


def example_of(con: duckdb.DuckDBPyConnection, source: str, number: int | None) -> dict[str, Any] | None:
    """Return one row of the source as text, None if ``number`` is."""
    if number is None:
        return None
    names = [ROW_NUMBER, *stored_columns(con, source)]
    columns = ", ".join(f"{quoted(name)}::VARCHAR" for name in names[1:])
    query = f"SELECT {ROW_NUMBER}, {columns} FROM {source} WHERE {ROW_NUMBER} = {int(number)}"
    row = con.execute(query).fetchone()
    return None if row is None else dict(zip(names, row, strict=True))
