"""What a worker serves at one time: the live bundle under its rules, the experiments, and all that they name.

One immutable value. A request takes it once, so that its answer belongs to exactly one. Who sees what is decided
here, in this order: a variant that a tester asks for by name; the holdout, which sees segment and popular only; the
first experiment of the file whose surface and customers match, which may mix the lists of two variants
(``serving.interleaving``); what is live. A session without a customer is assigned
by its own id, and is in no holdout; its attributes are not known, so no experiment for certain customers is for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from feature_repo import names as v
from serving.errors import FeatureUnavailable
from serving.experiments_file import (
    FALLBACK,
    HOLDOUT,
    INTERLEAVED,
    NO_FILE,
    Experiment,
    Experiments,
    Variant,
)
from serving.features import FeatureReader, Row
from serving.interleaving import Coins, coins, interleaved
from serving.query import Query, Recommendations
from serving.recommender import Begun, Recommender
from serving.variants import Scale, positions

_NO_ROW: Final[Row] = MappingProxyType({})


class Shadow(NamedTuple):
    """A variant that answers beside what is shown."""

    variant: str
    recommender: Recommender


class Rival(NamedTuple):
    """What the control's list is interleaved with: its recommender, both variants' names, and the coins."""

    recommender: Recommender
    teams: tuple[str, str]
    coins: Coins


class Choice(NamedTuple):
    """What one request is answered by; no experiment: by what is live.

    With a ``rival`` the answer is made of both lists, and the recommender is the control's.
    """

    recommender: Recommender
    experiment: str | None = None
    variant: str | None = None
    shadow: Shadow | None = None
    forced: bool = False
    rival: Rival | None = None

    @property
    def _answering(self) -> tuple[Recommender, ...]:
        return (self.recommender,) if self.rival is None else (self.recommender, self.rival.recommender)

    @property
    def is_quick(self) -> bool:
        """Whether all reads are quick enough for an event loop."""
        return all(one.features.is_quick for one in self._answering)

    def begin(self, queries: Sequence[Query]) -> tuple[Begun, ...]:
        """Begin to read the states of queries; for ``recommend``, or to be dropped."""
        return tuple(one.begin(queries) for one in self._answering)

    def recommend(
        self, queries: Sequence[Query], begun: tuple[Begun, ...] | None = None
    ) -> list[Recommendations]:
        """Answer each query, in order; ``begun`` is what ``begin`` returned for the same queries.

        An interleaved answer to a query without a request id is always drafted with the same coins.

        Raises
        ------
        DataError
            A filter names an attribute that a catalog does not have.
        """
        if self.rival is None:
            return self.recommender.recommend(queries, begun[0] if begun else None)
        first, second = (
            one.recommend(queries, read)
            for one, read in zip(self._answering, begun or (None, None), strict=True)
        )
        _, teams, toss = self.rival
        return [
            interleaved((own, other), teams, query.n, toss(query.request_id or ""))
            for query, own, other in zip(queries, first, second, strict=True)
        ]


@dataclass(frozen=True)
class _Running:
    """An experiment ready to choose: ``customers`` are (key in a customer's row, values), ``choices`` by variant."""

    surfaces: frozenset[str] | None
    customers: tuple[tuple[str, tuple[Any, ...]], ...]
    position: Callable[[str], float]
    scale: Scale
    choices: tuple[Choice, ...]

    def is_on(self, surface: str | None) -> bool:
        return self.surfaces is None or surface in self.surfaces

    def is_for(self, row: Row) -> bool:
        return all(row.get(key) in values for key, values in self.customers)

    def choose(self, unit: str) -> Choice:
        return self.choices[self.scale.owner(self.position(unit))]


def _alike(choice: Choice) -> tuple[Recommender, Rival | None]:
    """Return what choices have in common whose queries are answered together."""
    return choice.recommender, choice.rival


class Served:
    """What is served; nothing of it changes.

    Parameters
    ----------
    live
        Answers with the live bundle.
    experiments
        Who sees what.
    recommenders
        One for each version that the experiments name, under the rules of the live one.
    own
        One for each version with each file of rules that a variant names.
    attributes
        Reads the attributes of customers that the experiments ask for; None where they ask for none.
    """

    def __init__(
        self,
        live: Recommender,
        experiments: Experiments | None = None,
        recommenders: Mapping[str, Recommender] = MappingProxyType({}),
        attributes: FeatureReader | None = None,
        own: Mapping[tuple[str, str], Recommender] = MappingProxyType({}),
    ) -> None:
        self.live = live
        self.experiments = experiments or Experiments()
        self.recommenders: Mapping[str, Recommender] = MappingProxyType(
            {**recommenders, live.bundle.version: live}
        )
        self._own = own
        self._attributes = attributes
        self._plain = Choice(live)
        self._forced: dict[str, Choice] = {}
        self._holdout = positions(self.experiments.holdout_salt) if self.experiments.holdout else None
        self._fallback = Choice(live.fallback(), HOLDOUT, FALLBACK) if self._holdout else self._plain
        self._running = [self._run(experiment) for experiment in self.experiments.experiments]
        self._is_plain = self._holdout is None and not self._running
        self._targeted = [running for running in self._running if running.customers]
        self._name_forced()

    def _run(self, experiment: Experiment) -> _Running:
        choices = (self._mixed(experiment),) if experiment.is_interleaved else self._apart(experiment)
        return _Running(
            None if experiment.surfaces is None else frozenset(experiment.surfaces),
            tuple(
                (v.row_key(v.CUSTOMER_ATTRIBUTES, name), held) for name, held in experiment.customers.items()
            ),
            positions(experiment.salt),
            Scale.of([variant.weight for variant in experiment.variants[: len(choices)]]),
            choices,
        )

    def _mixed(self, experiment: Experiment) -> Choice:
        """Return the one choice of an interleaved experiment, which everybody has."""
        control, other = experiment.variants
        rival = Rival(self._of(other), (control.name, other.name), coins(experiment.salt))
        return Choice(self._of(control), experiment.name, INTERLEAVED, rival=rival)

    def _apart(self, experiment: Experiment) -> tuple[Choice, ...]:
        shown = {
            variant.name: Choice(self._of(variant), experiment.name, variant.name)
            for variant in experiment.variants
        }
        control = shown[experiment.variants[0].name]
        return tuple(
            control._replace(shadow=Shadow(variant.name, self._of(variant)))
            if variant.shadow
            else shown[variant.name]
            for variant in experiment.variants
        )

    def _of(self, variant: Variant) -> Recommender:
        version = variant.version or self.live.bundle.version
        return self.recommenders[version] if variant.rules is None else self._own[version, variant.rules]

    @property
    def lines(self) -> list[str]:
        """What is served, in words of ``/readyz``: tags and hashes, the rules of variants that have their own."""
        own = [
            f"rules of {experiment.name}/{variant.name} {self._of(variant).digest}"
            for experiment in self.experiments.experiments
            for variant in experiment.variants
            if variant.rules is not None
        ]
        return [
            f"bundle {self.live.bundle.tag}",
            f"rules {self.live.digest or NO_FILE}",
            f"experiments {self.experiments.digest}",
            *own,
        ]

    def _name_forced(self) -> None:
        """Name what testers can ask for: ``experiment/variant``, and the variant alone where only one is called so."""
        asked = [
            Choice(self._of(variant), experiment.name, variant.name, forced=True)
            for experiment in self.experiments.experiments
            for variant in experiment.variants
        ]
        if self._holdout is not None:
            asked.append(self._fallback._replace(forced=True))
        names = [choice.variant for choice in asked]
        for choice in asked:
            self._forced[f"{choice.experiment}/{choice.variant}"] = choice
            if choice.variant is not None and names.count(choice.variant) == 1:
                self._forced[choice.variant] = choice

    @property
    def variants(self) -> list[str]:
        """What ``forced`` knows, in full."""
        return [name for name in self._forced if "/" in name]

    def forced(self, name: str) -> Choice | None:
        """Return the variant that a tester asks for by name; None where there is none, or more than one."""
        return self._forced.get(name)

    def asks_for_attributes(self, surface: str | None) -> bool:
        """Whether it depends on attributes of customers what is shown on a surface."""
        return bool(self._targeted) and any(running.is_on(surface) for running in self._targeted)

    def choose(self, query: Query, surface: str | None, row: Row = _NO_ROW) -> Choice:
        """Return what answers a query; ``row`` has the customer's attributes where experiments ask for them."""
        if self._is_plain:
            return self._plain
        customer = query.customer_id
        if self.is_held_out(customer):
            return self._fallback
        unit = query.session_id if customer is None else customer
        if unit is not None:
            for running in self._running:
                if running.is_on(surface) and running.is_for(row):
                    return running.choose(unit)
        return self._plain

    def is_held_out(self, customer_id: str | None) -> bool:
        """Whether a customer is in the holdout; nobody who is no customer is."""
        if self._holdout is None or customer_id is None:
            return False
        return self._holdout(customer_id) < self.experiments.holdout

    def recommend(
        self, queries: Sequence[Query], surface: str | None = None
    ) -> list[tuple[Choice, Recommendations]]:
        """Choose for each query, and answer it; in order.

        Customers whose attributes cannot be read are in no experiment that asks for them.

        Raises
        ------
        DataError
            A filter names an attribute that the chosen bundle's catalog does not have.
        """
        choices = self.choices(queries, surface)
        answers: dict[int, Recommendations] = {}
        for alike, choice in {_alike(choice): choice for choice in choices}.items():
            places = [place for place, one in enumerate(choices) if _alike(one) == alike]
            answers |= zip(places, choice.recommend([queries[place] for place in places]), strict=True)
        return [(choice, answers[place]) for place, choice in enumerate(choices)]

    def choices(self, queries: Sequence[Query], surface: str | None = None) -> list[Choice]:
        """Choose for each query, in order, with the attributes that experiments ask for read before."""
        rows = self._rows(queries) if self.asks_for_attributes(surface) else [_NO_ROW] * len(queries)
        return [self.choose(query, surface, row) for query, row in zip(queries, rows, strict=True)]

    def _rows(self, queries: Sequence[Query]) -> list[Row]:
        customers = list(
            dict.fromkeys(query.customer_id for query in queries if query.customer_id is not None)
        )
        if self._attributes is None or not customers:
            return [_NO_ROW] * len(queries)
        try:
            states = self._attributes.read(customers, queries[0].at)
        except FeatureUnavailable:
            return [_NO_ROW] * len(queries)
        known = {customer: state.row for customer, state in zip(customers, states, strict=True)}
        return [_NO_ROW if query.customer_id is None else known[query.customer_id] for query in queries]
