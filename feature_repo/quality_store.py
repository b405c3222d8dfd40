"""Where profiles lie: ``TABLES/.quality/``, beside the tables they describe, where no table is looked for.

One JSON file a run, named by its time, the newest ``KEEP`` of them; each is written beside and renamed. A run
over unchanged data is compared with the last run over other data, and so says the same again. Deliberately
absent: locks. Two runs at once write two files.
"""

from __future__ import annotations

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Final

from feature_repo.errors import DataError
from feature_repo.quality_counts import profile_of
from feature_repo.quality_profile import Profile
from feature_repo.tables import Tables

__all__ = ["FOLDER", "KEEP", "earlier_profile", "load_profile", "store_profile"]

FOLDER: Final = ".quality"
KEEP: Final = 20
_PROFILES: Final = "profiles"
_STAMP: Final = "%Y%m%dT%H%M%S"


def load_profile(source: str | Path, *, memory_limit: str = "1GB") -> Profile:
    """Return the profile of another directory of tables, or one that was stored.

    Parameters
    ----------
    source
        Directory of tables, which is read, or a file written by ``store_profile``.
    memory_limit
        Of DuckDB.

    Raises
    ------
    DataError
        There is neither, or the file is damaged or of another version.
    """
    path = Path(source)
    if path.is_dir():
        with Tables.open(path, memory_limit=memory_limit, strict=False) as tables:
            return profile_of(tables)
    try:
        return Profile.from_dict(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        found = "nothing" if not path.exists() else f"{type(error).__name__}: {error}"
        raise DataError(
            f"expected a directory of tables or a profile of one at {path}, found {found}; "
            f"give a folder or a file of {FOLDER}/{_PROFILES}"
        ) from error


def earlier_profile(directory: str | Path, *, than: Profile) -> Profile | None:
    """Return the newest stored profile that differs from ``than``; unreadable ones are passed over."""
    digest = than.digest
    for path in reversed(_stored(Path(directory))):
        try:
            profile = load_profile(path)
        except DataError:
            continue
        if profile.digest != digest:
            return profile
    return None


def store_profile(profile: Profile, directory: str | Path) -> Path | None:
    """Store a profile beside the tables, unless the newest says the same.

    Returns
    -------
    Path or None
        The file; None if the directory cannot be written.
    """
    folder = Path(directory) / FOLDER / _PROFILES
    stored = _stored(Path(directory))
    try:
        if stored and load_profile(stored[-1]).digest == profile.digest:
            return stored[-1]
    except DataError:
        pass  # a damaged one is no reason not to write a good one
    moment = datetime.fromisoformat(profile.made_at).strftime(_STAMP) if profile.made_at else "undated"
    target = folder / f"{moment}-{profile.digest[:8]}.json"
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("w", encoding="utf-8") as file:
                json.dump(profile.to_dict(), file, ensure_ascii=False)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)
        for path in _stored(Path(directory))[:-KEEP]:
            path.unlink(missing_ok=True)
    except OSError:
        return None
    return target


def _stored(directory: Path) -> list[Path]:
    """Return the stored files, oldest first; of one second by when they were written."""
    files = (directory / FOLDER / _PROFILES).glob("*.json")
    return sorted(files, key=lambda path: (path.name.partition("-")[0], path.stat().st_mtime_ns))
