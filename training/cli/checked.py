"""What checks of the files that a service follows have in common: which file, and whether its rules fit a bundle."""

from __future__ import annotations

from pathlib import Path

from feature_repo.store import open_store
from serving.bundle import load
from serving.errors import ConfigError
from serving.making import bound
from serving.online import OnlineReader
from serving.recommender import Recommender
from serving.rules import Rules
from serving.settings import Settings
from serving.told import LiveRules


def asked(file: Path | None, default: Path) -> Path:
    """Return the file to check; one that is named must be there."""
    if file is not None and not file.exists():
        raise ConfigError(f"expected a file at {file}, found none; correct the path")
    return file or default


def under(settings: Settings, version: str, rules: LiveRules) -> Recommender:
    """Return the verified recommender of a version under rules, with the online store.

    Raises
    ------
    NextbestError
        The bundle is not whole, or the rules do not fit it or what is known of customers.
    """
    bundle = load(settings.bundles, version)
    reader = OnlineReader(
        open_store(settings.store, offline=False),
        service=bundle.manifest.feature_service,
        schema_hash=bundle.manifest.feature_schema_hash,
        defaults=bundle.manifest.feature_defaults,
        timeout_ms=settings.feature_timeout_ms,
    )
    plain = Recommender(bundle, reader)
    try:
        return plain if rules.file is None else bound(plain, Rules(rules.file, bundle))
    except ConfigError as error:
        raise ConfigError(f"{error}; correct {rules.path}") from None
