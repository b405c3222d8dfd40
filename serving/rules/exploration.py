"""Exploration: what a slot shows is drawn by chance, reproducibly, with exact propensities (ε-greedy).

With the chance ε a slot shows any eligible product, all alike, else what the other rules put there (Sutton & Barto,
"Reinforcement Learning", 2nd ed., §2.2). Of m eligible products the propensity of what the rules put there is 1 − ε
+ ε/m, that of each other ε/m; so outcomes can be weighted by their inverse (Horvitz & Thompson 1952). Thompson
sampling is left out: it needs posteriors of each product's success in a slot, which nothing keeps in memory, and
its propensities have no closed form.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Final, NamedTuple

_BITS: Final = 64


class Chance(NamedTuple):
    """What chance says of one slot of one request: ``u`` in [0, 1), and a number to choose by."""

    u: float
    number: int


def chance(rule: str, slot: int, request_id: str) -> Chance:
    """Return the chance of a slot: the same for the same request, as good as independent between slots and requests."""
    key = f"{len(rule)}:{rule}{slot}:{request_id}".encode()
    digest = blake2b(key, digest_size=16).digest()
    return Chance(
        (int.from_bytes(digest[:8], "big") >> 11) / (1 << (_BITS - 11)), int.from_bytes(digest[8:], "big")
    )


def propensity(epsilon: float, eligible: int, *, is_greedy: bool) -> float:
    """Return with which probability a slot shows one of ``eligible`` products; ``is_greedy``: the one of the rules."""
    return epsilon / eligible + (1.0 - epsilon if is_greedy else 0.0)
