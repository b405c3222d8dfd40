"""Who is asking, as encoders and sources see it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from feature_repo.recent import History

Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]


@dataclass(frozen=True)
class Bought:
    """What a customer ever bought: product indices (m,) ascending, on how many days, when last and when first (µs).

    ``first`` is None where the bundle does not tell.
    """

    products: Int32
    days: Int32
    last: Int64
    first: Int64 | None = None


@dataclass(frozen=True)
class Subject:
    """Who is asking, as the sources see it.

    ``row`` is the customer's row in the bundle (None when unknown to training); ``history`` holds the
    recent events, ``features`` the slow ones, ``context`` the products looked at now (indices); ``bought`` joins the
    bundle's record of purchases with those made since. ``repeats`` tells whether products bought before may be
    shown. ``memo`` is that of the customer's state, for what depends on that state alone; ``made`` is for what depends
    on context and instant too.
    """

    row: int | None
    segment: str
    history: History
    context: Int32
    bought: Bought
    at: datetime
    repeats: bool = False
    features: Mapping[str, Any] = field(default_factory=dict)
    memo: dict[str, Any] | None = field(default=None, compare=False, repr=False)
    made: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)
