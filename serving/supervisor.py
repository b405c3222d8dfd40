"""BentoML's command line with one thing changed: where workers keep what they count.

The metrics of a worker are files that it maps into its memory. On a disk that has become full, a first write to a page
of such a file ends the process (SIGBUS), and so it does that of every worker that is started in its place. In a
directory that is in memory anyway they are safe from it. BentoML has no setting for the directory, which is a provider
of its container; ``bentoml serve`` by itself keeps it below ``BENTOML_HOME``.

``python -m serving.supervisor serve SERVICE …`` takes what ``bentoml`` takes.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final

#: A file system in memory, where the system has one.
MEMORY: Final = Path("/dev/shm")
PREFIX: Final = "nextbest-metrics-"
#: A worker needs less than 1 MB.
LEAST_FREE_BYTES: Final = 16_000_000


def main() -> None:
    """Run BentoML's command line, with the workers' metrics in memory where there is room for them."""
    from bentoml._internal.configuration.containers import BentoMLContainer
    from bentoml_cli.cli import cli

    with metrics_directory() as directory:
        if directory is not None:
            BentoMLContainer.prometheus_multiproc_dir.set(str(directory))
        cli()


@contextlib.contextmanager
def metrics_directory(memory: Path = MEMORY) -> Iterator[Path | None]:
    """Yield an empty directory in ``memory`` that is gone afterwards; None where there is no room for one.

    Directories that killed processes of this user have left there are removed first: whose owner lives is locked.
    """
    _remove_left(memory)
    try:
        directory, lock = _made(memory)
    except OSError:  # no such file system, no room, or not ours to write
        yield None
        return
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
        os.close(lock)


def _made(memory: Path) -> tuple[Path, int]:
    if shutil.disk_usage(memory).free < LEAST_FREE_BYTES:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(memory))
    directory = Path(tempfile.mkdtemp(prefix=PREFIX, dir=memory))
    return directory, _locked(directory)


def _remove_left(memory: Path) -> None:
    for directory in memory.glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):  # another user's, no directory, or its owner lives
            lock = _locked(directory)
            shutil.rmtree(directory, ignore_errors=True)
            os.close(lock)


def _locked(directory: Path) -> int:
    """Return a handle that holds the directory until it is closed, or this process ends.

    Raises
    ------
    OSError
        Another process holds it, has just removed it, or it is another user's.
    """
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        directory.stat()
    except OSError:
        os.close(handle)
        raise
    return handle


if __name__ == "__main__":
    main()
