"""Many files, one map, all tables of the contract.

A shop or a bank keeps its history in a dozen systems, under different ids, alphabets, clocks and currencies. The map
(``source_map``) declares each of them; files become rows of text (``files``), rows become typed values with their
faults (``fields``, ``times``, ``stage``), sources become tables (``merge``), and everything that was left out, merged
or overruled is counted and kept (``left_out``, ``account``, ``needs``). Tables are written last: an import that fails
leaves those of an earlier one as they were. Deliberately absent: guessing. What the map does not say is not done.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import duckdb

from feature_repo.casts import path_literal
from feature_repo.errors import ConfigError, DataError
from feature_repo.importers.sources.account import SourcesReport
from feature_repo.importers.sources.left_out import ROW, reasons_of, write_conflicts, write_left_out
from feature_repo.importers.sources.load import load_map
from feature_repo.importers.sources.merge import Merged, create_log, merge_table, written_query
from feature_repo.importers.sources.needs import missing_inputs
from feature_repo.importers.sources.source_map import SourceMap
from feature_repo.importers.sources.stage import Staged, WalkAccount, create_crosswalk, files_of, stage
from feature_repo.importers.sources.tally import (
    field_accounts,
    filled_columns,
    source_accounts,
    table_steps,
    walk_steps,
)
from feature_repo.schema import INTERACTIONS, PRODUCT_ID, PRODUCTS, TABLES
from feature_repo.tables import connect, find_file, write_query

__all__ = ["SourcesReport", "import_sources"]


def import_sources(
    source: str | Path, directory: str | Path, *, column_map: Mapping[str, str] | None = None
) -> SourcesReport:
    """Write tables from all files of a map.

    Parameters
    ----------
    source
        The map, a TOML file; files in it are relative to it.
    directory
        Where the tables go.
    column_map
        Must be empty: the map names the columns.

    Returns
    -------
    SourcesReport
        Also written beside the tables, with what was left out and what was overruled.

    Raises
    ------
    ConfigError
        The map is wrong in itself or does not fit its files.
    DataError
        A file cannot be read, or no interaction is usable.
    """
    if column_map:
        raise ConfigError(
            "expected no --map with sources, whose map names the columns; write them into the TOML file"
        )
    rules, folder = load_map(source), Path(directory)
    files = {name: files_of(rules, name) for name in rules.sources}
    with tempfile.TemporaryDirectory(prefix="nextbest-import-") as temporary:
        scratch = Path(temporary)
        con = connect(scratch, memory_limit="600MB")
        try:
            walks = [create_crosswalk(con, rules, name, scratch=scratch) for name in rules.crosswalks]
            parts = [
                stage(con, rules, name, path, number, scratch=scratch)
                for name, paths in files.items()
                for number, path in enumerate(paths)
            ]
            create_log(con)
            merged = {
                table: merge_table(
                    con,
                    rules,
                    table,
                    [p for p in parts if rules.sources[p.source].table == table],
                    scratch=scratch,
                )
                for table in TABLES
                if rules.feeding(table)
            }
            report = _write(con, rules, parts, merged, walks, folder)
        finally:
            con.close()
    report.save(folder)
    return report


def _write(
    con: duckdb.DuckDBPyConnection,
    rules: SourceMap,
    parts: Sequence[Staged],
    merged: Mapping[str, Merged],
    walks: Sequence[WalkAccount],
    folder: Path,
) -> SourcesReport:
    """Write the tables and what was left out, and return the account."""
    folder.mkdir(parents=True, exist_ok=True)
    for table in merged:
        if (other := folder / f"{table}.csv").exists():
            raise DataError(
                f"expected no other file for {table} in {folder}, found {other}; remove it or import elsewhere"
            )
    left_out = write_left_out(con, rules, parts, directory=folder)
    if not any(what == "written" and count for (_, what), count in merged[INTERACTIONS].outcomes.items()):
        why = next((reason.reason for reason in reasons_of(con, left_out, ROW)), "the files have no rows")
        raise DataError(
            f"expected usable interactions in the sources of {rules.path}, found none: {why}; "
            f"correct the map ({left_out} has every rejected row)"
        )
    conflicts = write_conflicts(con, directory=folder)
    for table, rows in merged.items():
        write_query(con, written_query(rows), table, folder)
    derived = () if PRODUCTS in merged else (PRODUCTS,)
    if derived:
        log = path_literal(str(folder / f"{INTERACTIONS}.parquet"))
        write_query(
            con, f"SELECT DISTINCT {PRODUCT_ID} FROM read_parquet({log}) ORDER BY 1", PRODUCTS, folder
        )
    tables = [*merged, *derived]
    written = {table: filled_columns(con, folder / f"{table}.parquet") for table in tables}
    sources = source_accounts(con, rules, parts, merged, left_out)
    fields = field_accounts(con, rules, sources, merged, written, conflicts)
    earlier = [table for table in TABLES if table not in tables and find_file(folder, table)]
    return SourcesReport(
        source=str(rules.path),
        rows_written={table: rows for table, (rows, _) in written.items()},
        sources=sources,
        fields=fields,
        needs=missing_inputs({table: filled for table, (_, filled) in written.items()}),
        steps=(
            *walk_steps(walks),
            *table_steps(
                con,
                folder,
                keyless=merged[INTERACTIONS].keyless,
                written=tables,
                derived=derived,
                earlier=earlier,
            ),
        ),
        derived=derived,
    )
