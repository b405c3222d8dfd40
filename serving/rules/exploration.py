"""Exploration: what a slot shows is drawn by chance, reproducibly, with exact propensities (ε-greedy).

With the chance ε a slot shows any eligible product, all alike, else what the other rules put there (Sutton & Barto,
"Reinforcement Learning", 2nd ed., §2.2). Of m eligible products the propensity of what the rules put there is 1 − ε
+ ε/m, that of each other ε/m; so outcomes can be weighted by their inverse (Horvitz & Thompson 1952). Thompson
sampling is left out: it needs posteriors of each product's success in a slot, which nothing keeps in memory, and
its propensities have no closed form.
"""

from __future__ import annotations

import struct
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np

from serving.filtering import Mask

_UNPACK: Final = struct.Struct(">QQ").unpack
_UNIT: Final = 2.0**-53
#: So few are looked at one by one.
_FEW: Final = 64


class Chance(NamedTuple):
    """What chance says of one slot of one request: ``u`` in [0, 1), and a number to choose by."""

    u: float
    number: int


def chance(rule: str, slot: int, request_id: str) -> Chance:
    """Return the chance of a slot: the same for the same request, as good as independent between slots and requests."""
    key = f"{len(rule)}:{rule}{slot}:{request_id}".encode()
    first, second = _UNPACK(blake2b(key, digest_size=16).digest())
    return Chance((first >> 11) * _UNIT, second)


def propensity(epsilon: float, eligible: int, *, is_greedy: bool) -> float:
    """Return with which probability a slot shows one of ``eligible`` products; ``is_greedy``: the one of the rules."""
    return epsilon / eligible + (1.0 - epsilon if is_greedy else 0.0)


def nth(mask: Mask, number: int) -> int:
    """Return the place of the ``number``-th (from 0) of those that a mask (products,) holds, which are more."""
    start, end = 0, len(mask)
    while end - start > _FEW:
        middle = (start + end) // 2
        before = int(np.count_nonzero(mask[start:middle]))
        if number < before:
            end = middle
        else:
            start, number = middle, number - before
    return start + int(np.flatnonzero(mask[start:end])[number])
