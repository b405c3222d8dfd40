"""SQL that turns any stored value into one of the four canonical types.

Files come from everywhere: ids written as floats because one was missing, times as text with an offset,
yes/no as 0/1. These functions write the DuckDB expressions that read them, so that the reader, the writer
and the validator agree on what a value means. A value that cannot be read becomes NULL, never an error;
``unreadable`` tells the two apart. Deliberately absent: guessing of date formats other than ISO 8601.
"""

from __future__ import annotations

from feature_repo.schema import DType

__all__ = ["SQL_TYPES", "cast", "dtype_of", "literal", "path_literal", "quoted", "text", "unreadable"]

SQL_TYPES: dict[DType, str] = {
    "string": "VARCHAR",
    "timestamp": "TIMESTAMP",
    "float": "DOUBLE",
    "bool": "BOOLEAN",
}

_BLANKS = "chr(32) || chr(9) || chr(10) || chr(13) || chr(160) || chr(12288)"  # the last two: no-break, CJK
_NOT_BLANK = "{0} > 32 AND {0} NOT IN (160, 12288)"
_EXACT_INTEGER = 2**53


def quoted(name: str) -> str:
    """Return ``name`` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: str | float | bool | None) -> str:
    """Return ``value`` as an SQL literal."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    return f"{value!r}::DOUBLE"


def path_literal(path: str) -> str:
    """Return a file path as an SQL literal that DuckDB takes literally, whatever signs it contains."""
    return literal("".join(f"[{sign}]" if sign in "*?[" else sign for sign in path))


def dtype_of(sql_type: str) -> DType:
    """Return the canonical type nearest to a DuckDB type."""
    kind = sql_type.upper()
    if kind.startswith("TIMESTAMP") or kind == "DATE":
        return "timestamp"
    if kind == "BOOLEAN":
        return "bool"
    if kind.startswith(
        ("DECIMAL", "TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "U", "FLOAT", "DOUBLE")
    ):
        return "string" if kind.startswith(("UUID", "UNION")) else "float"
    return "string"


def text(expression: str, sql_type: str = "VARCHAR") -> str:
    """Return ``expression`` as trimmed text, NULL when nothing is left.

    Whole numbers stored as floats (ids of a column that had gaps) are written without ``.0``.
    """
    if _is_float(sql_type):
        whole = f"{expression} = trunc({expression}) AND abs({expression}) < {_EXACT_INTEGER}"
        return (
            f"CASE WHEN isfinite({expression}) THEN CASE WHEN {whole} "
            f"THEN {expression}::BIGINT::VARCHAR ELSE {expression}::VARCHAR END END"
        )
    as_text = expression if sql_type == "VARCHAR" else f"{expression}::VARCHAR"
    first, last = _NOT_BLANK.format(f"unicode({as_text})"), _NOT_BLANK.format(f"unicode(right({as_text}, 1))")
    # Looking at both ends is three times as fast as trimming what needs none.
    return f"CASE WHEN {first} AND {last} THEN {as_text} ELSE nullif(trim({as_text}, {_BLANKS}), '') END"


def cast(expression: str, sql_type: str, dtype: DType) -> str:
    """Return SQL that reads ``expression`` (of DuckDB type ``sql_type``) as ``dtype``, or NULL.

    Times come out naive and in UTC: values with an offset are converted, values without one are UTC.
    Infinite numbers and times, and NaN, are NULL.
    """
    if dtype == "string":
        return text(expression, sql_type)
    if dtype == "timestamp":
        return _timestamp(expression, sql_type)
    if dtype == "float":
        number = f"try_cast({expression if sql_type != 'VARCHAR' else text(expression)} AS DOUBLE)"
        return f"CASE WHEN isfinite({number}) THEN {number} END" if _may_be_infinite(sql_type) else number
    if _is_float(sql_type):
        return f"CASE WHEN isfinite({expression}) THEN {expression} <> 0 END"
    return f"try_cast({expression if sql_type != 'VARCHAR' else text(expression)} AS BOOLEAN)"


def unreadable(expression: str, sql_type: str, dtype: DType) -> str:
    """Return SQL that is true where a value is there but cannot be read as ``dtype``."""
    if dtype == "string":
        return "FALSE"
    present = (
        f"NOT isnan({expression})" if _is_float(sql_type) else f"{text(expression, sql_type)} IS NOT NULL"
    )
    return f"({expression} IS NOT NULL AND {present} AND ({cast(expression, sql_type, dtype)}) IS NULL)"


def _timestamp(expression: str, sql_type: str) -> str:
    kind = sql_type.upper()
    if kind in ("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ"):
        instant = expression
    elif kind.startswith("TIMESTAMP") or kind == "DATE":
        instant = f"try_cast({expression} AS TIMESTAMP)"
    else:
        written = text(expression, sql_type)
        # DuckDB wants seconds before an offset (10:00Z); ISO 8601 does not.
        full = f"regexp_replace({written}, '([T ][0-9]{{2}}:[0-9]{{2}}) ?(Z|[+-][0-9])', '\\1:00\\2')"
        instant = f"coalesce(try_cast({written} AS TIMESTAMPTZ), try_cast({full} AS TIMESTAMPTZ))"
    return f"make_timestamp(epoch_us({instant}))"  # infinite times become NULL


def _is_float(sql_type: str) -> bool:
    return sql_type.upper() in ("FLOAT", "DOUBLE")


def _may_be_infinite(sql_type: str) -> bool:
    return _is_float(sql_type) or sql_type.upper() == "VARCHAR"
