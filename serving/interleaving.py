"""Interleaving: one answer made of the lists of two variants, so that each customer compares them at a glance.

Two teams draft the answer in turns, as children choose players (team draft: Radlinski, Kurup & Joachims, "How does
clickthrough data reflect retrieval quality?", CIKM 2008). In each round a coin says who picks first; each team takes
the best product of its own list that is still free. Where both lists agree, so does the answer; wherever they do not,
either team had the same chance of each place. A team whose list is at its end leaves the rest to the other.

The coins of an answer are the bits of a hash of the experiment's salt and the request's id: the same in every process
and for ever, so that an answer can be told again. Deliberately absent: who is in an experiment (``serving.served``),
and how preferences are read (``eval.experiment.interleaving``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Final, NamedTuple

from serving.query import Recommendations

_BITS: Final = 512

Coins = Callable[[str], Iterator[bool]]


class Pick(NamedTuple):
    """One product of an answer: whose pick it is, 0 or 1, and its place in that team's list."""

    team: int
    place: int


def coins(salt: str) -> Coins:
    """Return the function that gives a request its coins, without end; True: the second team picks first."""
    key = hashlib.blake2b(_bytes(salt), digest_size=32, person=b"interleaving").digest()

    def tossed(request_id: str) -> Iterator[bool]:
        block = 0
        while True:
            told = block.to_bytes(8, "big") + _bytes(request_id)
            bits = int.from_bytes(hashlib.blake2b(told, key=key).digest(), "big")
            for place in range(_BITS):
                yield bool(bits >> place & 1)
            block += 1

    return tossed


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")  # as positions of customers are made


def draft(first: Sequence[Hashable], second: Sequence[Hashable], n: int, coins: Iterator[bool]) -> list[Pick]:
    """Return who picks what, in order of position.

    Parameters
    ----------
    first, second
        The lists of the two teams, best first, none with anything twice.
    n
        How many are picked at the most; fewer only where both lists hold fewer.
    coins
        One a round is taken while both teams have something to pick.
    """
    lists = (first, second)
    places, taken = [0, 0], set[Hashable]()
    picks: list[Pick] = []

    def pick(team: int) -> bool:
        own = lists[team]
        while places[team] < len(own) and own[places[team]] in taken:
            places[team] += 1
        if places[team] == len(own) or len(picks) == n:
            return False
        taken.add(own[places[team]])
        picks.append(Pick(team, places[team]))
        return True

    while len(picks) < n:
        begins = int(next(coins))
        if not (pick(begins) | pick(1 - begins)):
            break
    return picks


def interleaved(
    answers: tuple[Recommendations, Recommendations], teams: tuple[str, str], n: int, coins: Iterator[bool]
) -> Recommendations:
    """Return the draft of two answers: each product as its team has it, but for rank, team and propensity.

    How likely a product was to stand where it does depends on both lists; it is not known.
    """
    picks = draft(answers[0].product_ids, answers[1].product_ids, n, coins)
    items = tuple(
        answers[pick.team].items[pick.place]._replace(rank=rank, propensity=None, team=teams[pick.team])
        for rank, pick in enumerate(picks, start=1)
    )
    known = {*answers[1].ignored}
    return Recommendations(
        items,
        tuple(one for one in answers[0].ignored if one in known),  # what the other knows is known
        answers[0].degraded or answers[1].degraded,
    )
