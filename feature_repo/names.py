"""Names of the feature views and of the columns that serving reads by name.

Apart from ``features`` because the service needs the names but none of the expressions (and not the
engine that evaluates them).
"""

from __future__ import annotations

from typing import Final, Literal

CUSTOMER_FEATURES: Final = "customer_features"
PRODUCT_FEATURES: Final = "product_features"
CUSTOMER_RECENT: Final = "customer_recent"
CUSTOMER_RECENT_PUSH: Final = "customer_recent_push"
CUSTOMER_ATTRIBUTES: Final = "customer_attributes"
PRODUCT_ATTRIBUTES: Final = "product_attributes"
CUSTOMER_FACTS: Final = "customer_facts"
PRODUCT_FACTS: Final = "product_facts"
SERVICE: Final = "recommender_v1"
HYBRID_SERVICE: Final = "recommender_v2"
RANKING_SERVICE: Final = "ranking_v1"
CUSTOMER_SERVICE: Final = "customers_v1"
PRODUCT_SERVICE: Final = "products_v1"

#: The views of each feature service: what the recommender reads of a customer, the same with the attributes that
#: hybrid models learn from, what a model of (customer, product) pairs reads of both, and what rankers choose from.
#: Views that the shop's tables do not fill are left out.
SERVICES: Final[dict[str, tuple[str, ...]]] = {
    SERVICE: (CUSTOMER_FEATURES, CUSTOMER_RECENT),
    HYBRID_SERVICE: (CUSTOMER_FEATURES, CUSTOMER_ATTRIBUTES, CUSTOMER_RECENT),
    RANKING_SERVICE: (
        CUSTOMER_FEATURES,
        PRODUCT_FEATURES,
        CUSTOMER_FACTS,
        PRODUCT_FACTS,
        CUSTOMER_ATTRIBUTES,
        PRODUCT_ATTRIBUTES,
        CUSTOMER_RECENT,
    ),
    CUSTOMER_SERVICE: (CUSTOMER_FEATURES, CUSTOMER_FACTS, CUSTOMER_ATTRIBUTES, CUSTOMER_RECENT),
    PRODUCT_SERVICE: (PRODUCT_FEATURES, PRODUCT_FACTS, PRODUCT_ATTRIBUTES),
}

#: Tag of a feature service: the hash of the schema it was registered with.
SCHEMA_HASH_TAG: Final = "schema_hash"

SEGMENT: Final = "segment"
#: How the segment of a customer with a favourite category begins; the category follows.
CATEGORY_SEGMENT: Final = "category:"
#: The segments of customers without one: how lately and how often they bought.
RFM_SEGMENTS: Final = (
    *(
        f"rfm:{lately}-{often}"
        for lately in ("recent", "lapsing", "lapsed")
        for often in ("once", "few", "many")
    ),
    "rfm:never",
)
CATEGORY_NAMES: Final = "category_names"
CATEGORY_SHARES: Final = "category_shares"

#: Features of a product, list by list: which segments buy it.
SEGMENT_NAMES: Final = "segment_names"
SEGMENT_SHARES: Final = "segment_shares"
SEGMENT_TRENDS: Final = "segment_trends"

_SERVED: Final = (CATEGORY_NAMES, CATEGORY_SHARES, SEGMENT)
#: Customer features that a ranker may choose from: how active, how much, how dear, how true to what they know.
_RANKED: Final = (
    "tenure_days",
    "orders_30d",
    "orders_90d",
    "orders_365d",
    "lines_365d",
    "views_30d",
    "basket_size",
    "price_level",
    "discount_share",
    "repeat_share",
    "new_categories_90d",
    "gap_mean_days",
    "lateness",
)
#: Product features that a ranker reads: how much it sells, to whom, for how long, and whether they come back.
RANKED_PRODUCTS: Final = ("age_days", "purchases_30d", "buyers_30d", "trend", "repeat_rate")
#: Of the customer features, those that a service serves; all of them where it is not named here.
SERVED: Final[dict[str, tuple[str, ...]]] = {
    SERVICE: _SERVED,
    HYBRID_SERVICE: _SERVED,
    CUSTOMER_SERVICE: (*_SERVED, *_RANKED),
}

FeatureType = Literal["float", "string", "strings", "floats", "ints", "bool", "timestamp"]

#: "Longer ago than any window": the value of an elapsed time that has no start.
NEVER_DAYS: Final = 3650.0

HISTORY_LENGTH: Final = 50
RECENT_PRODUCTS: Final = "recent_products"
RECENT_KINDS: Final = "recent_kinds"
RECENT_AT: Final = "recent_at"
RECENT_VALUES: Final = "recent_values"

#: The view that follows a customer second by second: the last ``HISTORY_LENGTH`` events, oldest first.
RECENT: Final[tuple[tuple[str, FeatureType], ...]] = (
    (RECENT_PRODUCTS, "strings"),
    (RECENT_KINDS, "strings"),
    (RECENT_AT, "ints"),  # microseconds since 1970, UTC
    (RECENT_VALUES, "floats"),
)

_NAMED_BY_SHOPS: Final = (CUSTOMER_ATTRIBUTES, CUSTOMER_FACTS, PRODUCT_ATTRIBUTES, PRODUCT_FACTS)
#: Every view, whether or not a shop's tables fill it.
VIEWS: Final = SERVICES[RANKING_SERVICE]


def row_key(view: str, name: str) -> str:
    """Return how a feature is called in a row: what the shop named (attributes, facts) keeps its view."""
    return f"{view}.{name}" if view in _NAMED_BY_SHOPS else name
