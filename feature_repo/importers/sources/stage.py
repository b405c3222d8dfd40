"""One file of a source, read by its declaration into typed rows with their faults.

The rows go to a Parquet file in the scratch folder: a source is parsed once, however many passes the merge
makes, and the memory does not grow with the rows. Values lie in ``v0``, ``v1``, …; ``fault`` says why a row is
rejected, ``bad`` which of its values are, ``cells`` holds the measures of a wide row. Deliberately absent: knowledge
of other sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb

from feature_repo.casts import literal, path_literal, quoted
from feature_repo.errors import ConfigError
from feature_repo.importers.sources.encodings import MARK
from feature_repo.importers.sources.fields import FAULT, Reading, dtype_of_cell, normalised, read_cell
from feature_repo.importers.sources.files import RawFile, open_file
from feature_repo.importers.sources.source_map import Cell, FileShape, SourceFile, SourceMap, key_of
from feature_repo.importers.sources.times import check_format, check_zone
from feature_repo.schema import ROW_NUMBER, TABLES, DType

__all__ = ["Staged", "WalkAccount", "create_crosswalk", "files_of", "row_id", "stage", "used_columns"]

#: Bits of a row's id: cell of a wide row, row, file, source.
CELL_BITS: Final = 9
ROW_BITS: Final = 32
FILE_BITS: Final = 12
FILE_SHIFT: Final = CELL_BITS + ROW_BITS
SOURCE_SHIFT: Final = FILE_SHIFT + FILE_BITS


@dataclass(frozen=True)
class Staged:
    """One file, staged.

    Attributes
    ----------
    source, source_number, file_number
        Which file of which source.
    raw
        The file as text.
    path
        The staged Parquet file.
    columns
        Our column → its staged column and its type (None: to be found out).
    wide
        Names of the measures in ``cells``, in order.
    zones
        Time zones in which local times were read.
    """

    source: str
    source_number: int
    file_number: int
    raw: RawFile
    path: Path
    columns: Mapping[str, tuple[str, DType | None]]
    wide: tuple[str, ...]
    zones: tuple[str, ...]

    @property
    def relation(self) -> str:
        """SQL of the staged rows."""
        return f"read_parquet({path_literal(str(self.path))})"


@dataclass(frozen=True)
class WalkAccount:
    """What is in a crosswalk: its file, rows, usable ids, rows without one of the two, ids with several of ours."""

    name: str
    file: str
    rows: int
    ids: int
    incomplete: int
    several: int


def row_id(source_number: int, file_number: int, cell: str = "0") -> str:
    """Return SQL for the id of a row: unique, and in the order of source, file and row."""
    base = (source_number << SOURCE_SHIFT) | (file_number << FILE_SHIFT)
    return f"({base} + {ROW_NUMBER} * {1 << CELL_BITS} + {cell})"


def files_of(rules: SourceMap, name: str) -> list[Path]:
    """Return the files of a source: names relative to the map, where ``*`` and ``?`` may stand for several."""
    folder, found = rules.path.parent, []
    for pattern in rules.sources[name].file:
        path = folder / pattern
        if path.exists() or not set("*?") & set(pattern):
            found.append(path)
            continue
        several = sorted(
            p for p in Path(path.anchor or ".").glob(str(path.relative_to(path.anchor))) if p.is_file()
        )
        if not several:
            raise ConfigError(
                f"expected files like {path} for [sources.{name}] of {rules.path}, found none; correct the pattern"
            )
        found += several
    if len(set(found)) < len(found):
        raise ConfigError(
            f"expected each file once in [sources.{name}] of {rules.path}, found one twice; remove it"
        )
    if len(found) >= 1 << FILE_BITS:
        raise ConfigError(
            f"expected fewer than {1 << FILE_BITS} files in [sources.{name}] of {rules.path}, found {len(found)}"
        )
    return found


def create_crosswalk(
    con: duckdb.DuckDBPyConnection, rules: SourceMap, name: str, *, scratch: Path
) -> WalkAccount:
    """Create the table ``crosswalk_<name>`` of ``theirs``, ``ours`` and whether there are ``several`` of ours."""
    walk, where = rules.crosswalks[name], f"[crosswalks.{name}] of {rules.path}"
    number = list(rules.crosswalks).index(name)
    raw = open_file(
        con, f"walk{number}", rules.path.parent / walk.file, _shape(rules, walk), scratch=scratch, where=where
    )
    trimmed = {
        side: f"nullif(trim({raw.column(column, where=where)}), '')"
        for side, column in (("theirs", walk.of), ("ours", walk.to))
    }
    pairs = f"SELECT {normalised(trimmed['theirs'], walk)} AS theirs, {trimmed['ours']} AS ours FROM {raw.relation}"
    con.execute(
        f"CREATE TABLE {quoted(f'crosswalk_{name}')} AS SELECT theirs, min(ours) AS ours, "
        f"count(DISTINCT ours) > 1 AS several FROM ({pairs}) WHERE theirs IS NOT NULL AND ours "
        "IS NOT NULL GROUP BY theirs"
    )
    counts = con.execute(
        f"SELECT count(*) FILTER (NOT several), count(*) FILTER (several), "
        f"(SELECT count(*) FROM ({pairs}) WHERE theirs IS NULL OR ours IS NULL) "
        f"+ (SELECT count(*) FROM {raw.broken}) FROM {quoted(f'crosswalk_{name}')}"
    ).fetchone()
    ids, several, incomplete = counts or (0, 0, 0)
    return WalkAccount(name, str(walk.file), raw.rows, ids, incomplete, several)


def stage(
    con: duckdb.DuckDBPyConnection,
    rules: SourceMap,
    name: str,
    path: Path,
    file_number: int,
    *,
    scratch: Path,
) -> Staged:
    """Read one file of a source into a Parquet file of typed rows.

    Raises
    ------
    ConfigError
        The map names a column, encoding, format or zone that does not exist.
    DataError
        The file cannot be read.
    """
    source, where = rules.sources[name], f"[sources.{name}] of {rules.path}"
    number = list(rules.sources).index(name)
    raw = open_file(
        con, f"s{number}_{file_number}", path, _shape(rules, source), scratch=scratch, where=where
    )
    columns, wide = _readings(con, rules, name, raw)
    every = [*columns, *wide]
    t = "".join(f", {reading.text} AS t{i}" for i, reading in enumerate(every))
    m = "".join(
        f", {reading.mapped} AS m{i}" + (f", x{i}.several AS w{i}" if reading.joins else "")
        for i, reading in enumerate(every)
    )
    v = "".join(f", {reading.value} AS v{i}" for i, reading in enumerate(every))
    e = "".join(f", {reading.fault} AS e{i}" for i, reading in enumerate(every))
    joins = "".join(reading.joins for reading in every)
    whole = [f"e{i}" for i, reading in enumerate(columns) if reading.whole_row]
    parts = [f"e{i}" for i, reading in enumerate(columns) if not reading.whole_row]
    if raw.undecodable:
        marked = " OR ".join(f"coalesce(contains(t{i}, chr({ord(MARK)})), FALSE)" for i in range(len(every)))
        no_text = literal(f"bytes that are no {raw.encoding} text")
        whole.insert(
            0, f"CASE WHEN {marked} THEN {{'field': NULL, 'value': NULL, 'reason': {no_text}}}::{FAULT} END"
        )
    values = ", ".join(f"v{i}" for i in range(len(columns)))
    cells = ", ".join(
        f"{{'cell': {k}, 'name': {literal(reading.name)}, 'value': v{i}, 'fault': e{i}::{FAULT}}}"
        for k, (i, reading) in enumerate(list(enumerate(every))[len(columns) :])
    )
    gaps = " OR ".join(f"({reading.gap})" for reading in columns)
    twices = " OR ".join(f"({reading.twice})" for reading in columns)
    bad = f"list_filter([{', '.join(parts)}]::{FAULT}[], x -> x IS NOT NULL)" if parts else f"[]::{FAULT}[]"
    query = (
        f"SELECT {ROW_NUMBER}, coalesce({', '.join([*whole, f'NULL::{FAULT}'])}) AS fault, {bad} AS bad, "
        f"{gaps or 'FALSE'} AS gap, {twices or 'FALSE'} AS twice, {values or 'NULL AS v0'}"
        + (f", [{cells}] AS cells" if wide else "")
        + f" FROM (SELECT *{e} FROM (SELECT *{v} FROM (SELECT *{m} FROM (SELECT *{t} FROM {raw.relation}){joins})))"
    )
    target = scratch / f"staged_{number}_{file_number}.parquet"
    con.execute(f"COPY ({query}) TO {literal(str(target))} (FORMAT parquet, COMPRESSION zstd)")
    typed = {reading.name: (f"v{i}", reading.dtype) for i, reading in enumerate(columns)}
    zones = tuple(dict.fromkeys(reading.zone for reading in columns if reading.zone is not None))
    return Staged(
        name, number, file_number, raw, target, typed, tuple(reading.name for reading in wide), zones
    )


def _readings(
    con: duckdb.DuckDBPyConnection, rules: SourceMap, name: str, raw: RawFile
) -> tuple[list[Reading], list[Reading]]:
    source = rules.sources[name]
    spec = TABLES[source.table]
    key = key_of(spec, rules)
    mapped: dict[str, Cell] = dict(source.columns)
    where = f"[sources.{name}] of {rules.path}"
    used = used_columns(source)
    taken = (
        [column for column in raw.names if column not in used]
        if source.attributes == ["*"]
        else source.attributes
    )
    for column in taken:
        raw.column(column, where=f"attributes in {where}")
        ours = column.lower() if column.lower() in spec.names else column
        if ours.lower() == ROW_NUMBER:
            raise ConfigError(
                f"expected another name than {column} for an attribute in {where}; name it in columns"
            )
        mapped.setdefault(ours, Cell(column=[column]))
    readings: list[list[Reading]] = [[], []]
    index = 0
    for part, cells in enumerate((mapped, source.wide)):
        for ours, cell in cells.items():
            place = f"[sources.{name}.{'wide' if part else 'columns'}.{ours}] of {rules.path}"
            names = [*(cell.column or ()), *([cell.currency_column] if cell.currency_column else ())]
            columns = {column: raw.column(column, where=place) for column in names}
            dtype = dtype_of_cell(spec, ours, cell, wide=bool(part))
            reading = read_cell(
                rules, source, spec, ours, cell, index=index, columns=columns, key=key, dtype=dtype
            )
            if reading.zone is not None:
                check_zone(con, reading.zone, where=place)
                for form in cell.format or source.time_format or rules.defaults.time_format:
                    check_format(con, form, where=place)
            readings[part].append(reading)
            index += 1
    return readings[0], readings[1]


def used_columns(source: SourceFile) -> set[str]:
    """Return the columns of the file that the map names."""
    cells = [*source.columns.values(), *source.wide.values()]
    named = {column for cell in cells for column in cell.column or ()}
    return named | {cell.currency_column for cell in cells if cell.currency_column}


def _shape(rules: SourceMap, shape: FileShape) -> FileShape:
    """Return a file's shape with the defaults of the map filled in."""
    return shape.model_copy(
        update={
            "encoding": shape.encoding or rules.defaults.encoding,
            "delimiter": shape.delimiter or rules.defaults.delimiter,
        }
    )
