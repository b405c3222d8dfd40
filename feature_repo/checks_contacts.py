"""The checks of contacts and of the tables that describe: products, campaigns, measures, ties.

A contact is planned, sent, delivered, opened and answered in this order; a holdout is planned and nothing
else. A time at midnight may be a date, and is no earlier than anything on its day. Deliberately absent: the
law. A contact without consent is found here, and what follows from it is not decided.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from feature_repo.casts import literal, quoted
from feature_repo.checks_form import SOME, Check, before, day, rows_where
from feature_repo.checks_sales import missing_in
from feature_repo.schema import (
    AT,
    CAMPAIGN_ID,
    CAMPAIGNS,
    CHANNEL,
    CONSENT_PREFIX,
    CONTACTS,
    CUSTOMER_ID,
    CUSTOMERS,
    DELIVERED_AT,
    ENDS_AT,
    GROUP,
    LAUNCHED_AT,
    MARGIN,
    MEASURES,
    NAME,
    OPENED_AT,
    OTHER_ID,
    PRICE,
    PRODUCT_ID,
    PRODUCTS,
    PROPENSITY,
    RESPONDED_AT,
    RESPONSE,
    ROW_NUMBER,
    SENT_AT,
    STARTS_AT,
    TABLES,
    TIES,
    VALID_FROM,
    VALUE,
    WITHDRAWN_AT,
)

__all__ = ["CONTACT_CHECKS", "DESCRIPTION_CHECKS", "of_consent"]

_AT: Final = quoted(AT)
_TARGET, _HOLDOUT = TABLES[CONTACTS].column(GROUP).choices
_HELD_OUT: Final = f"coalesce({quoted(GROUP)}, {literal(_TARGET)}) = {literal(_HOLDOUT)}"
_ANSWERS: Final = TABLES[CONTACTS].column(RESPONSE).choices[1:4]  # what only who was contacted can give

_OUTSIDE: Final = f"""
    WITH runs AS (SELECT {CAMPAIGN_ID}, min({STARTS_AT}) AS opens, max({ENDS_AT}) AS closes
        FROM {CAMPAIGNS} GROUP BY {CAMPAIGN_ID})
    SELECT {ROW_NUMBER} FROM typed_{CONTACTS} JOIN runs USING ({CAMPAIGN_ID})
    WHERE {day(_AT)} < {day("opens")} OR {day(_AT)} > {day("closes")}"""

_TWO_GROUPS: Final = f"""
    WITH torn AS (SELECT {CAMPAIGN_ID}, {CUSTOMER_ID} FROM {CONTACTS} GROUP BY ALL
        HAVING min({quoted(GROUP)}) <> max({quoted(GROUP)}))
    SELECT {ROW_NUMBER} FROM typed_{CONTACTS} SEMI JOIN torn USING ({CAMPAIGN_ID}, {CUSTOMER_ID})"""

_KEYS: Final = f"{CAMPAIGN_ID}, {CUSTOMER_ID}, {CHANNEL}, {_AT}"
_CONTACT_AGAIN: Final = f"""
    SELECT {ROW_NUMBER} FROM typed_{CONTACTS} WHERE {CUSTOMER_ID} IS NOT NULL AND {_AT} IS NOT NULL
    QUALIFY row_number() OVER (PARTITION BY {_KEYS} ORDER BY {ROW_NUMBER}) > 1"""

_TWO_VALUES: Final = f"""
    WITH torn AS (SELECT {CUSTOMER_ID}, {NAME}, {_AT} FROM {MEASURES} GROUP BY ALL
        HAVING min({quoted(VALUE)}) < max({quoted(VALUE)}))
    SELECT {ROW_NUMBER} FROM typed_{MEASURES} SEMI JOIN torn USING ({CUSTOMER_ID}, {NAME}, {_AT})"""


def of_consent(columns: Sequence[str]) -> Check:
    """Return the check that nobody was contacted on a channel after taking back the consent to it.

    Parameters
    ----------
    columns
        Names of the columns ``consent_<channel>`` of the customers; at least one.
    """
    versions = " UNION ALL ".join(
        f"SELECT {CUSTOMER_ID}, {VALID_FROM}, {literal(name.lower().removeprefix(CONSENT_PREFIX))} AS way, "
        f"{quoted(name)} AS consent FROM typed_{CUSTOMERS} WHERE {VALID_FROM} IS NOT NULL"
        for name in columns
    )
    return Check(
        "contacted with consent",
        CONTACTS,
        f"""WITH versions AS ({versions}),
        made AS (SELECT {ROW_NUMBER}, {CUSTOMER_ID}, lower({CHANNEL}) AS way, coalesce({SENT_AT}, {_AT}) AS moment
            FROM typed_{CONTACTS} WHERE NOT {_HELD_OUT} AND {_AT} IS NOT NULL)
        SELECT {ROW_NUMBER} FROM made ASOF JOIN versions ON made.{CUSTOMER_ID} = versions.{CUSTOMER_ID}
            AND made.way = versions.way AND moment >= {VALID_FROM}
        WHERE NOT consent""",
        f"the version of the customer in force said {CONSENT_PREFIX}<channel> = false; stop such contacts, or "
        f"correct {VALID_FROM} if the consent was taken back later",
        needs=(CUSTOMERS,),
        shown=(CAMPAIGN_ID, CUSTOMER_ID, CHANNEL, AT, SENT_AT),
    )


def _in_order(first: str, then: str, verbs: str) -> Check:
    return Check(
        f"{then} after {first}",
        CONTACTS,
        rows_where(CONTACTS, before(then, first)),
        f"a message cannot be {verbs}; look for clocks that differ, time zones or swapped columns",
        shown=(CAMPAIGN_ID, CUSTOMER_ID, first, then),
    )


CONTACT_CHECKS: Final = (
    Check(
        f"{PROPENSITY} is a probability",
        CONTACTS,
        rows_where(CONTACTS, f"{PROPENSITY} <= 0 OR {PROPENSITY} > 1"),
        "expected more than 0 and at most 1; effects weighted by it would be wrong",
        "FAIL",
        shown=(CAMPAIGN_ID, CUSTOMER_ID, PROPENSITY),
    ),
    missing_in(CONTACTS, CAMPAIGN_ID, "the campaign of these contacts is not described"),
    missing_in(CONTACTS, CUSTOMER_ID, "such customers have no attributes and no consent"),
    _in_order(SENT_AT, DELIVERED_AT, "delivered before it is sent"),
    _in_order(DELIVERED_AT, OPENED_AT, "opened before it is delivered"),
    Check(
        f"{RESPONDED_AT} after {SENT_AT}",
        CONTACTS,
        rows_where(CONTACTS, before(RESPONDED_AT, f"coalesce({SENT_AT}, {DELIVERED_AT})")),
        "an answer cannot come before the message; an earlier purchase is no answer to it: look for clocks "
        "that differ, time zones or swapped columns",
        shown=(CAMPAIGN_ID, CUSTOMER_ID, SENT_AT, DELIVERED_AT, RESPONDED_AT),
    ),
    Check(
        f"{_HOLDOUT}s are not contacted",
        CONTACTS,
        rows_where(CONTACTS, f"{_HELD_OUT} AND coalesce({SENT_AT}, {DELIVERED_AT}, {OPENED_AT}) IS NOT NULL"),
        f"expected no {SENT_AT}, {DELIVERED_AT} or {OPENED_AT} for a {_HOLDOUT}, who was contacted then; the effect "
        "of the campaign is measured against them and would come out too small: correct the group",
        fail_above=SOME,
        shown=(CAMPAIGN_ID, CUSTOMER_ID, SENT_AT, DELIVERED_AT, OPENED_AT),
    ),
    Check(
        f"{_HOLDOUT}s do not answer",
        CONTACTS,
        rows_where(
            CONTACTS, f"{_HELD_OUT} AND {RESPONSE} IN ({', '.join(literal(word) for word in _ANSWERS)})"
        ),
        f"only who was contacted can answer with {', '.join(_ANSWERS)} (a {_HOLDOUT} may purchase); "
        "correct the group or the answer",
        fail_above=SOME,
        shown=(CAMPAIGN_ID, CUSTOMER_ID, RESPONSE, RESPONDED_AT),
    ),
    Check(
        "one group in a campaign",
        CONTACTS,
        _TWO_GROUPS,
        f"the customer is {_TARGET} and {_HOLDOUT} of one campaign, and so counts for neither; keep one",
        fail_above=SOME,
        shown=(CAMPAIGN_ID, CUSTOMER_ID, GROUP),
    ),
    Check(
        "contacts differ",
        CONTACTS,
        _CONTACT_AGAIN,
        "the same contact (campaign, customer, channel, instant) stands in an earlier row; remove copies",
        fail_above=SOME,
        shown=(CAMPAIGN_ID, CUSTOMER_ID, CHANNEL, AT),
    ),
    Check(
        "contacts within their campaign",
        CONTACTS,
        _OUTSIDE,
        f"expected a contact between the days of {STARTS_AT} and {ENDS_AT} of its campaign, found another day; "
        "correct the dates, since results are counted within them",
        needs=(CAMPAIGNS,),
        shown=(CAMPAIGN_ID, CUSTOMER_ID, AT),
    ),
)

DESCRIPTION_CHECKS: Final[dict[str, tuple[Check, ...]]] = {
    PRODUCTS: (
        Check(
            f"{LAUNCHED_AT} before {WITHDRAWN_AT}",
            PRODUCTS,
            rows_where(PRODUCTS, f"{LAUNCHED_AT} > {WITHDRAWN_AT}"),
            "such a product is never on sale; correct the dates",
            "FAIL",
            shown=(PRODUCT_ID, LAUNCHED_AT, WITHDRAWN_AT),
        ),
        Check(
            f"{PRICE} above zero",
            PRODUCTS,
            rows_where(PRODUCTS, f"{PRICE} <= 0"),
            "a price of zero or less is no price; leave it empty where it is not known",
            fail_above=SOME,
            shown=(PRODUCT_ID, PRICE),
        ),
        Check(
            f"{MARGIN} within {PRICE}",
            PRODUCTS,
            rows_where(PRODUCTS, f"{PRICE} > 0 AND {MARGIN} > {PRICE}"),
            f"expected {MARGIN} as money a unit, at most {PRICE}; write a share of 30 % as 0.3 × {PRICE}",
            fail_above=SOME,
            shown=(PRODUCT_ID, PRICE, MARGIN),
        ),
    ),
    CAMPAIGNS: (
        Check(
            f"{STARTS_AT} before {ENDS_AT}",
            CAMPAIGNS,
            rows_where(CAMPAIGNS, f"{STARTS_AT} > {ENDS_AT}"),
            "such a campaign never runs; correct the dates",
            "FAIL",
            shown=(CAMPAIGN_ID, STARTS_AT, ENDS_AT),
        ),
        missing_in(CAMPAIGNS, PRODUCT_ID, "the campaign is for a product that is not described"),
    ),
    MEASURES: (
        Check(
            "one value at an instant",
            MEASURES,
            _TWO_VALUES,
            f"the customer has several values of one {NAME} at one instant, and which is right is not said; "
            "keep one",
            fail_above=SOME,
            shown=(CUSTOMER_ID, AT, NAME, VALUE),
        ),
    ),
    TIES: (
        Check(
            "ties between two",
            TIES,
            rows_where(TIES, f"{CUSTOMER_ID} = {OTHER_ID}"),
            "a customer cannot be tied to himself or herself; such a tie says nothing: remove it",
            shown=(CUSTOMER_ID, OTHER_ID),
        ),
    ),
}
