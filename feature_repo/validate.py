"""``validate``: what a directory of tables holds against the input contract, told line by line.

Every check gives one finding, also when it passes, with the number of rows and a few of them as they
stand in the file: nothing is dropped without a count. What is asked is in ``feature_repo.checks``; here the
questions are put. Deliberately absent: whole tables and earlier runs (``feature_repo.quality``), printing (the
command does it) and the clock (``now`` is given).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from feature_repo.casts import quoted
from feature_repo.checks import checks
from feature_repo.checks_form import Check, Finding, Status
from feature_repo.errors import DataError
from feature_repo.schema import CONSENT_PREFIX, CUSTOMERS, ROW_NUMBER, TABLES, Table
from feature_repo.tables import Tables
from feature_repo.views import stored_columns

__all__ = ["Finding", "Status", "Validation", "check_rows", "refuse_failed", "validate"]

_EXAMPLES = 3
_FIELDS = 6


@dataclass(frozen=True)
class Validation:
    """All findings about a directory of tables."""

    directory: str
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether any check failed."""
        return any(finding.status == "FAIL" for finding in self.findings)

    @property
    def counts(self) -> dict[str, int]:
        """How many checks passed, warned and failed."""
        found = Counter(finding.status for finding in self.findings)
        return {status: found[status] for status in ("PASS", "WARN", "FAIL")}

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        findings = [{**asdict(finding), "share": finding.share} for finding in self.findings]
        return {
            "directory": self.directory,
            "failed": self.failed,
            "counts": self.counts,
            "findings": findings,
        }


def validate(tables_dir: str | Path, *, now: datetime | None = None, memory_limit: str = "1GB") -> Validation:
    """Check a directory of tables against the input contract.

    Parameters
    ----------
    tables_dir
        Folder of ``<table>.parquet`` or ``<table>.csv`` files.
    now
        The present; rows after it are in the future. Without it only times far beyond all others are.
    memory_limit
        Of DuckDB; beyond it, work is spilled to disk.

    Returns
    -------
    Validation
        One finding a check, table by table.

    Raises
    ------
    DataError
        The directory is not there. All that is wrong inside it is a finding.
    """
    with Tables.open(tables_dir, memory_limit=memory_limit, strict=False) as tables:
        return Validation(str(tables_dir), tuple(check_rows(tables, now=now)))


def refuse_failed(validation: Validation) -> None:
    """Refuse tables of which a check failed.

    Raises
    ------
    DataError
        A check failed; the first finding is told.
    """
    failed = [finding for finding in validation.findings if finding.status == "FAIL"]
    if failed:
        first = failed[0]
        raise DataError(
            f"expected sound tables in {validation.directory}, found {len(failed)} failed checks, first "
            f"{first.table}: {first.check} ({first.message}); see `nextbest validate {validation.directory}`"
        )


def check_rows(tables: Tables, *, now: datetime | None = None) -> list[Finding]:
    """Return the findings about the rows of tables opened with ``strict=False``, table by table."""
    present = None if now is None else now.astimezone(UTC).replace(tzinfo=None).isoformat()
    return [finding for spec in TABLES.values() for finding in _of_table(tables, spec, present)]


def _of_table(tables: Tables, spec: Table, now: str | None) -> Iterator[Finding]:
    name = spec.name
    if problem := tables.problems.get(name):
        yield Finding("readable", name, "FAIL", 0, 0, problem)
        return
    if not tables.has(name):
        yield Finding("readable", name, "PASS", 0, 0, "not there; it is optional")
        return
    total = int(_value(tables, f"SELECT count(*) FROM raw_{name}"))
    required = ", ".join(column.name for column in spec.columns if column.required)
    yield Finding("readable", name, "PASS", 0, total, f"{tables.files[name].name} has {required}")
    if spec.required:
        status: Status = "PASS" if total else "FAIL"
        yield Finding(
            "not empty", name, status, 0, total, f"expected rows in {name}; export it again if it has none"
        )
    if tables.files[name].suffix == ".csv":
        yield _malformed(tables, name, total)
    attributes = tables.attributes(CUSTOMERS) if tables.has(CUSTOMERS) else {}
    consents = [column for column in attributes if column.lower().startswith(CONSENT_PREFIX)]
    for check in checks(spec, tables.attributes(name), now=now, consents=consents):
        if all(tables.has(other) for other in check.needs):
            yield _ask(tables, check, total)


def _malformed(tables: Tables, name: str, total: int) -> Finding:
    lines = tables.malformed[name]
    status: Status = "PASS"
    if lines.count:
        status = "FAIL" if lines.count > total else "WARN"
    message = "expected as many fields as the first line has; other lines are left out and have no row_number"
    examples = tuple({"line": line, "text": text} for line, text in lines.examples[:_EXAMPLES])
    return Finding("lines well formed", name, status, lines.count, total + lines.count, message, examples)


def _ask(tables: Tables, check: Check, total: int) -> Finding:
    count = int(_value(tables, f"SELECT count(*) FROM ({check.rows})"))
    status: Status = check.status if count else "PASS"
    if count and check.fail_above is not None and count > check.fail_above * total:
        status = "FAIL"
    examples = _examples(tables, check) if count else ()
    return Finding(check.name, check.table, status, count, total, check.message, examples)


def _examples(tables: Tables, check: Check) -> tuple[dict[str, Any], ...]:
    """Return some rows of the file with the columns that matter, or with the first ones if none are named."""
    raw = f"raw_{check.table}"
    shown = [
        name
        for name in stored_columns(tables.con, raw)
        if not check.shown or name.strip().lower() in check.shown
    ][:_FIELDS]
    columns = ", ".join(f"{quoted(name)}::VARCHAR AS {quoted(name)}" for name in shown)
    numbers = f"SELECT {ROW_NUMBER} FROM ({check.rows}) ORDER BY {ROW_NUMBER} LIMIT {_EXAMPLES}"
    query = f"SELECT {', '.join(filter(None, (ROW_NUMBER, columns)))} FROM {raw} "
    cursor = tables.con.execute(f"{query} WHERE {ROW_NUMBER} IN ({numbers}) ORDER BY {ROW_NUMBER}")
    names = [ROW_NUMBER, *shown]
    return tuple(dict(zip(names, row, strict=True)) for row in cursor.fetchall())


def _value(tables: Tables, sql: str) -> Any:
    row = tables.con.execute(sql).fetchone()
    return row[0] if row else None
