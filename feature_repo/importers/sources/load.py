"""Reading a map of sources, and all that can be known to be wrong with it before a data file is opened.

Each fault is one sentence that says where it stands and, where a name is near to a known one, which was probably
meant. What only the files can tell (columns, encodings) is told when they are opened, in the same words.
Deliberately absent: warnings. A map is right or it is not.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from feature_repo.errors import ConfigError
from feature_repo.importers.sources.source_map import TYPES, Cell, SourceFile, SourceMap, key_of, nearest
from feature_repo.schema import (
    CONSENT_PREFIX,
    INTERACTIONS,
    MEASURES,
    NAME,
    ROW_NUMBER,
    TABLES,
    VALUE,
    DType,
    Table,
)

__all__ = ["load_map"]

_LIMIT = 500  # sources of a map and measures of a row: what a row's id has room for


def load_map(path: str | Path) -> SourceMap:
    """Read and check a map.

    Raises
    ------
    ConfigError
        The file is missing or no TOML, a key is unknown, or the map contradicts itself or the contract.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(
            f"expected a map of sources at {path}, found no file; write one (the README has an example)"
        )
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"expected UTF-8 text in {path}, found other bytes; save the map as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"expected a TOML file at {path}, found {error}; correct that line") from error
    content.pop("path", None)
    try:
        rules = SourceMap.model_validate(content | {"path": path})
    except ValidationError as error:
        raise ConfigError(_sentence(error, path)) from error
    _check(rules)
    return rules


def _sentence(error: ValidationError, path: Path) -> str:
    """Word the first fault that pydantic found."""
    # A misspelt key comes first: where one is missing, it is usually the cause.
    fault = min(error.errors(), key=lambda each: each["type"] != "extra_forbidden")
    place = [str(part) for part in fault["loc"]]
    where = f"[{'.'.join(place[:-1])}] of {path}" if len(place) > 1 else str(path)
    if fault["type"] == "extra_forbidden":
        return f"expected a known key in {where}, found {place[-1]!r}; {nearest(place[-1], _keys(place))}"
    if fault["type"] == "missing":
        return f"expected a key {place[-1]!r} in {where}, found none; add it"
    return (
        f"expected {place[-1] if place else 'a map'} in {where} to fit, found {fault['input']!r}: "
        f"{fault['msg']}; correct it"
    )


def _keys(place: list[str]) -> list[str]:
    """Return the keys that are known where the last part of ``place`` stands."""
    kind: Any = SourceMap
    for part in place[:-1]:
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            fields = {info.alias or name: info for name, info in kind.model_fields.items()}
            kind = _plain(fields[part]) if part in fields else dict
        elif get_origin(kind) is dict:
            kind = _plain(get_args(kind)[1])
    if not (isinstance(kind, type) and issubclass(kind, BaseModel)):
        return []
    return [info.alias or name for name, info in kind.model_fields.items() if name != "path"]


def _plain(annotation: Any) -> Any:
    """Return an annotation without None and without what pydantic attaches to it."""
    if isinstance(annotation, FieldInfo):
        annotation = annotation.annotation
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        return _plain(next(part for part in get_args(annotation) if part is not type(None)))
    return annotation


def _check(rules: SourceMap) -> None:
    path = rules.path
    for name, source in rules.sources.items():
        _known(source.table, TABLES, f"a table in [sources.{name}] of {path}")
        _check_source(rules, name, source)
    for table, order in rules.tables.items():
        _known(table, TABLES, f"a table in [tables] of {path}")
        feeding = rules.feeding(table)
        for listed in (order.precedence, *order.fields.values()):
            for name in listed:
                _known(name, feeding, f"a source of {table} in [tables.{table}] of {path}")
        mapped = {column for source in feeding.values() for column in (*source.columns, *source.attributes)}
        for field in (*order.fields, *order.key):
            _known(field, sorted(mapped), f"a mapped column of {table} in [tables.{table}] of {path}")
        if order.key and table != INTERACTIONS:
            raise ConfigError(
                f"expected key only in [tables.{INTERACTIONS}] of {path}, found it in [tables.{table}]; "
                f"rows of {table} are the same when {', '.join(key_of(TABLES[table], rules))} are; remove key"
            )
    if not rules.feeding(INTERACTIONS):
        raise ConfigError(
            f'expected a source with table = "{INTERACTIONS}" in {path}, found sources of '
            f"{', '.join(sorted({source.table for source in rules.sources.values()}))}; add one"
        )
    if len(rules.sources) > _LIMIT:
        raise ConfigError(
            f"expected at most {_LIMIT} sources in {path}, found {len(rules.sources)}; list files of one shape together"
        )


def _known(name: str, known: Iterable[str], what: str) -> None:
    if name not in (names := list(known)):
        raise ConfigError(f"expected {what}, found {name!r}; {nearest(name, names)}")


