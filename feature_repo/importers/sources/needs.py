"""Which features and answers need an optional input, so that a report can say what goes without it.

The contract asks for three columns of interactions and one of products; everything else is optional, and
each optional input makes something possible. This list is what a person reads before asking the source systems for
more. Deliberately absent: judgement of how well an input is filled beyond there and not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from feature_repo.schema import (
    CAMPAIGNS,
    CATEGORY,
    CHANNEL,
    CONSENT_PREFIX,
    CONTACTS,
    CUSTOMERS,
    DISCOUNT,
    GROUP,
    INTERACTIONS,
    KIND,
    LAUNCHED_AT,
    MARGIN,
    MEASURES,
    NAME,
    ORDER_ID,
    PRICE,
    PRODUCTS,
    PROPENSITY,
    QUANTITY,
    REQUEST_ID,
    SIGNED_UP_AT,
    STORE_ID,
    TIES,
    VALID_FROM,
    VALUE,
    WITHDRAWN_AT,
)

__all__ = ["INPUTS", "Input", "Need", "missing_inputs"]


@dataclass(frozen=True)
class Input:
    """An optional input and what goes without it.

    Attributes
    ----------
    table
        Table of the contract.
    field
        Its column, or the beginning of several columns when it ends in ``_``; None for the table itself.
    without
        What cannot be computed or answered when it is not there.
    """

    table: str
    field: str | None
    without: str


@dataclass(frozen=True)
class Need:
    """An input that is not there (``filled`` 0) and what goes without it."""

    table: str
    field: str | None
    without: str


INPUTS: Final[tuple[Input, ...]] = (
    Input(INTERACTIONS, KIND, "views, clicks and carts: every row counts as a purchase"),
    Input(INTERACTIONS, QUANTITY, "quantities: every row counts as one piece"),
    Input(INTERACTIONS, VALUE, "spend, value and margin of a customer: money is taken as 0"),
    Input(INTERACTIONS, DISCOUNT, "discount share and response to offers"),
    Input(INTERACTIONS, ORDER_ID, "baskets: basket size and products bought together"),
    Input(INTERACTIONS, CHANNEL, "channel shares and the best channel of a customer"),
    Input(INTERACTIONS, STORE_ID, "store shares and the home store of a customer"),
    Input(INTERACTIONS, REQUEST_ID, "purchases traced back to a recommendation that was shown"),
    Input(PRODUCTS, NAME, "names in answers and reports: ids are shown"),
    Input(PRODUCTS, CATEGORY, "category shares, category filters and diversity of a list"),
    Input(PRODUCTS, PRICE, "price rank, price level of a customer and price filters"),
    Input(PRODUCTS, MARGIN, "ranking and audiences by margin"),
    Input(PRODUCTS, LAUNCHED_AT, "age from launch and what was on sale in the past"),
    Input(PRODUCTS, WITHDRAWN_AT, "leaving out withdrawn products, today and in the past"),
    Input(PRODUCTS, VALID_FROM, "stock and price history: price and attributes as they were at the time"),
    Input(CUSTOMERS, None, "attributes of customers, and answers for new customers by segment"),
    Input(CUSTOMERS, SIGNED_UP_AT, "time since sign-up; the first purchase stands for it"),
    Input(CUSTOMERS, VALID_FROM, "attributes of customers as they were at the time"),
    Input(
        CUSTOMERS, CONSENT_PREFIX, "consent checks: an audience cannot leave out who must not be contacted"
    ),
    Input(MEASURES, None, "levels and changes of dated facts (balance, income, channel queries)"),
    Input(CAMPAIGNS, None, "campaign effect, its cost and its return"),
    Input(CONTACTS, None, "campaign effect, response by channel and time, and limits on contacts"),
    Input(CONTACTS, GROUP, "campaign effect: without a holdout group there is nothing to compare with"),
    Input(CONTACTS, PROPENSITY, "correction for who was chosen to be contacted"),
    Input(TIES, None, "recommendations and influence between customers who know each other"),
)


def missing_inputs(filled: Mapping[str, Mapping[str, int]]) -> tuple[Need, ...]:
    """Return the inputs that are not there.

    Parameters
    ----------
    filled
        Table → column → rows with a value, for the tables that were written.
    """
    needs = []
    for wanted in INPUTS:
        columns = filled.get(wanted.table)
        if wanted.field is None:
            absent = not columns
        elif columns is None:
            absent = False  # the table itself is on the list
        elif wanted.field.endswith("_"):
            absent = not any(count for name, count in columns.items() if name.startswith(wanted.field))
        else:
            absent = not columns.get(wanted.field)
        if absent:
            field = f"{wanted.field}…" if wanted.field == CONSENT_PREFIX else wanted.field
            needs.append(Need(wanted.table, field, wanted.without))
    return tuple(needs)
