"""What a command says where the machine has no room: the disk is not the memory, and each has its own way out."""

from __future__ import annotations

import errno
from collections.abc import Iterator

import duckdb

#: How DuckDB, SQLite and Arrow word a full disk; DuckDB calls it memory where it could not spill to the disk.
_FULL = ("no space left on device", "disk is full", "disk quota exceeded", "max_temp_directory_size")


def shortage(error: BaseException) -> str | None:
    """Return the sentence for an error that comes of a full disk or of too little memory; None for another."""
    for one in _chain(error):
        found = str(one).strip().splitlines()[0] if str(one).strip() else type(one).__name__
        full = isinstance(one, OSError) and one.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or any(word in str(one).lower() for word in _FULL):
            return (
                f"expected room on the disk, found: {found}; free some, or set NEXTBEST_HOME, and TMPDIR for what is "
                "put aside, to directories on a larger one"
            )
    for one in _chain(error):
        if isinstance(one, duckdb.OutOfMemoryException | MemoryError):
            found = str(one).strip().splitlines()[0] if str(one).strip() else type(one).__name__
            return (
                f"expected room in memory, found: {found}; give more --memory where the command has it, or run it "
                "on a larger machine"
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Iterate over an error and what it came of."""
    held: BaseException | None = error
    while held is not None:
        yield held
        held = held.__cause__ or (None if held.__suppress_context__ else held.__context__)
