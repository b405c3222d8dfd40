"""What is live: one small file, replaced atomically, that publish and rollback alone write.

``live.json`` maps a slot to ``name:version`` and remembers what was live before. How each worker takes it up is in
``serving.follower``.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from serving.bundle import NAME
from serving.errors import BundleError, ConfigError


class Slot(BaseModel):
    """One slot: the live tag and the earlier ones, latest last."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    live: str
    history: tuple[str, ...] = ()


class Live(BaseModel):
    """The content of ``live.json``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    slots: dict[str, Slot] = {}

    @classmethod
    def read(cls, path: Path) -> Live:
        """Read ``path``; an absent file means that nothing is live.

        Raises
        ------
        BundleError
            The file cannot be read.
        """
        try:
            return cls.model_validate_json(path.read_text())
        except FileNotFoundError:
            return cls()
        except (ValidationError, ValueError, OSError) as error:
            raise BundleError(
                f"expected slots in {path}, found it unreadable; publish a bundle again (`nextbest models` lists "
                "them), which puts the damaged file aside"
            ) from error

    def missing(self, slot: str) -> str | None:
        """Return why nothing is live in ``slot``, in one sentence; None where something is."""
        if slot in self.slots:
            return None
        if not self.slots:
            return "expected something live, found nothing published yet; run `nextbest train TABLES`"
        there = ", ".join(repr(name) for name in self.slots)
        return (
            f"expected something live in the slot {slot!r}, found slots {there} only; correct NEXTBEST_SLOT, or run "
            f"`nextbest publish TAG` with it"
        )

    def version(self, slot: str) -> str | None:
        """Return the version live in ``slot``, None when it is empty."""
        held = self.slots.get(slot)
        return held.live.partition(":")[2] if held else None


def publish(path: Path, slot: str, version: str) -> None:
    """Make ``version`` live in ``slot``; what was live before can be rolled back to."""
    with _locked(path):
        try:
            now = Live.read(path)
        except BundleError:
            path.replace(path.with_suffix(".damaged"))
            now = Live()
        held = now.slots.get(slot)
        tag = f"{NAME}:{version}"
        if held and held.live == tag:
            return
        history = (*held.history, held.live) if held else ()
        _replace(path, Live(slots={**now.slots, slot: Slot(live=tag, history=history[-20:])}))


def rollback(path: Path, slot: str) -> tuple[str, str]:
    """Make the version before the live one live again; return (from, to) tags.

    Raises
    ------
    ConfigError
        Nothing was live before.
    """
    with _locked(path):
        now = Live.read(path)
        held = now.slots.get(slot)
        if held is None or not held.history:
            raise ConfigError(
                f"expected an earlier bundle in slot {slot!r} to roll back to, found none; publish one"
            )
        to = held.history[-1]
        _replace(path, Live(slots={**now.slots, slot: Slot(live=to, history=held.history[:-1])}))
        return held.live, to


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _replace(path: Path, live: Live) -> None:
    handle, name = tempfile.mkstemp(prefix=".live-", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write(json.dumps(live.model_dump(), indent=1))
        file.flush()
        os.fsync(file.fileno())
    Path(name).replace(path)
