"""Settings of a ranker."""

from __future__ import annotations

from pydantic import Field

from training.models.configs import Config


class RankerConfig(Config):
    """What the second stage learns from, and how large it becomes.

    The chance is of a purchase within ``horizon_days``. For each of the ``windows`` last such spans the retrieval model
    is fitted on what came before it, and what was bought in it are the labels. ``candidates`` products are ranked for
    an answer. Of each customer's candidates ``negatives`` that were not bought are learnt from, and ``others`` of the
    rest of the shop, at most so many ``buyers`` and ``bystanders`` (known customers who bought nothing) a window.
    The rest are LightGBM's; ``top`` is up to which place an order is learnt. Bounds are far beyond what pays: they
    stop slips of the pen that would take hours, or answers that take seconds.
    """

    horizon_days: int = Field(default=28, ge=1, le=730)
    windows: int = Field(default=2, ge=1, le=52)
    candidates: int = Field(default=200, ge=10, le=10_000)
    negatives: int = Field(default=200, ge=1, le=10_000)
    others: int = Field(default=50, ge=1, le=10_000)
    buyers: int = Field(default=3000, ge=1, le=1_000_000)
    bystanders: int = Field(default=500, ge=1, le=1_000_000)
    top: int = Field(default=20, ge=1, le=1000)
    trees: int = Field(default=30, ge=1, le=2000)
    leaves: int = Field(default=15, ge=2, le=1024)
    depth: int = Field(default=5, ge=1, le=16)
    learning_rate: float = Field(default=0.2, gt=0, le=1)
    min_leaf: int = Field(default=20, ge=1, le=100_000)
    l2: float = Field(default=10.0, ge=0, le=1e6)
