"""Lists shown to the simulated world's visitors, some places left to chance, and what they are worth exactly.

A place shows with the chance ε any product that may be shown and stands nowhere else in the list, all alike, else what
the recommender put there: just what ``[[explore]]`` of ``rules.toml`` does (``serving.rules.exploration``). Of m such
products each has the chance ε/m, and the recommender's 1 − ε more. A larger ε is a worse variant whose loss is known:
expected clicks are a polynomial in ε, found place by place without drawing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy import optimize

from eval.world_time import BoolArray, FloatArray, IntArray
from eval.world_visitors import Visitors
from feature_repo.errors import ConfigError

_NEAR: Final = 1e-9


@dataclass(frozen=True, eq=False)
class Menu:
    """What may be shown to each visitor, and what the recommender shows.

    Attributes
    ----------
    usual
        Shape (visitors, n): columns of products, best first.
    allowed
        Shape (visitors, products): the products that pass the hard rules, the usual ones among them.
    """

    usual: IntArray
    allowed: BoolArray

    def __post_init__(self) -> None:
        short = (self.usual < 0).any(axis=1) | (self.pool < 1)
        if short.any():
            raise ConfigError(
                f"expected {self.usual.shape[1]} products for each visitor, found fewer for {int(short.sum()):,} of "
                f"{len(short):,}; ask for shorter lists, or take a larger catalogue"
            )

    @property
    def n(self) -> int:
        """Length of the lists."""
        return int(self.usual.shape[1])

    @property
    def pool(self) -> IntArray:
        """How many products a place may show, the usual one among them, shape (visitors,)."""
        size: IntArray = self.allowed.sum(axis=1) - (self.n - 1)
        return size

    def draw(self, visitor: IntArray, epsilon: FloatArray | float, *, rng: np.random.Generator) -> IntArray:
        """Draw the lists (visits, n) that visits are shown, with a chance ``epsilon`` of each visit's."""
        held = self.usual[visitor]
        likely = np.broadcast_to(epsilon, len(visitor))
        for place in range(self.n):
            left = np.flatnonzero(rng.random(len(visitor)) < likely)
            while len(left):
                drawn = rng.integers(self.allowed.shape[1], size=len(left))
                elsewhere = held[left]
                elsewhere[:, place] = -1
                fits = self.allowed[visitor[left], drawn] & (elsewhere != drawn[:, None]).all(axis=1)
                held[left[fits], place] = drawn[fits]
                left = left[~fits]
        return held

    def expected_clicks(self, visitors: Visitors, epsilon: float) -> FloatArray:
        """Return the expected clicks of a visit of each visitor, shape (visitors,); exact.

        What a place explores is any allowed product but those in the other places, so its mean is that of the allowed
        less what is expected in the places before and what is usual in those behind.
        """
        usual = np.take_along_axis(visitors.chance, self.usual, axis=1)
        every = np.where(self.allowed, visitors.chance, 0.0).sum(axis=1)
        before, clicks = np.zeros(len(every)), np.zeros(len(every))
        for place, examined in enumerate(visitors.examination(self.n)):
            explored = (every - before - usual[:, place + 1 :].sum(axis=1)) / self.pool
            seen = (1 - epsilon) * usual[:, place] + epsilon * explored
            before += seen
            clicks += examined * seen
        return clicks


@dataclass(frozen=True, eq=False)
class Variant:
    """What a variant shows: its lists, each place of which it leaves to chance with ``epsilon``."""

    menu: Menu
    epsilon: float

    def draw(self, visitor: IntArray, *, rng: np.random.Generator) -> IntArray:
        """Draw the lists (visits, n) that visits are shown."""
        return self.menu.draw(visitor, self.epsilon, rng=rng)

    def clicks(self, visitors: Visitors) -> float:
        """Return the expected clicks of a customer who comes at all, over all their visits; exact."""
        return clicks_a_customer(visitors, self.menu, self.epsilon)


def clicks_a_customer(visitors: Visitors, menu: Menu, epsilon: float) -> float:
    """Return the expected clicks of a customer who comes at all, over all their visits; exact."""
    clicks = visitors.expected * menu.expected_clicks(visitors, epsilon)
    return float(clicks.sum() / -np.expm1(-visitors.expected).sum())


def left_to_chance(visitors: Visitors, control: Variant, loss: float) -> Variant:
    """Return the same lists with so large an ε that expected clicks are lower by the share ``loss``.

    Raises
    ------
    ConfigError
        Not even lists of chance alone are so much worse.
    """
    before = control.clicks(visitors)

    def beyond(epsilon: float) -> float:
        return clicks_a_customer(visitors, control.menu, epsilon) / before - (1 - loss)

    _check_loss(loss, most=loss - beyond(1.0))
    if loss == 0:
        return control
    return Variant(control.menu, float(optimize.brentq(beyond, control.epsilon, 1.0, xtol=1e-12)))


def other_lists(visitors: Visitors, control: Variant, loss: float, *, rng: np.random.Generator) -> Variant:
    """Return other lists, each visitor's always the same: products drawn at random stand in the place of some.

    So many that expected clicks are lower by the share ``loss``; what single products do not come to is left to a
    slightly larger ε than the control's. Raises as ``left_to_chance``.
    """
    menu, before = control.menu, control.clicks(visitors)
    every = np.arange(len(menu.usual))
    strangers = menu.draw(every, 1.0, rng=rng)
    while len(shared := np.flatnonzero((strangers[:, :, None] == menu.usual[:, None]).any(axis=(1, 2)))):
        strangers[shared] = menu.draw(shared, 1.0, rng=rng)
    turn = rng.random(menu.usual.shape)

    def lists(share: float) -> Menu:
        return Menu(np.where(turn < share, strangers, menu.usual), menu.allowed)

    def beyond(share: float) -> float:
        return clicks_a_customer(visitors, lists(share), control.epsilon) / before - (1 - loss)

    _check_loss(loss, most=loss - beyond(1.0))
    if loss == 0:
        return control
    share = float(optimize.bisect(beyond, 0.0, 1.0, xtol=_NEAR))
    if beyond(share) < 0:
        share -= 2 * _NEAR  # on the other side of the last product
    nearly = Variant(lists(share), control.epsilon)
    return left_to_chance(visitors, nearly, 1 - (1 - loss) * before / nearly.clicks(visitors))


def _check_loss(loss: float, *, most: float) -> None:
    if not 0 <= loss < most:
        raise ConfigError(
            f"expected a loss from 0 to below {most:.1%}, that of products drawn at random alone, found {loss:.1%}; "
            "give a smaller one"
        )
