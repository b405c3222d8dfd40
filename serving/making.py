"""From what files say to what is served: every bundle loaded, every file of rules bound to the bundles it is for.

One recommender for each bundle with each set of rules; those of one bundle share all that it holds. What was made for
the state before is taken from there, so that a change of rules loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final

from serving.errors import ConfigError, NextbestError
from serving.experiments_file import NO_FILE
from serving.features import FeatureReader
from serving.recommender import Recommender
from serving.rules import Rules
from serving.served import Served
from serving.told import LiveRules, State

Load = Callable[[str], Recommender]
Bind = Callable[[Recommender, Rules], Recommender]
Attributes = Callable[[Collection[str], Recommender], FeatureReader]

_PLAIN: Final = LiveRules()


class Maker:
    """Makes what is served.

    Parameters
    ----------
    load
        Makes a verified, replayed recommender of a version; raises ``NextbestError`` when it cannot.
    bind
        Puts a recommender under rules; raises ``NextbestError`` when it cannot.
    attributes
        Makes the reader of these attributes of customers; raises ``NextbestError`` when it cannot.
    """

    def __init__(self, load: Load, bind: Bind, attributes: Attributes) -> None:
        self._load = load
        self._bind = bind
        self._attributes = attributes
        self._held: dict[tuple[str, str], Recommender] = {}
        self._failed: dict[tuple[str, str], Exception] = {}
        #: How many bundles were loaded.
        self.loaded = 0

    def made(self, state: State) -> Served:
        """Return what is served in a state; raises whatever keeps it from being served."""
        plan = state.plan
        live = self._of(state.version, state.rules)
        experiments = plan.experiments
        named = {
            version: self._of(version, state.rules)
            for version in sorted(experiments.versions - {state.version})
        }
        own = {
            (version, variant.rules): self._of(version, plan.rules[variant.rules])
            for experiment in experiments.experiments
            for variant in experiment.variants
            if variant.rules is not None
            for version in [variant.version or state.version]
        }
        asked = experiments.attributes
        return Served(live, experiments, named, self._attributes(asked, live) if asked else None, own)

    def has_failed(self, version: str) -> bool:
        """Whether a version itself could not be loaded since the last ``forget``."""
        return (version, NO_FILE) in self._failed

    def forget(self, *needed: State) -> None:
        """Drop what none of these states needs, and what failed, which may be mended by now."""
        versions = {one for state in needed for one in (state.version, *state.plan.experiments.versions)}
        digests = {NO_FILE}
        for state in needed:
            digests |= {state.rules.digest, *(rules.digest for rules in state.plan.rules.values())}
        self._held = {
            key: held for key, held in self._held.items() if key[0] in versions and key[1] in digests
        }
        self._failed = {}

    def _of(self, version: str, rules: LiveRules) -> Recommender:
        key = version, rules.digest
        if key in self._failed:
            raise self._failed[key]
        if key not in self._held:
            try:
                self._held[key] = self._made(version, rules)
            except Exception as error:
                self._failed[key] = error
                raise
        return self._held[key]

    def _made(self, version: str, rules: LiveRules) -> Recommender:
        if rules.file is None:
            self.loaded += 1
            return self._load(version)
        plain = self._of(version, _PLAIN)
        try:
            return self._bind(plain, Rules(rules.file, plain.bundle))
        except ConfigError as error:
            raise ConfigError(f"{plain.bundle.tag} under {rules.path}: {error}; correct the rules") from None


def bound(recommender: Recommender, rules: Rules) -> Recommender:
    """Put a recommender under rules that its own reader reads enough for; see ``Maker``."""
    rules.check_customers(recommender.features.attributes)
    return recommender.with_rules(rules)


def told(error: Exception) -> str:
    """Return what went wrong in one sentence."""
    return str(error) if isinstance(error, NextbestError) else f"{type(error).__name__}: {error}"
