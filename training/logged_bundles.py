"""The bundles and rules that made logged answers, and the one that is to be valued by them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from serving.bundle import NAME, Bundle, load
from serving.errors import BundleError, ConfigError
from serving.features import FrameReader
from serving.recommender import Recommender
from serving.rules import Rules
from serving.rules.config import RulesFile

_TOLD: Final = 5


@dataclass
class Recommenders:
    """Recommenders by bundle and rules, made when they are first asked for; None where the bundle is gone.

    Parameters
    ----------
    bundles
        Directory that holds a folder a version.
    files
        Rules by what they say, the first of which made the answers that tell none.
    """

    bundles: Path
    files: Sequence[RulesFile]
    _bare: dict[str, Recommender | None] = field(default_factory=dict)
    _bound: dict[tuple[str, int], Recommender | None] = field(default_factory=dict)

    def of(self, tag: str, digest: str | None) -> Recommender | None:
        """Return the recommender of a bundle under the rules with a hash that begins so."""
        number = self._number(digest)
        if number is None:
            return None
        key = (tag, number)
        if key not in self._bound:
            bare = self._of(tag)
            self._bound[key] = (
                None if bare is None else bare.with_rules(Rules(self.files[number], bare.bundle))
            )
        return self._bound[key]

    def _number(self, digest: str | None) -> int | None:
        if digest is None:
            return 0
        found = [i for i, file in enumerate(self.files) if rules_hash(file).startswith(digest)]
        return found[0] if found else None

    def _of(self, tag: str) -> Recommender | None:
        if tag not in self._bare:
            try:
                bundle = load(self.bundles, tag.removeprefix(f"{NAME}:"))
            except BundleError:
                self._bare[tag] = None
            else:
                self._bare[tag] = Recommender(bundle, FrameReader({}))
        return self._bare[tag]


def rules_hash(file: RulesFile) -> str:
    """Return the hash of what a file of rules says, of which exposures keep the beginning."""
    return hashlib.sha256(file.model_dump_json(by_alias=True).encode()).hexdigest()


def target_of(bundles: Path, tag: str) -> Bundle:
    """Return the bundle that is to be valued; ConfigError where there is none of that name."""
    version = tag.removeprefix(f"{NAME}:")
    if "/" in version or not (bundles / version).is_dir():
        there = sorted(path.name for path in bundles.iterdir() if path.is_dir()) if bundles.is_dir() else []
        latest = ", ".join(f"{NAME}:{one}" for one in reversed(there[-_TOLD:]))
        more = f" and {len(there) - _TOLD} more" if len(there) > _TOLD else ""
        raise ConfigError(
            f"expected --counterfactual with the tag of a bundle of this home (there are: {latest or 'none'}{more}), "
            f"found {tag!r}; `nextbest models` lists them"
        )
    return load(bundles, version)
