"""What a bundle says of itself: the manifest, strict and versioned.

The manifest names every file with its size and checksum, the data and code it came from, the features it
asks for with their defaults, and how it serves. ``version_of`` ties the bundle's name to these bytes.
"""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from serving.encoders.spec import EncoderSpec

SCHEMA_VERSION: Final = 3
_CUSTOMER: Final = "customer."


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileInfo(_Strict):
    """Size in bytes and SHA-256 of one file."""

    size: int
    sha256: str


class DataInfo(_Strict):
    """Which data the bundle was fitted on."""

    as_of: datetime
    rows: dict[str, int]
    tables_hash: str


class RankerSpec(_Strict):
    """How candidates are ranked: what of all sources is put in order by the chance of a purchase.

    The chance is of a purchase within ``horizon_days``; ``candidates`` products are ranked for an answer by
    ``features`` of each; ``customer`` are the features of the customer that chances depend on besides; see
    ``serving.ranking``.
    """

    horizon_days: int = Field(ge=1)
    candidates: int = Field(ge=1)
    features: tuple[str, ...] = Field(min_length=1)
    customer: tuple[str, ...] = ()


class Policy(_Strict):
    """How the bundle answers: the personal encoder, the chain of sources, and the ranker of what they find.

    ``encoder`` says how a customer becomes a query; None: nobody does, and the popular are shown. Where products
    bought before may be shown, each is lifted for every day on which the customer bought it, by ``repeat_weight``
    standard deviations of the customer's scores over the catalog. The chain is tried in order until n products are
    found; each answer names its source. ``unranked`` says why a recipe with a ranker was fitted without one.
    """

    model: str
    encoder: EncoderSpec | None
    repeat_weight: float = Field(default=0.0, ge=0)
    chain: tuple[Literal["personal", "segment", "popular"], ...] = ("personal", "segment", "popular")
    ranker: RankerSpec | None = None
    unranked: str | None = None


class Manifest(_Strict):
    """The description of a bundle, stored as ``manifest.json``."""

    schema_version: int = SCHEMA_VERSION
    kind: Literal["recommender"] = "recommender"
    created_at: datetime
    code_version: str
    packages: dict[str, str]
    data: DataInfo
    feature_service: str
    feature_schema_hash: str
    feature_defaults: dict[str, Any]
    recipe: dict[str, Any]
    seed: int
    policy: Policy
    metrics: dict[str, Any]
    index: dict[str, Any]
    files: dict[str, FileInfo] = Field(default_factory=dict)

    @property
    def read(self) -> tuple[str, ...]:
        """The customer's features that the ranker reads, as they are called in a customer's row."""
        told = () if self.policy.ranker is None else self.policy.ranker.customer
        return tuple(name.removeprefix(_CUSTOMER) for name in told if name.startswith(_CUSTOMER))

    def to_bytes(self) -> bytes:
        """Return the exact bytes of ``manifest.json``."""
        return (self.model_dump_json(indent=1) + "\n").encode()


def version_of(created_at: datetime, manifest_bytes: bytes) -> str:
    """Return the bundle's version: UTC minute and the first 12 digits of the manifest's SHA-256."""
    minute = created_at.astimezone(UTC).strftime("%Y%m%d%H%M")
    return f"{minute}-{hashlib.sha256(manifest_bytes).hexdigest()[:12]}"
