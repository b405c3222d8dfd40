"""Names of the columns and the input contract: every table, every column, once.

Nothing else in the project writes a column name as a literal. Times are UTC; ids are strings at every
border. What a table means, and which columns it must have, is read from ``TABLES`` by the validator,
the importers, the feature build and the documentation alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

# identifiers
CUSTOMER_ID: Final = "customer_id"
PRODUCT_ID: Final = "product_id"
CUSTOMER_IDX: Final = "customer_idx"
PRODUCT_IDX: Final = "product_idx"
ORDER_ID: Final = "order_id"
STORE_ID: Final = "store_id"
REQUEST_ID: Final = "request_id"
CAMPAIGN_ID: Final = "campaign_id"
AGENT_ID: Final = "agent_id"
OTHER_ID: Final = "other_id"
ROW_ID: Final = "row_id"
ROW_NUMBER: Final = "row_number"

# times
AT: Final = "at"
AS_OF: Final = "as_of"
EVENT_TIMESTAMP: Final = "event_timestamp"
LAUNCHED_AT: Final = "launched_at"
WITHDRAWN_AT: Final = "withdrawn_at"
VALID_FROM: Final = "valid_from"
SIGNED_UP_AT: Final = "signed_up_at"
ENDS_AT: Final = "ends_at"
STARTS_AT: Final = "starts_at"

# facts
KIND: Final = "kind"
QUANTITY: Final = "quantity"
VALUE: Final = "value"
DISCOUNT: Final = "discount"
CHANNEL: Final = "channel"
NAME: Final = "name"
CATEGORY: Final = "category"
PRICE: Final = "price"
MARGIN: Final = "margin"
AVAILABLE: Final = "available"
CONSENT_PREFIX: Final = "consent_"
REASON: Final = "reason"
PROPENSITY: Final = "propensity"
GROUP: Final = "group"
ARM: Final = "arm"
OFFER: Final = "offer"
COST: Final = "cost"
SENT_AT: Final = "sent_at"
DELIVERED_AT: Final = "delivered_at"
OPENED_AT: Final = "opened_at"
RESPONSE: Final = "response"
RESPONDED_AT: Final = "responded_at"
RESPONSE_CHANNEL: Final = "response_channel"
REWARD: Final = "reward"
WEIGHT: Final = "weight"

# kinds of interaction
VIEW: Final = "view"
CLICK: Final = "click"
CART: Final = "cart"
PURCHASE: Final = "purchase"
RETURN: Final = "return"
KINDS: Final = (VIEW, CLICK, CART, PURCHASE, RETURN)

# tables
INTERACTIONS: Final = "interactions"
PRODUCTS: Final = "products"
CUSTOMERS: Final = "customers"
MEASURES: Final = "measures"
CAMPAIGNS: Final = "campaigns"
CONTACTS: Final = "contacts"
TIES: Final = "ties"

DType = Literal["string", "timestamp", "float", "bool"]


@dataclass(frozen=True)
class Column:
    """One column of an input table: its name, type, whether it must be there, and its default.

    A row without a value in a required column is rejected, unless the column ``may_be_empty``.
    """

    name: str
    dtype: DType
    required: bool = False
    default: str | float | bool | None = None
    choices: tuple[str, ...] = ()
    may_be_empty: bool = False


@dataclass(frozen=True)
class Table:
    """One input table; ``open`` tables keep extra columns as typed attributes."""

    name: str
    columns: tuple[Column, ...]
    required: bool = False
    open: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """Column names in order."""
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """Return the column called ``name``; KeyError if the table has none."""
        return {column.name: column for column in self.columns}[name]


def _s(
    name: str, *, required: bool = False, default: str | None = None, choices: tuple[str, ...] = ()
) -> Column:
    return Column(name, "string", required, default, choices)


def _t(name: str, *, required: bool = False) -> Column:
    return Column(name, "timestamp", required)


def _f(name: str, *, required: bool = False, default: float | None = None) -> Column:
    return Column(name, "float", required, default)


TABLES: Final[dict[str, Table]] = {
    table.name: table
    for table in (
        Table(
            INTERACTIONS,
            (
                Column(CUSTOMER_ID, "string", required=True, may_be_empty=True),  # empty: anonymous
                _s(PRODUCT_ID, required=True),
                _t(AT, required=True),
                _s(KIND, default=PURCHASE, choices=KINDS),
                _f(QUANTITY, default=1.0),
                _f(VALUE, default=0.0),
                _f(DISCOUNT, default=0.0),
                _s(ORDER_ID),
                _s(CHANNEL),
                _s(STORE_ID),
                _s(REQUEST_ID),
            ),
            required=True,
        ),
        Table(
            PRODUCTS,
            (
                _s(PRODUCT_ID, required=True),
                _s(NAME),
                _s(CATEGORY),
                _f(PRICE),
                _f(MARGIN),
                Column(AVAILABLE, "bool", default=True),
                _t(LAUNCHED_AT),
                _t(WITHDRAWN_AT),
                _t(VALID_FROM),
            ),
            required=True,
            open=True,
        ),
        Table(CUSTOMERS, (_s(CUSTOMER_ID, required=True), _t(SIGNED_UP_AT), _t(VALID_FROM)), open=True),
        Table(
            MEASURES,
            (
                _s(CUSTOMER_ID, required=True),
                _t(AT, required=True),
                _s(NAME, required=True),
                _f(VALUE, required=True),
            ),
        ),
        Table(
            CAMPAIGNS,
            (
                _s(CAMPAIGN_ID, required=True),
                _t(STARTS_AT, required=True),
                _t(ENDS_AT, required=True),
                _s(NAME),
                _s(PRODUCT_ID),
                _s(CATEGORY),
                _s(OFFER),
                _s("occasion"),
                _f("contact_cost"),
                _f("reward_cost"),
                _s("target"),
            ),
        ),
        Table(
            CONTACTS,
            (
                _s(CAMPAIGN_ID, required=True),
                _s(CUSTOMER_ID, required=True),
                _s(CHANNEL, required=True),
                _t(AT, required=True),
                _s(GROUP, choices=("target", "holdout")),
                _s(ARM),
                _s(OFFER),
                _f(PROPENSITY),
                _f(COST),
                _t(SENT_AT),
                _t(DELIVERED_AT),
                _t(OPENED_AT),
                _s(RESPONSE, choices=("none", "click", "considering", "refused", "purchase")),
                _t(RESPONDED_AT),
                _s(RESPONSE_CHANNEL),
                _s(REASON),
                _f(REWARD),
                _s(AGENT_ID),
                _f(VALUE),
            ),
        ),
        Table(TIES, (_s(CUSTOMER_ID, required=True), _s(OTHER_ID, required=True), _t(AT), _f(WEIGHT))),
    )
}
