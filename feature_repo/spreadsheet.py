"""Tables for people: CSV that a spreadsheet opens rightly, whatever the script, and that runs nothing.

UTF-8 with a byte order mark, since spreadsheets take bare UTF-8 for the local code page; CRLF; a text that
begins like a formula gets an apostrophe. Deliberately absent: reading, and any file that a program reads.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

__all__ = ["harmless", "write_csv"]


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """Write a table for a spreadsheet in one step and return its path.

    Lists become their entries with semicolons, instants ISO 8601 to the second, nothing an empty cell.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\r\n")
    writer.writerow([harmless(column) for column in columns])
    writer.writerows([_cell(value) for value in row] for row in rows)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_text(out.getvalue(), encoding="utf-8-sig", newline="")
    partial.replace(path)
    return path


def harmless(text: str) -> str:
    """Return a text that a spreadsheet shows and does not run: a leading formula sign gets an apostrophe."""
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text


def _cell(value: Any) -> Any:
    if isinstance(value, str):
        return harmless(value)
    if hasattr(value, "__len__"):
        return harmless("; ".join(str(_cell(entry)) for entry in value))
    if value is None or value != value:
        return ""
    return value.strftime("%Y-%m-%d %H:%M:%S") if isinstance(value, datetime) else value