def _check_source(rules: SourceMap, name: str, source: SourceFile) -> None:
    spec, where = TABLES[source.table], f"[sources.{name}] of {rules.path}"
    if not spec.open:
        for ours in source.columns:
            _known(ours, spec.names, f"a column of {spec.name} in {where}")
        if source.attributes:
            raise ConfigError(
                f"expected no attributes in {where}, found some; {spec.name} has no columns of your own"
            )
    else:
        for ours in source.columns:
            if ours != ours.strip() or not ours or ours.lower() == ROW_NUMBER:
                raise ConfigError(f"expected another name for a column in {where}, found {ours!r}; rename it")
            near = difflib.get_close_matches(ours, spec.names, n=1, cutoff=0.85)
            near = [ours.lower()] if ours.lower() in spec.names else near
            if ours not in spec.names and near:
                raise ConfigError(
                    f"expected a column of {spec.name} or an attribute in {where}, found {ours!r}; did you "
                    f"mean {near[0]}?"
                )
    if source.wide and (spec.name != MEASURES or {NAME, VALUE} & set(source.columns)):
        raise ConfigError(
            f"expected wide only for {MEASURES}, and without columns {NAME} and {VALUE}, found it "
            f"otherwise in {where}; "
            "remove it, or those columns"
        )
    if len(source.wide) > _LIMIT:
        raise ConfigError(
            f"expected at most {_LIMIT} wide columns in {where}, found {len(source.wide)}; split the source"
        )
    given = {*source.columns, *((NAME, VALUE) if source.wide else ())}
    missing = [c.name for c in spec.columns if c.required and not c.may_be_empty and c.name not in given]
    if missing:
        raise ConfigError(
            f"expected {', '.join(missing)} in [sources.{name}.columns] of {rules.path}, found "
            f"{', '.join(given) or 'nothing'}; every row of {spec.name} needs them: name a column or a constant"
        )
    if not all(measure.strip() for measure in source.wide):
        raise ConfigError(
            f"expected a name for every measure of wide in {where}, found an empty one; name it"
        )
    for place, cells in (("columns", source.columns), ("wide", source.wide)):
        for ours, cell in cells.items():
            decimal = cell.decimal or source.decimal or rules.defaults.decimal
            thousands = cell.thousands or source.thousands or rules.defaults.thousands
            if thousands is not None and (thousands == decimal or thousands.isalnum()):
                raise ConfigError(
                    f"expected a thousands sign other than the decimal sign {decimal!r} for {ours} in {where}, found "
                    f"{thousands!r}; correct one"
                )
            _check_choices(spec, ours, cell, f"[sources.{name}.{place}.{ours}] of {rules.path}")
            _check_cell(
                rules, cell, _dtype(spec, ours, place), f"[sources.{name}.{place}.{ours}] of {rules.path}"
            )


def _check_choices(spec: Table, ours: str, cell: Cell, where: str) -> None:
    """What the map itself says must be a choice that the contract knows."""
    choices = next((column.choices for column in spec.columns if column.name == ours), ())
    for said in (cell.constant, cell.default, *(cell.values or {}).values()):
        if choices and said is not None and said.lower() not in choices:
            raise ConfigError(
                f"expected one of {', '.join(choices)} in {where}, found {said!r}; {nearest(said, choices)}"
            )


def _dtype(spec: Table, ours: str, place: str) -> DType | None:
    if place == "wide":
        return "float"
    if ours in spec.names:
        return spec.column(ours).dtype
    return "bool" if ours.startswith(CONSENT_PREFIX) else None


def _check_cell(rules: SourceMap, cell: Cell, dtype: DType | None, where: str) -> None:
    if (cell.column is None) == (cell.constant is None):
        raise ConfigError(
            f"expected either column or constant in {where}, found {'both' if cell.column else 'neither'}; keep one"
        )
    if cell.type is not None and dtype is not None and TYPES[cell.type] != dtype:
        contract = {ours: name for name, ours in TYPES.items()}[dtype]
        raise ConfigError(
            f"expected type {contract} in {where}, found {cell.type}; the contract says so, remove it"
        )
    if cell.crosswalk is not None:
        _known(cell.crosswalk, rules.crosswalks, f"a crosswalk in {where}")
    if cell.currency is not None:
        _known(cell.currency, rules.currencies, f"a currency of [currencies] in {where}")
    if cell.currency and cell.currency_column:
        raise ConfigError(f"expected either currency or currency_column in {where}, found both; keep one")
    if cell.currency_column and not rules.currencies:
        raise ConfigError(f"expected rates in [currencies] of {rules.path} for {where}, found none; add them")
    if cell.upper and cell.lower:
        raise ConfigError(f"expected either upper or lower in {where}, found both; keep one")
    kind = dtype or (TYPES[cell.type] if cell.type else None)
    numeric = [
        key
        for key in ("decimal", "thousands", "factor", "currency", "currency_column")
        if getattr(cell, key) is not None
    ]
    timely = [key for key in ("format", "time_zone") if getattr(cell, key) is not None]
    for keys, only in ((numeric, "float"), (timely, "timestamp")):
        if keys and kind not in (only, None):
            raise ConfigError(
                f"expected {keys[0]} only for a {'number' if only == 'float' else 'time'}, found it in "
                f"{where}; remove it"
            )
    if numeric and timely:
        raise ConfigError(
            f"expected {where} to be a number or a time, found {numeric[0]} and {timely[0]}; keep one"
        )
