"""Do an A/B test, interleaving and the doubly robust estimator find what is so? And how many customers does each need?

Visitors of the simulated world are shown the lists of a control, which leaves each place to chance with a small ε, and
those of a treatment whose expected clicks are lower by the loss that is asked for: in other lists, or because its ε is
larger (``eval.benchmarks.shown``).

* **A/B**: each customer sees one of the two; clicks a customer are compared (``eval.experiment.effect``).
* **Interleaving**: each list is a team draft of both; customers' preferences count (``eval.experiment.interleaving``).
* **Doubly robust**: nobody is shown the treatment; it is valued by the control's log, whose propensities are known
  (``eval.experiment.offpolicy``), against the control's own value on that log, customer by customer.

From the spread of a large first run follows how many customers find the loss with a power of 80 % at p < .05; so many
are then drawn again and again, to see in how many runs they do. The estimands differ: A/B and doubly robust estimate
the difference in clicks a customer, interleaving a preference between −½ and ½ whose sign alone can be compared.

Where lists differ, the doubly robust value of a product that chance alone shows rests on its model of rewards until
such picks were shown, and clicked; how many were is told (``picks_shown``, ``picks_clicked``), and the interval knows
nothing of those that are missing. The products put into the other lists are drawn at random, which flatters the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from scipy import stats

from eval.benchmarks.shown import Menu, Variant, left_to_chance, other_lists
from eval.experiment.effect import effect
from eval.experiment.interleaving import interval
from eval.experiment.looks import OneLook
from eval.experiment.moments import Floats, Moments
from eval.experiment.offpolicy import columns
from eval.experiment.plan import required_customers
from eval.world_time import BoolArray, FloatArray, IntArray
from eval.world_visitors import Visitors

Progress = Callable[[str, int, int], None]
Method = Literal["ab", "interleaving", "doubly_robust"]
METHODS: Final[tuple[Method, ...]] = ("ab", "interleaving", "doubly_robust")
_FOLDS: Final = 5
_STRENGTH: Final = 20.0
_SURE: Final = 0.05
_POWER: Final = 0.8
_TRIALS: Final = 10


class Found(NamedTuple):
    """What one run found: the estimate with its 95 % interval and p-value, and customers who count, of those who came.

    ``spread2`` is the squared error times those customers. Of a log: how often a place showed, by chance, what the
    treatment picks and the control does not (``picks``), and how often it was clicked (``clicked``).
    """

    estimate: float
    low: float
    high: float
    p: float
    spread2: float
    counted: int
    came: int
    picks: int = 0
    clicked: int = 0


@dataclass(frozen=True, eq=False)
class Stage:
    """The visitors, and two variants over the same allowed products."""

    visitors: Visitors
    control: Variant
    treatment: Variant

    @property
    def gap(self) -> float:
        """The true difference in clicks of a customer who comes, treatment less control, over all their visits."""
        return self.treatment.clicks(self.visitors) - self.control.clicks(self.visitors)

    @property
    def gap_of_first_visits(self) -> float:
        """The true difference in clicks of the first visit of a customer who comes."""
        comes = -np.expm1(-self.visitors.expected)
        clicks = [
            one.menu.expected_clicks(self.visitors, one.epsilon) for one in (self.treatment, self.control)
        ]
        return float(((clicks[0] - clicks[1]) * comes).sum() / comes.sum())

    def run(self, method: Method, customers: int, rng: np.random.Generator) -> Found:
        """Let so many customers come, drawn with replacement in proportion to their chance to, and read the outcome."""
        crowd = _Crowd.drawn(self.visitors, customers, rng=rng)
        match method:
            case "ab":
                return self._ab(crowd, rng)
            case "interleaving":
                return self._interleaved(crowd, rng)
            case "doubly_robust":
                return self._robust(crowd, rng)

    def _clicks(self, crowd: _Crowd, shown: IntArray, rng: np.random.Generator) -> BoolArray:
        return self.visitors.outcomes(self.visitors.visits(crowd.visitor, rng=rng), shown, rng=rng)[0]

    def _ab(self, crowd: _Crowd, rng: np.random.Generator) -> Found:
        treated = rng.random(crowd.customers) < 0.5
        shown = self.control.draw(crowd.visitor, rng=rng)
        other = np.flatnonzero(treated[crowd.customer])
        shown[other] = self.treatment.draw(crowd.visitor[other], rng=rng)
        clicks = crowd.sums(self._clicks(crowd, shown, rng).sum(axis=1))
        arms = Moments.of(clicks[~treated]).mean(), Moments.of(clicks[treated]).mean()
        found = effect(arms[0], arms[1], OneLook())
        return Found(
            float(found.difference),
            float(found.low),
            float(found.high),
            float(found.p),
            float(found.error**2) * crowd.customers,
            crowd.customers,
            crowd.customers,
        )

    def _interleaved(self, crowd: _Crowd, rng: np.random.Generator) -> Found:
        lists = [variant.draw(crowd.visitor, rng=rng) for variant in (self.control, self.treatment)]
        shown, team = drafted(lists[0], lists[1], rng.random(lists[0].shape) < 0.5)
        credit = (self._clicks(crowd, shown, rng) * np.where(team == 1, 1, -1)).astype(np.float64)
        said = crowd.sums((credit != 0).sum(axis=1)) > 0
        preferences = 0.5 * np.sign(crowd.sums(credit.sum(axis=1))[said])
        delta, low, high, p = interval(preferences, OneLook(), confidence=1 - _SURE)
        spread2 = float((preferences**2).mean())
        return Found(delta, low, high, p, spread2, len(preferences), crowd.customers)

    def _robust(self, crowd: _Crowd, rng: np.random.Generator) -> Found:
        shown = self.control.draw(crowd.visitor, rng=rng)
        clicks = self._clicks(crowd, shown, rng).astype(np.float64)
        differences = crowd.sums(self.robust(crowd.visitor, shown, clicks, crowd.customer).sum(axis=1))
        mean = float(differences.mean())
        spread2 = float(differences.var(ddof=1))
        error = float(np.sqrt(spread2 / crowd.customers))
        reach = float(stats.norm.isf(_SURE / 2)) * error
        p = 1.0 if error == 0 else float(2 * stats.norm.sf(abs(mean) / error))
        picked = self.treatment.menu.usual[crowd.visitor]
        matched = (shown == picked) & (picked != self.control.menu.usual[crowd.visitor])
        return Found(
            mean,
            mean - reach,
            mean + reach,
            p,
            spread2,
            crowd.customers,
            crowd.customers,
            int(matched.sum()),
            int(clicks[matched].sum()),
        )

    def robust(self, visitor: IntArray, shown: IntArray, rewards: Floats, customer: IntArray) -> Floats:
        """Return what the treatment would have earned more than the control, by the control's log, (visits, n).

        Doubly robust in each place, the places before it as logged: they decide what is left to choose from and
        nothing else, and of that a product or two in hundreds.

        Parameters
        ----------
        visitor, customer
            Shape (visits,): whose list it was (a row of ``Visitors``), and which customer they are in the log.
        shown
            Shape (visits, n): the list.
        rewards
            Shape (visits, n): what came of it.
        """
        menu, products = self.control.menu, self.control.menu.allowed.shape[1]
        usual, picked = menu.usual[visitor], self.treatment.menu.usual[visitor]
        fold = (np.arange(int(customer.max(initial=0)) + 1) % _FOLDS)[customer]
        differences = np.zeros(shown.shape)
        for held in range(_FOLDS):
            test, seen = np.flatnonzero(fold == held), fold != held
            is_usual = shown[seen] == usual[seen]
            by_usual = _rates(shown[seen], rewards[seen], is_usual, products)
            by_chance = _rates(shown[seen], rewards[seen], ~is_usual, products)
            every = menu.allowed @ by_chance.T  # (visitors, n)
            for place in range(menu.n):
                slots = _Slots(
                    own=shown[test, place],
                    usual=usual[test, place],
                    pool=menu.pool[visitor[test]].astype(np.float64),
                    by_usual=by_usual[place],
                    by_chance=by_chance[place],
                    others=every[visitor[test], place]
                    - by_chance[place][shown[test, :place]].sum(axis=1)
                    - by_chance[place][usual[test, place:]].sum(axis=1),
                )
                logged = slots.chance(self.control.epsilon, slots.usual, slots.own)
                values = [
                    slots.value(variant.epsilon, pick[test, place], rewards[test, place], logged)
                    for variant, pick in ((self.treatment, picked), (self.control, usual))
                ]
                differences[test, place] = values[0] - values[1]
        return differences


@dataclass(frozen=True, eq=False)
class _Slots:
    """One place of many lists: what it shows, what it usually does, and what is expected of all it might show.

    ``pool`` is of how many products chance chooses, the usual one among them; ``others`` the summed expectations of
    the rest of them; ``by_usual`` and ``by_chance`` are expectations by product, where it is usual and where it is not.
    """

    own: IntArray
    usual: IntArray
    pool: Floats
    by_usual: Floats
    by_chance: Floats
    others: Floats

    def chance(self, epsilon: float, pick: IntArray, product: IntArray) -> Floats:
        """Return with which chance a variant shows a product; as ``serving.rules.exploration.propensity``."""
        chances: Floats = epsilon / self.pool + np.where(product == pick, 1 - epsilon, 0.0)
        return chances

    def expected(self, product: IntArray) -> Floats:
        """Return the expected reward of a product in each slot."""
        rewards: Floats = np.where(product == self.usual, self.by_usual[product], self.by_chance[product])
        return rewards

    def value(self, epsilon: float, pick: IntArray, rewards: Floats, logged: Floats) -> Floats:
        """Return the doubly robust value of a variant in each slot, by what was logged with a known chance."""
        every = self.others + self.by_usual[self.usual]
        expected = epsilon / self.pool * every + (1 - epsilon) * self.expected(pick)
        weight = self.chance(epsilon, pick, self.own) / logged
        value: Floats = columns(weight, rewards, expected, self.expected(self.own))[:, 2]
        return value


@dataclass(frozen=True, eq=False)
class _Crowd:
    """Customers who come: of each visit, whose it is (a row of ``Visitors``), and the number of the customer."""

    customers: int
    visitor: IntArray
    customer: IntArray

    @classmethod
    def drawn(cls, visitors: Visitors, customers: int, *, rng: np.random.Generator) -> _Crowd:
        comes = -np.expm1(-visitors.expected)
        who = rng.choice(len(comes), size=customers, p=comes / comes.sum())
        at_least_one = 1 - rng.random(customers) * comes[who]  # above the chance of none
        times = np.maximum(stats.poisson.ppf(at_least_one, visitors.expected[who]), 1).astype(np.int64)
        customer = np.repeat(np.arange(customers), times)
        return cls(customers, who[customer], customer)

    def sums(self, amounts: FloatArray | IntArray) -> Floats:
        """Return amounts of visits summed by customer."""
        return np.bincount(self.customer, amounts, minlength=self.customers).astype(np.float64)


def _rates(shown: IntArray, rewards: Floats, which: BoolArray, products: int) -> Floats:
    """Return the mean reward of each product in each place, (n, products), where ``which`` (visits, n) holds.

    Drawn towards the mean of the place as if some visits more had shown it.
    """
    n = shown.shape[1]
    cell = (np.arange(n) * products + shown)[which]
    sums = np.bincount(cell, rewards[which], minlength=n * products).reshape(n, products)
    counts = np.bincount(cell, minlength=n * products).reshape(n, products)
    mean = sums.sum(axis=1, keepdims=True) / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    rates: Floats = (sums + _STRENGTH * mean) / (counts + _STRENGTH)
    return rates


def drafted(first: IntArray, second: IntArray, coins: BoolArray) -> tuple[IntArray, IntArray]:
    """Return team drafts of many pairs of lists at once, and whose pick each product is, both (visits, n).

    Parameters
    ----------
    first, second
        Shape (visits, n): the lists, none with anything twice.
    coins
        Shape (visits, n): one a round; True: the second team picks first (see ``serving.interleaving.draft``).
    """
    size, n = first.shape
    lists = np.stack([first, second], axis=1)
    free = np.ones(lists.shape, dtype=bool)
    shown, team = np.empty_like(first), np.empty_like(first)
    rows = np.arange(size)
    for place in range(n):
        begins = coins[:, place // 2].astype(np.int64)
        turn = begins if place % 2 == 0 else 1 - begins
        pick = lists[rows, turn, free[rows, turn].argmax(axis=1)]
        shown[:, place], team[:, place] = pick, turn
        free &= lists != pick[:, None, None]
    return shown, team


def agreement(
    visitors: Visitors,
    menu: Menu,
    *,
    epsilon: float = 0.1,
    loss: float = 0.05,
    first: int = 100_000,
    runs: int = 200,
    seed: int = 0,
    progress: Progress,
) -> dict[str, Any]:
    """Return the truth, what each method finds, how many customers it needs, and how often so many find it.

    Parameters
    ----------
    visitors, menu
        Who comes, and what the control shows.
    epsilon
        How much it leaves to chance.
    loss
        By which share the treatment's expected clicks are lower.
    first
        Customers of the first run.
    runs
        How often the customers needed are drawn, and as often customers without a loss.
    seed
        Same seed, same figures.
    progress
        Told what is done.
    """
    control = Variant(menu, epsilon)
    pairs = {
        "other_lists": other_lists(visitors, control, loss, rng=np.random.default_rng([seed, 99])),
        "left_to_chance": left_to_chance(visitors, control, loss),
    }
    return {
        "visitors": len(visitors.ids),
        "products": int(menu.allowed.shape[1]),
        "n": menu.n,
        "clicks_a_customer": control.clicks(visitors),
        "epsilon": epsilon,
        "first_run_customers": first,
        "runs": runs,
        "pairs": {
            name: _pair(
                Stage(visitors, control, treatment), first, runs, seed=[seed, number], progress=progress
            )
            for number, (name, treatment) in enumerate(pairs.items())
        },
    }


def _pair(stage: Stage, first: int, runs: int, *, seed: list[int], progress: Progress) -> dict[str, Any]:
    gap = stage.gap
    methods = {}
    for number, method in enumerate(METHODS):
        begun = stage.run(method, first, np.random.default_rng([*seed, number, 0]))
        aim = gap
        if method == "interleaving":  # its preference has no exact truth, but one that many customers tell
            more = [
                stage.run(method, first, np.random.default_rng([*seed, number, 2, run]))
                for run in range(_TRIALS)
            ]
            aim = float(np.mean([one.estimate for one in more]))
        needed = required_customers(begun.spread2, aim, OneLook(), share=0.5, power=_POWER)
        told: dict[str, Any] = {
            "estimate": begun.estimate,
            "low": begun.low,
            "high": begun.high,
            "p": begun.p,
            "agrees": begun.estimate * gap > 0 if gap else begun.p >= _SURE,
            "customers_for_80": None,
        }
        if method == "doubly_robust":
            told |= {"picks_shown": begun.picks, "picks_clicked": begun.clicked}
        if needed is not None and gap:
            came = round(needed * begun.came / begun.counted)
            told["customers_for_80"] = came
            told |= _again(stage, method, came, gap, runs, seed=[*seed, number, 1], progress=progress)
        methods[method] = told
    return {
        "truth": {
            "difference": gap,
            "relative": gap / stage.control.clicks(stage.visitors),
            "epsilon_treatment": stage.treatment.epsilon,
            "places_replaced": float((stage.treatment.menu.usual != stage.control.menu.usual).mean()),
        },
        "methods": methods,
    }


def _again(
    stage: Stage,
    method: Method,
    customers: int,
    gap: float,
    runs: int,
    *,
    seed: list[int],
    progress: Progress,
) -> dict[str, float]:
    """Return how often so many customers find the loss, the opposite, and anything where there is nothing."""
    found, empty = list[Found](), list[Found]()
    nothing = Stage(stage.visitors, stage.control, stage.control)
    for run in range(runs):
        found.append(stage.run(method, customers, np.random.default_rng([*seed, run])))
        empty.append(nothing.run(method, customers, np.random.default_rng([*seed, runs + run])))
        progress(f"runs of {customers:,} customers, {method.replace('_', ' ')}", run + 1, runs)
    sure = np.array([one.p < _SURE for one in found])
    agrees = np.array([one.estimate * gap > 0 for one in found])
    told = {
        "found": float((sure & agrees).mean()),
        "opposite_found": float((sure & ~agrees).mean()),
        "sign_agrees": float(agrees.mean()),
        "found_without_a_loss": float(np.mean([one.p < _SURE for one in empty])),
        "mean_estimate": float(np.mean([one.estimate for one in found])),
    }
    if method != "interleaving":
        told["interval_holds_truth"] = float(np.mean([one.low <= gap <= one.high for one in found]))
    return told
