"""The errors a user can meet, drawn once.

They live on the lowest floor because every floor raises them; ``serving.errors`` gives them under
the name the upper floors use. Each message says what was expected, what was found, and what to do.

    NextbestError
    ├── DataError(ValueError)      the data break the contract        → the job stops
    ├── ConfigError(ValueError)    a setting or option is wrong       → exit 2
    │   └── HomeBusy               another job holds the home         → `refresh` exits 75
    ├── BundleError                a published artifact is not whole  → not ready
    ├── FeatureUnavailable         the online store is down or slow   → degrade, count, serve
    │   └── FeatureDamaged         its file is damaged                → and tell how it is made anew
    └── EventLogUnavailable        the event log cannot take an event → 503 with Retry-After
"""

from __future__ import annotations

__all__ = [
    "BundleError",
    "ConfigError",
    "DataError",
    "EventLogUnavailable",
    "FeatureDamaged",
    "FeatureUnavailable",
    "HomeBusy",
    "NextbestError",
]


class NextbestError(Exception):
    """Base of every error that is told to a user in one sentence."""


class DataError(NextbestError, ValueError):
    """Input data break the contract: schema, row counts, an empty window."""


class ConfigError(NextbestError, ValueError):
    """A setting, option or configuration file is wrong."""


class HomeBusy(ConfigError):  # noqa: N818 - it is a state, and passes by itself
    """Another job writes to the home; the same call works once that has ended."""


class BundleError(NextbestError):
    """A bundle is missing, incomplete, altered, too new, or does not answer as it was made to."""


class FeatureUnavailable(NextbestError):  # noqa: N818 - the name is part of the contract
    """The online store did not answer in time; the caller serves without features."""


class FeatureDamaged(FeatureUnavailable):
    """The file of the online store is damaged: it stays so until the features are brought online again."""


class EventLogUnavailable(NextbestError):  # noqa: N818 - the name is part of the contract
    """The event log is down, slow, full or read-only; nothing was acknowledged, and the caller may repeat."""
