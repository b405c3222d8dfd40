"""What the files of a home say: which bundle is live, under which rules, and who sees what.

Read at each look, but made sense of only where their bytes have changed. Each part is told by itself, so that one that
is broken leaves the others as they are. Deliberately absent: whether what they say can be served (``serving.making``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, Generic, NamedTuple, TypeVar

from serving.errors import ConfigError
from serving.experiments_file import NO_FILE, Experiments
from serving.live import Live
from serving.rules.config import RulesFile
from serving.rules.file import parsed

T = TypeVar("T")


@dataclass(frozen=True)
class LiveRules:
    """The rules of what is live; no file: there are none. Equal where they say the same."""

    file: RulesFile | None = field(default=None, compare=False)
    path: Path = field(default=Path("rules.toml"), compare=False)
    digest: str = NO_FILE

    @classmethod
    def parse(cls, told: bytes, path: Path) -> LiveRules:
        """Parse the bytes of ``path``."""
        file = parsed(told, path)
        return cls(file, path, file.digest)


@dataclass(frozen=True)
class Plan:
    """Experiments with the files of rules that their variants name. Equal where they say the same."""

    experiments: Experiments = field(default_factory=Experiments, compare=False)
    rules: Mapping[str, LiveRules] = field(default_factory=lambda: MappingProxyType({}), compare=False)
    digest: str = NO_FILE
    digests: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, experiments: Experiments, rules: Mapping[str, LiveRules]) -> Plan:
        """Put them together."""
        digests = tuple(sorted((name, held.digest) for name, held in rules.items()))
        return cls(experiments, MappingProxyType(dict(rules)), experiments.digest, digests)


class State(NamedTuple):
    """One state that can be in force: the version that is live, its rules, and who sees what."""

    version: str
    rules: LiveRules
    plan: Plan


class File(Generic[T]):
    """A file that is parsed anew only where its bytes have changed.

    Parameters
    ----------
    path
        Of the file.
    parse
        Makes sense of its bytes.
    absent
        What holds without the file; None: it must be there.
    """

    def __init__(self, path: Path, parse: Callable[[bytes, Path], T], absent: T | None) -> None:
        self.path = path
        self._parse = parse
        self._absent = absent
        self._held: tuple[bytes, T] | None = None

    def read(self) -> T:
        """Return what it says; raises ``ConfigError`` where that does not fit."""
        try:
            told = _bytes(self.path)
        except FileNotFoundError:
            if self._absent is None:
                raise ConfigError(
                    f"expected a file of rules in {self.path}, found none; write it or name another"
                ) from None
            return self._absent
        if self._held is None or self._held[0] != told:
            self._held = told, self._parse(told, self.path)
        return self._held[1]


class Files:
    """The files that a worker follows.

    Parameters
    ----------
    live, slot
        ``live.json``, and the slot to follow.
    rules, experiments
        The other two; None: there are none.
    """

    def __init__(self, live: Path, slot: str, *, rules: Path | None, experiments: Path | None) -> None:
        self._live, self._slot = live, slot
        self._rules = None if rules is None else File(rules, LiveRules.parse, LiveRules())
        self._experiments = (
            None if experiments is None else File(experiments, Experiments.parse, Experiments())
        )
        self._named: dict[str, File[LiveRules]] = {}

    def version(self) -> str:
        """Return the live version; raises ``NextbestError`` where nothing is live."""
        live = Live.read(self._live)
        version = live.version(self._slot)
        if version is None:
            raise ConfigError(live.missing(self._slot))
        return version

    def rules(self) -> LiveRules:
        """Return the rules of what is live; raises ``ConfigError`` where they do not fit."""
        return _NO_RULES if self._rules is None else self._rules.read()

    def plan(self) -> Plan:
        """Return who sees what; raises ``ConfigError`` where that does not fit."""
        if self._experiments is None:
            return _NO_PLAN
        experiments, folder = self._experiments.read(), self._experiments.path.parent
        self._named = {
            name: self._named.get(name) or File(folder / name, LiveRules.parse, None)
            for name in sorted(experiments.rules)
        }
        return Plan.of(experiments, {name: file.read() for name, file in self._named.items()})


_NO_RULES: Final = LiveRules()
_NO_PLAN: Final = Plan()


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise
    except OSError as error:
        raise ConfigError(f"expected a readable file at {path}, found: {error}; correct it") from error
