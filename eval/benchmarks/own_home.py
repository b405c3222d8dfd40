"""A home of its own for a benchmark that breaks things: the live bundle and the features of another, and no events.

Nothing of the home it is made from is changed; what is told to a service on the copy stays in the copy.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from feature_repo import names as v
from feature_repo import store as feature_store
from feature_repo.build import FeatureSet
from serving.bundle import NAME
from serving.bundle import load as load_bundle
from serving.errors import ConfigError
from serving.events.fold import Lines
from serving.events.live import bring_online
from serving.events.rows import histories
from serving.live import Live, publish
from serving.settings import Settings

#: Products that are told of and asked for, and customers that ask.
_SHOP: Final = 200


@dataclass(frozen=True)
class OwnHome:
    """The copy: its settings, the environment its service needs besides, and what it knows.

    ``base`` are the histories that the tables tell, by customer; ``customers`` have one each.
    """

    settings: Settings
    extra: Mapping[str, str]
    base: Mapping[str, Lines]
    customers: Sequence[str]
    products: Sequence[str]

    @classmethod
    def copied(cls, settings: Settings, directory: Path, *, redis_url: str | None = None) -> OwnHome:
        """Copy the live bundle and the features of a home, and bring them online.

        Parameters
        ----------
        settings
            Of the home to copy.
        directory
            Where the copy is made; nothing is there yet.
        redis_url
            A Redis for the copy's event log and online store; None for SQLite.

        Raises
        ------
        ConfigError
            Nothing is live in the home.
        DataError
            Its features cannot be read.
        """
        version = Live.read(settings.live).version(settings.slot)
        if version is None:
            raise ConfigError("expected a live bundle to copy, found none; run `nextbest train TABLES`")
        given = {"home": directory, "redis_url": redis_url, "redis_durable": False, "api_keys": ()}
        own = settings.model_copy(update=given)
        bentoml = directory / "bentoml"
        shutil.copytree(settings.bundles / version, bentoml / "models" / NAME / version)
        shutil.copytree(settings.features, own.features)
        features = FeatureSet.read(own.features)
        bring_online(own, feature_store.apply(own.store, features), features)
        publish(own.live, own.slot, version)
        bundle = load_bundle(bentoml / "models" / NAME, version)
        base = histories(feature_store.latest(features, v.CUSTOMER_RECENT))
        known = [customer for customer, lines in base.items() if lines]
        return cls(own, {"BENTOML_HOME": str(bentoml)}, base, known[:_SHOP], bundle.catalog.ids[:_SHOP])
