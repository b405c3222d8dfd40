"""What a query comes to for a customer: who asks, what may be shown at all, and which rules order it.

Apart from ``recommender`` because sources are not asked here: a case is made of the query, the customer's state, the
catalog and the hard rules alone.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import DAY_US, History, to_micros
from serving.bundle import Bundle
from serving.catalog import Filters
from serving.features import CustomerState
from serving.filtering import Mask
from serving.query import Query
from serving.ranked import Shelf
from serving.rules import Asked, Rules
from serving.rules.soft import Soft
from serving.sources import bought
from serving.stages import stage
from serving.subject import Bought, Subject

Int32 = NDArray[np.int32]
_NOTHING: Final = np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Prepared:
    """What of an answer depends on the query alone; ``allowed`` is the answer's to change."""

    context: Int32
    allowed: Mask
    ignored: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """What a query comes to for a customer: who asks, what may be shown, and which soft rules order it.

    ``allowed`` (products,) passes the hard rules and is not looked at now; ``rest`` passes and is looked at, None where
    nothing is. ``held_back`` (indices) is what the purchased policy keeps out.
    """

    query: Query
    subject: Subject
    allowed: Mask
    rest: Mask | None
    held_back: Int32
    shelf: Shelf | None
    asked: Asked | None
    soft: Soft | None
    ignored: tuple[str, ...]


class Cases:
    """Makes cases.

    Parameters
    ----------
    bundle
        What was published.
    rules
        What merchandisers want; None: nothing but the query's own conditions.
    is_ranked
        Whether a second stage puts candidates in order.
    """

    def __init__(self, bundle: Bundle, rules: Rules | None, *, is_ranked: bool) -> None:
        self._bundle = bundle
        self._rules = rules
        self._is_ranked = is_ranked
        self._rows = {str(c): row for row, c in enumerate(bundle.customers[s.CUSTOMER_ID].tolist())}
        self._segments: list[str] = bundle.customers[v.SEGMENT].astype(str).tolist()

    def under(self, rules: Rules | None, *, is_ranked: bool) -> Cases:
        """Return the same under other rules, of the same bundle."""
        other = copy.copy(self)
        other._rules, other._is_ranked = rules, is_ranked
        return other

    def prepare(self, query: Query) -> Prepared:
        """Return what of an answer depends on the query alone; raises as ``Recommender.recommend``."""
        catalog = self._bundle.catalog
        with stage("filters"):
            context, ignored = catalog.indices(query.context)
            exclude, unknown = catalog.indices(query.exclude)
            allowed = self.offered(query.at, query.filters)
            allowed[exclude] = False
        return Prepared(context, allowed, tuple(dict.fromkeys([*ignored, *unknown])))

    def of(self, query: Query, state: CustomerState, ready: Prepared) -> Case:
        """Return what a query comes to for a customer whose state is known."""
        with stage("filters"):
            subject, allowed = self.subject(query, state, ready.context), ready.allowed
            held_back = self.held_back(query, subject)
            allowed[held_back] = False
            offered = on_sale = self._bundle.catalog.on_sale(query.at)
            asked, soft = None, None
            if self._rules is not None:
                asked = Asked(query.at, query.surface, subject.segment, state.row)
                offered, soft = self._rules.passing(on_sale, asked), self._rules.soft(asked)
                if offered is not on_sale:
                    np.logical_and(allowed, offered, out=allowed)
            shelf, rest = None, None
            if self._is_ranked and query.purchased != "due":
                shelf = Shelf(offered, held_back)
            if len(subject.context):
                rest = np.zeros_like(allowed)
                rest[subject.context] = allowed[subject.context]
                allowed[subject.context] = False
        return Case(query, subject, allowed, rest, held_back, shelf, asked, soft, ready.ignored)

    def offered(self, at: datetime, filters: Filters) -> Mask:
        """Return the products on sale that pass the filters, the caller's to change."""
        on_sale = self._bundle.catalog.on_sale(at)
        return on_sale & self._bundle.catalog.matching(filters) if filters else on_sale.copy()

    def subject(self, query: Query, state: CustomerState, context: Int32 = _NOTHING) -> Subject:
        """Return who asks, as sources see it; ``context`` are the products looked at now."""
        row = None if query.customer_id is None else self._rows.get(query.customer_id)
        segment = state.segment or ("" if row is None else self._segments[row])
        # what is made of a blank state holds for those alone of whom the bundle knows nothing either
        memo = None if state.is_blank and row is not None else state.memo
        own = self._bought(row, state.history, memo)
        repeats = query.purchased != "exclude"
        return Subject(
            row,
            segment,
            state.history,
            np.unique(context) if len(context) else context,
            own,
            query.at,
            repeats=repeats,
            features=state.row,
            memo=memo,
        )

    def _bought(self, row: int | None, history: History, memo: dict[str, Any] | None) -> Bought:
        if memo is None:
            return bought(self._bundle, row, history)
        if "bought" not in memo:
            memo["bought"] = bought(self._bundle, row, history)
        held: Bought = memo["bought"]
        return held

    def held_back(self, query: Query, subject: Subject) -> Int32:
        """Return the products the purchased policy keeps out: bought ones, or those bought and not yet due again."""
        own = subject.bought
        match query.purchased:
            case "exclude":
                return own.products
            case "due":
                elapsed = (to_micros(query.at) - own.last) / DAY_US
                if self._rules is None:
                    days = self._bundle.catalog.repurchase_days[own.products]
                else:
                    days = self._rules.due_days(own)
                # NaN, a product that nobody buys at a rhythm, is never due
                return own.products[~(elapsed >= days)]
            case "allow":
                return own.products[:0]
