"""SQL that reads one of our columns from a source: its text, its typed value, and what is wrong with it.

Three layers, so that each expression is written once: the text as the source has it (``t``), the text in our
words (``m``: values mapped, ids normalised and taken through a crosswalk), the typed value (``v``) with its
fault (``e``, a struct of field, value and reason, or NULL). Deliberately absent: any reading of data; these
functions only write SQL.
"""

from __future__ import annotations

from dataclasses import dataclass

from feature_repo.casts import literal, quoted
from feature_repo.casts import text as plain
from feature_repo.importers.sources.source_map import TYPES, Cell, Id, SourceFile, SourceMap
from feature_repo.importers.sources.times import gap, in_utc, instant, local, twice
from feature_repo.schema import CONSENT_PREFIX, DType, Table

__all__ = ["FAULT", "Reading", "dtype_of_cell", "normalised", "number_pattern", "read_cell"]

FAULT = "STRUCT(field VARCHAR, value VARCHAR, reason VARCHAR)"


@dataclass(frozen=True)
class Reading:
    """How one of our columns is read.

    Attributes
    ----------
    name
        Our column.
    dtype
        Its type; None for an attribute whose type the values decide.
    text, mapped, value
        SQL of the three layers.
    fault
        SQL for what is wrong, NULL if nothing is.
    whole_row
        Whether a fault rejects the row, or only the value.
    joins
        Crosswalks to join before the second layer.
    gap, twice
        SQL that is true for a local time that clocks never show, or show twice.
    zone
        Zone of local times, None for what is no time.
    """

    name: str
    dtype: DType | None
    text: str
    mapped: str
    value: str
    fault: str
    whole_row: bool
    joins: str = ""
    gap: str = "FALSE"
    twice: str = "FALSE"
    zone: str | None = None


def read_cell(
    rules: SourceMap,
    source: SourceFile,
    spec: Table,
    ours: str,
    cell: Cell,
    *,
    index: int,
    columns: dict[str, str],
    key: list[str],
    dtype: DType | None,
) -> Reading:
    """Return how a column is read.

    Parameters
    ----------
    rules, source, spec
        The map, the source and the table it feeds.
    ours, cell
        Our column and what the map says of it.
    index
        Number of the column: layers are called ``t<index>``, ``m<index>``, ``v<index>``, ``e<index>``.
    columns
        Column of the source → its SQL.
    key
        Columns by which rows of the table are the same.
    dtype
        Type of the column, None if the values decide.
    """
    decimal = cell.decimal or source.decimal or rules.defaults.decimal
    if dtype == "float":
        cell = _in_their_sign(cell, decimal)
    text = _text(cell, source.empty if source.empty is not None else rules.defaults.empty, columns)
    t, m, v = f"t{index}", f"m{index}", f"v{index}"
    mapped, joins, faults = _mapped(cell, t, index)
    value, zone, gaps, twices = m, None, "FALSE", "FALSE"
    if dtype == "float":
        value, more = _number(cell, source, rules, m, columns)
        faults += more
    elif dtype == "timestamp":
        formats = cell.format or source.time_format or rules.defaults.time_format
        if cell.constant is not None or cell.default is not None:
            formats = [*formats, "iso"]  # what the map itself says is written as TOML writes it
        zone = cell.time_zone or source.time_zone or rules.defaults.time_zone
        clock = local(m, formats)
        value = f"coalesce({instant(m, formats)}, {in_utc(f'({clock})', zone)})"
        gaps, twices = gap(f"({clock})", zone), twice(f"({clock})", zone)
    elif dtype == "bool":
        value = f"try_cast({m} AS BOOLEAN)"
    column = {c.name: c for c in spec.columns}.get(ours)
    unreadable = {
        "float": "is not a number",
        "timestamp": "is not a time",
        "bool": "is neither true nor false",
    }
    if dtype in unreadable:
        faults.append((f"{m} IS NOT NULL AND {v} IS NULL", f"{unreadable[dtype]} as declared"))
    if column is not None and column.choices:
        value = f"lower({m})"
        known = ", ".join(literal(choice) for choice in column.choices)
        faults.append((f"{v} NOT IN ({known})", f"is none of {', '.join(column.choices)}"))
    if column is not None and column.required and not column.may_be_empty:
        faults.append((f"{v} IS NULL", "is empty"))
    whole = ours in key or (
        column is not None and (column.required or bool(column.choices) or column.default is not None)
    )
    if cell.unreadable is not None and not (ours in key or (column is not None and column.required)):
        whole = cell.unreadable == "row"
    cases = "".join(
        f" WHEN {test} THEN {{'field': {literal(ours)}, 'value': {t}, 'reason': {literal(f'{ours} {why}')}}}"
        for test, why in faults
    )
    fault = f"CASE{cases} END" if cases else f"NULL::{FAULT}"
    return Reading(ours, dtype, text, mapped, value, fault, whole, joins, gaps, twices, zone)


def dtype_of_cell(spec: Table, ours: str, cell: Cell, *, wide: bool = False) -> DType | None:
    """Return the type of a column, None for an attribute whose type is not declared."""
    if wide:
        return "float"
    if ours in spec.names:
        return spec.column(ours).dtype
    if ours.startswith(CONSENT_PREFIX):
        return "bool"
    if cell.type is not None:
        return TYPES[cell.type]
    if any(
        part is not None
        for part in (cell.factor, cell.decimal, cell.thousands, cell.currency, cell.currency_column)
    ):
        return "float"
    return "timestamp" if cell.format is not None else None


