"""A view's rows as Parquet files: one file, or a folder of parts in order of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from feature_repo.casts import path_literal

#: The name under which a folder's parts are asked for together, as every reader of Parquet understands it.
PARTS: Final = "*.parquet"


def parquet_files(path: Path) -> list[Path]:
    """Return the files of ``path`` in order: of a folder, of a folder's ``PARTS``, or the path itself."""
    folder = path.parent if path.name == PARTS else path
    return sorted(folder.glob(PARTS)) if folder.is_dir() else [path]


def read_parquet(files: Sequence[Path], *, file_row_number: bool = False) -> str:
    """Return the SQL that reads ``files`` as one table."""
    listed = ", ".join(path_literal(str(path)) for path in files)
    return f"read_parquet([{listed}], file_row_number = {str(file_row_number).lower()})"
