"""Progress of long work: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

_SILENCE_SECONDS = 10.0

Progress = Callable[[str, int, int], None]


@contextmanager
def shown(*, quiet: bool = False) -> Iterator[Progress]:
    """Yield a callable (what, done, total) that shows progress on standard error."""
    console = Console(stderr=True)
    if quiet:
        yield lambda what, done, total: None
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description:<24}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
        )
        with Bar(*columns, console=console) as bar:
            tasks: dict[str, TaskID] = {}

            def advance(what: str, done: int, total: int) -> None:
                if what not in tasks:
                    tasks[what] = bar.add_task(what, total=total)
                bar.update(tasks[what], completed=done)

            yield advance
    else:
        began = time.monotonic()

        told = began

        def line(what: str, done: int, total: int) -> None:
            nonlocal told
            now = time.monotonic()
            if done == total or now - told > _SILENCE_SECONDS:
                told = now
                sys.stderr.write(f"  {what}: {done} of {total}, {now - began:.1f} s since the start\n")
                sys.stderr.flush()

        yield line
