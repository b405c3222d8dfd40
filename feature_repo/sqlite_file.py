"""Files of SQLite that may be damaged, and replaced by others: which file a path names, and which errors are damage.

Apart from the readers of the online store, which import Feast and so take seconds to import.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path


def file_of(path: Path) -> tuple[int, int] | None:
    """Return what tells the file at a path from one that takes its place; None where there is none."""
    try:
        told = path.stat()
    except OSError:
        return None
    return told.st_dev, told.st_ino


def is_damage(error: BaseException | None) -> bool:
    """Whether an error, or what it came from, says that a file of SQLite is damaged, or is none of SQLite's."""
    while error is not None:
        if type(error) is sqlite3.DatabaseError:  # others (locked, no such table) are classes of their own
            return True
        error = error.__cause__
    return False
