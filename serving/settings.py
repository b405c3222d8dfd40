"""Settings from the environment (``NEXTBEST_…``), built by the command or the service and passed down.

Nothing is read at import. ``NEXTBEST_HOME`` holds everything a running Nextbest owns; the BentoML store
lies in it too unless ``BENTOML_HOME`` says otherwise.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from feature_repo.store import StoreConfig, redis_options
from serving.errors import ConfigError
from serving.events.streams import KNOWN_DAYS

#: Variables of the project that are no settings of a running Nextbest.
_OTHERS = {"NEXTBEST_REALDATA"}


class Settings(BaseSettings):
    """Where things are and how the service behaves; every field is an environment variable."""

    model_config = SettingsConfigDict(
        env_prefix="NEXTBEST_", frozen=True, extra="ignore", env_ignore_empty=True
    )

    home: Path = Path(".nextbest")
    redis_url: str | None = None
    redis_durable: bool = False
    slot: str = "default"
    live_poll_seconds: float = Field(default=0.25, gt=0, le=60)
    feature_timeout_ms: float = Field(default=200.0, gt=0)
    api_keys: Annotated[tuple[str, ...], NoDecode] = ()
    request_limit_bytes: int = Field(default=1_000_000, gt=0)
    concurrency_limit: int = Field(default=64, gt=0)
    events_poll_seconds: float = Field(default=0.1, gt=0, le=60)
    #: Events and exposures older than this are removed from the log: export them before (`nextbest events export`).
    events_keep_days: int = Field(default=400, ge=KNOWN_DAYS, le=36_500)

    def model_post_init(self, context: Any) -> None:
        """Make the home absolute, once."""
        object.__setattr__(self, "home", self.home.expanduser().absolute())

    @classmethod
    def load(cls, **given: Any) -> Settings:
        """Read the environment; values given here win.

        Raises
        ------
        ConfigError
            A variable has a value that does not fit.
        """
        keys = os.environ.get("NEXTBEST_API_KEYS", "")
        if "api_keys" not in given:
            given["api_keys"] = tuple(key.strip() for key in keys.split(",") if key.strip())
        known = {f"NEXTBEST_{name.upper()}" for name in cls.model_fields} | _OTHERS
        for name in sorted(os.environ):
            if name.startswith("NEXTBEST_") and name not in known:
                # all begin alike, which makes none nearer
                ends = {one.removeprefix("NEXTBEST_"): one for one in sorted(known)}
                near = difflib.get_close_matches(name.removeprefix("NEXTBEST_"), ends, n=1)
                meant = f"the nearest is {ends[near[0]]}, else unset it" if near else "unset it"
                raise ConfigError(f"expected a known setting, found {name}; {meant}")
        try:
            settings = cls(**given)
            if settings.redis_url is not None:
                redis_options(settings.redis_url)
            return settings
        except ValidationError as error:
            first = error.errors()[0]
            name = "NEXTBEST_" + "_".join(str(part) for part in first["loc"]).upper()
            raise ConfigError(
                f"expected a valid {name}, found {first.get('input')!r} ({first['msg']}); correct it"
            ) from error

    @property
    def store(self) -> StoreConfig:
        """Where the feature store is."""
        return StoreConfig(self.home / "feast", self.redis_url)

    @property
    def features(self) -> Path:
        """Directory of the offline features."""
        return self.home / "features"

    @property
    def events(self) -> Path:
        """Directory of the event log, and of what the writers of exposures count."""
        return self.home / "events"

    @property
    def rules(self) -> Path:
        """The file of rules."""
        return self.home / "rules.toml"

    @property
    def reports(self) -> Path:
        """Directory of evaluation results and reports."""
        return self.home / "reports"

    @property
    def refresh(self) -> Path:
        """Directory of the records of refreshes."""
        return self.home / "refresh"

    @property
    def tuning(self) -> Path:
        """Directory of the searches for settings."""
        return self.home / "tune"

    @property
    def bentoml_home(self) -> Path:
        """Directory of the BentoML store."""
        return Path(os.environ.get("BENTOML_HOME") or self.home / "bentoml").absolute()

    @property
    def bundles(self) -> Path:
        """Directory that holds one folder a published bundle version."""
        return self.bentoml_home / "models" / "nextbest"

    @property
    def live(self) -> Path:
        """The file that says what is live."""
        return self.home / "live.json"

    @property
    def experiments(self) -> Path:
        """The file that says which variants go to whom."""
        return self.home / "experiments.toml"