def normalised(expression: str, rule: Id) -> str:
    """Return SQL for a text with the normalisers of ``rule`` applied."""
    if rule.strip:
        expression = f"nullif(trim({expression}, {literal(rule.strip + ' ')}), '')"
    if rule.whole:
        expression = f"regexp_replace({expression}, '[.]0+$', '')"
    if rule.upper:
        expression = f"upper({expression})"
    if rule.lower:
        expression = f"lower({expression})"
    if rule.zero_pad:
        padded = f"lpad({expression}, {rule.zero_pad}, '0')"
        expression = f"CASE WHEN length({expression}) < {rule.zero_pad} THEN {padded} ELSE {expression} END"
    return f"{literal(rule.prefix)} || {expression}" if rule.prefix else expression


def number_pattern(decimal: str, thousands: str | None) -> str:
    """Return the regular expression of a number written with these signs."""
    dot = f"[{decimal}]"
    plain_digits = "[0-9]+"
    if thousands:
        plain_digits = f"([0-9]{{1,3}}({_group(thousands)}[0-9]{{2,3}})*{_group(thousands)}[0-9]{{3}}|[0-9]+)"
    return f"^[+-]?({plain_digits}({dot}[0-9]*)?|{dot}[0-9]+)([eE][+-]?[0-9]+)?$"


def _group(sign: str) -> str:
    return "[ \u00a0\u202f]" if sign.isspace() else f"[{sign}]" if sign not in "\\^]" else f"\\{sign}"


def _text(cell: Cell, empty: list[str], columns: dict[str, str]) -> str:
    if cell.constant is not None:
        return literal(cell.constant)
    parts = [plain(columns[name]) for name in cell.column or ()]
    joined = (
        parts[0] if len(parts) == 1 else f"nullif(concat_ws({literal(cell.join)}, {', '.join(parts)}), '')"
    )
    if not empty:
        return joined
    nothing = ", ".join(literal(word) for word in empty)
    return f"CASE WHEN ({joined}) NOT IN ({nothing}) THEN {joined} END"


def _in_their_sign(cell: Cell, decimal: str) -> Cell:
    """Return a cell whose own numbers, which TOML writes with a point, are written as the source writes them."""
    said = {"constant": cell.constant, "default": cell.default}
    words: dict[str, object] = {key: word and word.replace(".", decimal) for key, word in said.items()}
    if cell.values is not None:
        words["values"] = {theirs: ours.replace(".", decimal) for theirs, ours in cell.values.items()}
    return cell.model_copy(update=words)


def _mapped(cell: Cell, t: str, index: int) -> tuple[str, str, list[tuple[str, str]]]:
    """Return the second layer, its join, and the faults it can have."""
    faults: list[tuple[str, str]] = []
    expression, joins = t, ""
    if cell.values is not None:
        known = "".join(
            f" WHEN {literal(theirs)} THEN {literal(ours)}" for theirs, ours in cell.values.items()
        )
        otherwise = literal(cell.default) if cell.default is not None else "NULL"
        expression = f"CASE {t}{known} ELSE {otherwise} END"
        if cell.default is None:
            faults.append((f"{t} IS NOT NULL AND m{index} IS NULL", "is not among the declared values"))
    elif cell.default is not None:
        expression = f"coalesce({t}, {literal(cell.default)})"
    expression = normalised(expression, cell)
    if cell.crosswalk is not None:
        walk = f"x{index}"
        joins = (
            f" LEFT JOIN {quoted(f'crosswalk_{cell.crosswalk}')} AS {walk} ON {walk}.theirs = {expression}"
        )
        found = f"CASE WHEN NOT {walk}.several THEN {walk}.ours END"
        several = f"{t} IS NOT NULL AND coalesce(w{index}, FALSE)"
        faults.append((several, f"has several ids in crosswalk {cell.crosswalk}"))
        if cell.unknown == "keep":
            found = f"CASE WHEN {walk}.theirs IS NULL THEN {expression} ELSE {found} END"
        elif cell.unknown == "reject":
            faults.append((f"{t} IS NOT NULL AND m{index} IS NULL", f"is not in crosswalk {cell.crosswalk}"))
        expression = found
    return expression, joins, faults


def _number(
    cell: Cell, source: SourceFile, rules: SourceMap, m: str, columns: dict[str, str]
) -> tuple[str, list[tuple[str, str]]]:
    decimal = cell.decimal or source.decimal or rules.defaults.decimal
    given = (
        sign for sign in (cell.thousands, source.thousands, rules.defaults.thousands) if sign is not None
    )
    thousands = next(given, None)
    digits = (
        f"replace(regexp_replace({m}, {literal(_group(thousands))}, '', 'g'), {literal(decimal)}, '.')"
        if thousands
        else f"replace({m}, {literal(decimal)}, '.')"
    )
    number = f"try_cast({digits} AS DOUBLE)"
    pattern = literal(number_pattern(decimal, thousands))
    factor, faults = cell.factor if cell.factor is not None else 1.0, []
    scale = literal(factor)
    if cell.currency is not None:
        scale = literal(factor * rules.currencies[cell.currency])
    elif cell.currency_column is not None:
        code = plain(columns[cell.currency_column])
        rates = "".join(
            f" WHEN {literal(name.upper())} THEN {literal(factor * rate)}"
            for name, rate in rules.currencies.items()
        )
        scale = f"CASE upper({code}){rates} END"
        faults.append((f"{m} IS NOT NULL AND ({scale}) IS NULL", "has a currency without declared rate"))
    scaled = number if scale == literal(1.0) else f"round({number} * {scale}, 10)"  # 1999 × 0.01 is 19.99
    return f"CASE WHEN regexp_matches({m}, {pattern}) AND isfinite({number}) THEN {scaled} END", faults
