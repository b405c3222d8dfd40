"""Which candidates take the slots of an answer: a few thousand small steps, hence compiled.

Pins take their slots. Boosts put the candidates in order; then each free slot goes to the candidate left whose
category has room that is worth most, by maximal marginal relevance (Carbonell & Goldstein, SIGIR 1998): λ ·
relevance − (1 − λ) · (highest similarity with what is chosen). Similarity is the cosine of the products' vectors.
Scores of different sources have different scales, so relevance is the place: 1 for the first of m candidates, then
1/m less each. With λ = 1 that is the order itself. Last, new products take the place of others until a quota is met.

Numba compiles this file when it is imported, which is where rules first order an answer: it takes 130 megabytes
that services without rules need not have. What it compiled it keeps beside this file, or where ``NUMBA_CACHE_DIR``
says; where nothing can be written each process compiles for itself, in seconds.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, TypeVar

import numba
import numpy as np
from numba import types
from numpy.typing import NDArray

Bools = NDArray[np.bool_]
Int8 = NDArray[np.int8]
Int32 = NDArray[np.int32]
Int64 = NDArray[np.int64]
Float32 = NDArray[np.float32]
Floats = NDArray[np.float64]
F = TypeVar("F", bound=Callable[..., Any])

#: What stands in a slot, in ``origins``: nothing yet, a candidate, a pinned product, a new one by quota; the last three
#: are numbers of ``serving.rules.apply`` too.
FREE: Final = -1
CHOSEN: Final = 0
PINNED: Final = 1
NEW: Final = 2

#: What ``fill`` returns: all is done; a slot is left that no candidate has room for; new candidates are too few.
DONE: Final = 0
NO_ROOM: Final = 1
TOO_FEW_NEW: Final = 2

# sums of products may be taken in any order, so that a processor takes several at once
_OPTIONS: Final = {"nogil": True, "fastmath": {"reassoc", "contract"}}
_inner: Callable[[F], F] = numba.njit(**_OPTIONS)


def _read(of: Any, dimensions: int = 1) -> Any:
    return types.Array(of, dimensions, "C", readonly=True)


def _compiled(*arguments: Any) -> Callable[[F], F]:
    """Compile a function of such arguments that returns a number."""

    def made(function: F) -> F:
        signature = types.int64(*arguments)
        try:
            compiled: F = numba.njit(signature, cache=True, **_OPTIONS)(function)
        except RuntimeError:  # nowhere to keep it
            compiled = numba.njit(signature, **_OPTIONS)(function)
        return compiled

    return made


@_inner
def _pinned(
    products: Int32, size: int, held: Int64, origins: Int8, slots: Int64, pins: Int32, allowed: Bools
) -> int:
    """Put pinned products into free slots, those that are no candidates after these; return how many there are."""
    for pin in range(len(slots)):
        slot = slots[pin]
        if slot < len(held) and origins[slot] == FREE and allowed[pins[pin]]:
            origins[slot] = PINNED
            held[slot] = size
            for place in range(size):
                if products[place] == pins[pin]:
                    held[slot] = place
                    break
            if held[slot] == size:
                products[size] = pins[pin]
                size += 1
    return size


@_inner
def _boosted(products: Int32, boosted: int, factors: Floats) -> Int64:
    """Return the places of products (m,) in order, the first ``boosted`` by their places over their factors."""
    order = np.arange(len(products))
    if len(factors):
        keys = np.empty(boosted)
        for place in range(boosted):
            keys[place] = (place + 1.0) / factors[products[place]]
        order[:boosted] = np.argsort(keys, kind="mergesort")
    return order


@_inner
def _units(products: Int32, vectors: Float32, scale: Float32) -> Float32:
    """Return the vectors (m, d) of products, each of length 1 or 0."""
    units = np.empty((len(products), vectors.shape[1]), dtype=np.float32)
    for place in range(len(products)):
        for dimension in range(vectors.shape[1]):
            units[place, dimension] = vectors[products[place], dimension] * scale[products[place]]
    return units


@_inner
def _approach(nearest: Float32, units: Float32, is_free: Bools, chosen: int) -> None:
    """Raise what is free to its cosine with what is chosen, where that is higher."""
    for place in range(len(nearest)):
        if is_free[place]:
            cosine = np.float32(0.0)
            for dimension in range(units.shape[1]):
                cosine += units[chosen, dimension] * units[place, dimension]
            nearest[place] = max(nearest[place], cosine)


@_inner
def _admit(
    held: Int64,
    origins: Int8,
    is_free: Bools,
    is_new: Bools,
    is_kept: Bools,
    missing: int,
    category: Int32,
    used: Int64,
    limits: Floats,
) -> None:
    """Give the last slots to ``missing`` new ones, as caps allow; the best of these comes first."""
    has_caps = len(limits) > 0
    for slot in range(len(held) - 1, -1, -1):
        if missing <= 0:
            break
        if origins[slot] == PINNED or is_new[held[slot]] or (slot < len(is_kept) and is_kept[slot]):
            continue
        if has_caps:
            used[category[held[slot]]] -= 1
        for place in range(len(is_new)):
            has_room = not has_caps or used[category[place]] < limits[category[place]]
            if is_free[place] and is_new[place] and has_room:
                is_free[place] = False
                held[slot] = place
                origins[slot] = NEW
                missing -= 1
                break
        if has_caps:
            used[category[held[slot]]] += 1
    for slot in range(len(held)):
        for other in range(slot + 1, len(held)):
            if origins[slot] == NEW and origins[other] == NEW and held[other] < held[slot]:
                held[slot], held[other] = held[other], held[slot]


@_compiled(
    types.Array(types.int64, 1, "C"),
    types.Array(types.int8, 1, "C"),
    _read(types.int32),
    types.int64,
    _read(types.int64),
    _read(types.int32),
    _read(types.boolean),
    _read(types.float64),
    _read(types.int32),
    _read(types.float64),
    types.boolean,
    _read(types.float32, 2),
    _read(types.float32),
    types.float64,
    _read(types.boolean),
    types.int64,
    types.boolean,
    _read(types.boolean),
)
def fill(
    held: Int64,
    origins: Int8,
    drawn: Int32,
    boosted: int,
    pin_slots: Int64,
    pin_products: Int32,
    allowed: Bools,
    factors: Floats,
    codes: Int32,
    limits: Floats,
    give_way: bool,
    vectors: Float32,
    scale: Float32,
    trade_off: float,
    new: Bools,
    quota: int,
    are_all: bool,
    is_kept: Bools,
) -> int:
    """Fill slots with candidates; return ``DONE`` or what is missing, to be called again with more candidates.

    Parameters
    ----------
    held, origins
        (n,) the place, among the candidates, of what stands in each slot, and as what; the place of ``FREE`` slots does
        not matter. Changed.
    drawn
        (m,) products, best first: the candidates. Pinned products that are not drawn are further ones, in the order of
        ``pin_slots``; to be called again, they must be drawn.
    boosted
        So many of the candidates, the first, are put in order by boosts, the others come after them; 0: all are.
    pin_slots, pin_products
        (pins,) which free slot has which product; pins that are not allowed or beyond the answer are passed over.
    allowed
        (products,) mask of what may be shown.
    factors
        (products,) of boosts, more than 0; empty without.
    codes
        (products,) of each product's category, −1 without one.
    limits
        How many products of each code an answer takes, the last for code −1; empty without caps.
    give_way
        Whether slots that no candidate has room for are filled all the same.
    vectors, scale
        (products, d) and the inverse of each one's length, 0 for length 0; read only with ``trade_off`` below 1.
    trade_off
        λ.
    new
        (products,) which are new; empty without a quota.
    quota
        How many new ones an answer is to have; fewer where caps leave no room for more.
    are_all
        Whether all new products that may be shown are candidates.
    is_kept
        Which of the first slots the quota leaves as they are, and does not count, beside pinned ones.
    """
    with_pins = np.empty(len(drawn) + len(pin_slots), dtype=np.int32)
    with_pins[: len(drawn)] = drawn
    size = _pinned(with_pins, len(drawn), held, origins, pin_slots, pin_products, allowed)
    products, slots = with_pins[:size], len(held)
    has_caps, has_quota, is_diverse = len(limits) > 0, len(new) > 0, trade_off < 1.0
    # what is scattered over the catalog is fetched at once, so that memory is waited for once and not for each
    category = codes[products] if has_caps else np.empty(0, dtype=np.int32)
    is_new = new[products] if has_quota else np.empty(0, dtype=np.bool_)
    used = np.zeros(len(limits), dtype=np.int64)
    is_free = np.ones(size, dtype=np.bool_)
    free = 0
    for slot in range(slots):
        if origins[slot] == FREE:
            free += 1
        else:
            is_free[held[slot]] = False
            if has_caps:
                used[category[held[slot]]] += 1
    if free:
        order = _boosted(products, boosted if boosted else size, factors)
        units = _units(products if is_diverse else products[:0], vectors, scale)
        nearest = np.full(len(units), -np.inf, dtype=np.float32)
        has_chosen = free < slots
        for slot in range(slots if is_diverse else 0):
            if origins[slot] != FREE:
                _approach(nearest, units, is_free, held[slot])
        first = 0
        for slot in range(slots):
            if origins[slot] != FREE:
                continue
            chosen, most = -1, -np.inf
            while first < size and not is_free[order[first]]:
                first += 1
            for turn in range(first, size):
                place = order[turn]
                if not is_free[place]:
                    continue
                if has_caps and not give_way and used[category[place]] >= limits[category[place]]:
                    continue
                if not is_diverse:
                    chosen = place
                    break
                worth = trade_off * (1.0 - turn / size)
                if has_chosen:
                    worth -= (1.0 - trade_off) * nearest[place]
                if worth > most:
                    chosen, most = place, worth
            if chosen < 0:
                return NO_ROOM
            held[slot], origins[slot], is_free[chosen], has_chosen = chosen, CHOSEN, False, True
            if has_caps:
                used[category[chosen]] += 1
            if is_diverse:
                _approach(nearest, units, is_free, chosen)
    if has_quota:
        missing = quota
        for slot in range(slots):  # of what chance may replace nothing is sure
            is_sure = origins[slot] == PINNED or not (slot < len(is_kept) and is_kept[slot])
            if is_sure and is_new[held[slot]]:
                missing -= 1
        if missing > np.count_nonzero(is_new & is_free) and not are_all:
            return TOO_FEW_NEW
        _admit(held, origins, is_free, is_new, is_kept, missing, category, used, limits)
    return DONE


@_compiled(
    _read(types.int32),
    types.int64,
    _read(types.int32),
    _read(types.float64),
    _read(types.int32),
    _read(types.int64),
    _read(types.boolean),
)
def roomless(
    shown: Int32, slot: int, codes: Int32, limits: Floats, rows: Int32, starts: Int64, allowed: Bools
) -> int:
    """Return how many products one slot cannot show for want of room: allowed ones of full categories, not shown.

    Parameters
    ----------
    shown
        (n,) the product of each slot.
    slot
        Which one; its own product is counted out, and can always stand there.
    codes, limits
        See ``fill``.
    rows, starts
        (products,) all products, those of the first category first, and where each category's begin, one more at the
        end; the first category is that of the products without one.
    allowed
        (products,) mask of what may be shown.
    """
    count = 0
    slots = len(shown)
    for first in range(slots):
        if first == slot:
            continue
        code = codes[shown[first]]
        used = 0
        for other in range(slots):
            if other != slot and codes[shown[other]] == code:
                if other < first:
                    break  # counted before
                used += 1
        if used == 0 or used < limits[code]:
            continue  # counted already, or there is room
        for place in range(starts[code + 1], starts[code + 2]):
            if allowed[rows[place]]:
                count += 1
        for other in range(slots):
            if codes[shown[other]] == code and allowed[shown[other]]:
                count -= 1
    return count
