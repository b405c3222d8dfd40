"""The error tree under the name the upper floors use; it is drawn in ``feature_repo.errors``."""

from feature_repo.errors import (
    BundleError,
    ConfigError,
    DataError,
    EventLogUnavailable,
    FeatureDamaged,
    FeatureUnavailable,
    HomeBusy,
    NextbestError,
)

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
