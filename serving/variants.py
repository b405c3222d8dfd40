"""Which variant of an experiment a customer sees: pure functions of a salt, an id and the shares.

An id has a position in [0, 1) that its salt alone decides, the same in every process, on every platform and for ever:
64 bits of a keyed BLAKE2b, of which the first 53 make the position. Different salts give independent positions. A
``Scale`` divides [0, 1) among variants.

**What is promised when shares change.** The first variant is the control; the shares are weights over their sum.

* Where nothing changes, nobody moves. Going back to former weights brings everybody back.
* A variant that grows *at the cost of the control* (its weight is raised and the control's lowered by the same) takes
  customers of the control alone: nobody leaves it, and nobody moves between other variants. One that shrinks in favour
  of the control gives customers to the control alone.

This holds with one or two variants beside the control, whatever their shares. With m > 2 of them it holds as long as
none but the changing one has a share above 1/m. It is not promised where the sum of the weights changes, where a
variant grows at the cost of another that is no control, or where variants are added, removed or put in another order:
begin another experiment then (another name, or another salt).

How: of m variants beside the control, the j-th has a place of its own that begins at (j − 1)/m and reaches as far as
its share. What of a share goes beyond 1/m takes what is free from the end of the scale. The control has all the rest.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

import numpy as np
from numpy.typing import NDArray

from serving.errors import ConfigError

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

_BYTES: Final = 8
_SHIFT: Final = 11
_UNIT: Final = 2.0**-53


def positions(salt: str) -> Callable[[str], float]:
    """Return the function that gives an id its position in [0, 1) under ``salt``."""
    # the key of BLAKE2b has at most 64 bytes, a salt any number; copying the keyed state is cheaper than keying anew
    keyed = hashlib.blake2b(key=hashlib.blake2b(_bytes(salt), digest_size=32).digest(), digest_size=_BYTES)
    copy = keyed.copy

    def position(unit: str) -> float:
        hashed = copy()
        hashed.update(_bytes(unit))
        return (int.from_bytes(hashed.digest(), "big") >> _SHIFT) * _UNIT

    return position


def positions_of(salt: str, units: Iterable[str]) -> Float64:
    """Return the positions (n,) of many ids under ``salt``; those that ``positions`` gives, one by one."""
    return np.fromiter(map(positions(salt), units), dtype=np.float64)


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # ids from a command line may be no UTF-8


@dataclass(frozen=True)
class Scale:
    """[0, 1) divided among variants: the part from ``starts[i]`` up to the next belongs to ``owners[i]``.

    ``starts`` ascend from 0; ``owners`` are places in the list of variants.
    """

    starts: tuple[float, ...]
    owners: tuple[int, ...]

    @classmethod
    def of(cls, weights: Sequence[float]) -> Scale:
        """Divide [0, 1) by weights, the control's first; what is promised of it stands above.

        Raises
        ------
        ConfigError
            There is no weight, or one that is not positive and finite.
        """
        if not weights or not all(0 < weight < float("inf") for weight in weights):
            raise ConfigError(f"expected positive weights, found {list(weights)}; correct them")
        exact = [Fraction(str(weight)) for weight in weights]  # 0.1 is a tenth, so that equal sums are equal
        shares = [weight / sum(exact) for weight in exact]
        parts = _parts(shares[1:])
        starts, owners = [], []
        end = Fraction(0)
        for start, stop, owner in [*sorted(parts), (Fraction(1), Fraction(1), 0)]:
            if start > end:
                starts.append(end)
                owners.append(0)
            if stop > start:
                starts.append(start)
                owners.append(owner)
            end = stop
        return cls(tuple(float(start) for start in starts), tuple(owners))

    def owner(self, position: float) -> int:
        """Return the place of the variant that a position belongs to."""
        return self.owners[bisect_right(self.starts, position) - 1]

    def owners_of(self, positions: Float64) -> Int64:
        """Return the places (n,) of the variants that positions (n,) belong to."""
        found = np.searchsorted(np.array(self.starts), positions, side="right") - 1
        return np.asarray(np.array(self.owners, dtype=np.int64)[found])


def _parts(shares: Sequence[Fraction]) -> list[tuple[Fraction, Fraction, int]]:
    """Return what belongs to variants beside the control, (from, to, place), for their shares."""
    if not shares:
        return []
    room = Fraction(1, len(shares))
    begins = [room * place for place in range(len(shares))]
    free = [(begin + min(share, room), begin + room) for begin, share in zip(begins, shares, strict=True)]
    parts = [
        (begin, start, place) for place, (begin, (start, _)) in enumerate(zip(begins, free, strict=True), 1)
    ]
    for place, share in enumerate(shares, start=1):
        beyond = share - room
        for number in reversed(range(len(free))):
            start, stop = free[number]
            taken = min(beyond, stop - start)
            if taken > 0:
                parts.append((stop - taken, stop, place))
                free[number] = start, stop - taken
                beyond -= taken
    return parts
