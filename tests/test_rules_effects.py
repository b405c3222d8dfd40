"""What of rules has no effect, or hides all that it is about, is told; what they come to is counted."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from feature_repo import schema as s
from serving.rules import Rules
from serving.rules.describe import Described, described
from serving.rules.effects import Effects
from tests.builders import AT, make_bundle
from tests.rules_given import BUNDLE, IDS, file_of

ON_SALE = BUNDLE.catalog.on_sale(AT)
TEA = (BUNDLE.catalog.frame[s.CATEGORY] == "tea").to_numpy()
CUSTOMERS = [
    {"customer_attributes.limit": limit, "customer_attributes.region": "north"} for limit in (0.0, 2.0, 9.0)
]


def told(content: dict[str, Any], bundle: Any = BUNDLE) -> list[Described]:
    return described(Rules(file_of(content), bundle), bundle, at=AT, customers=CUSTOMERS)


@pytest.mark.parametrize(
    ("content", "warning"),
    [
        ({"price": [{"min": 100000.0}]}, f"it hides all {ON_SALE.sum()} products on sale that it is about"),
        ({"price": [{"product_id": ["zzz"], "max": 1.0}]}, 'the bundle has no product "zzz"'),
        (
            {"price": [{"product_id": ["zzz"], "max": 1.0}]},
            "about no product of the bundle, and hides nothing",
        ),
        (
            {"boost": [{"attributes": {"brand": ["Alto", "Nope"]}, "factor": 2.0}]},
            'no product has brand "Nope"',
        ),
        ({"boost": [{"factor": 2.0}]}, "every product moves alike"),
        ({"boost": [{"category": ["tea"], "factor": 1.0}]}, "a factor of 1 moves nothing"),
        (
            {"eligibility": [{"customer": "region", "one_of": ["cappital"], "category": ["tea"]}]},
            f"it hides all {(ON_SALE & TEA).sum()} products on sale that it is about, from each of 3 customers",
        ),
        (
            {"age": [{"born": "region", "min": 18.0}]},
            "of none of 3 customers looked at a day of birth in region",
        ),
        (
            {"cap": [{"at_most": 1, "segment": ["category:teas"]}]},
            'no segment is called "category:teas" (the nearest is "category:tea")',
        ),
        ({"cap": [{"at_most": 1, "ends_at": AT}]}, "it has ended (2026-03-01"),
        ({"cap": [{"at_most": 100}]}, "no answer has more than 100 products"),
        ({"diversity": [{"lambda": 1.0}]}, "a lambda of 1"),
        (
            {"diversity": [{"lambda": 0.5}, {"lambda": 0.2, "surface": ["home"]}]},
            "it has no effect: wherever it holds",
        ),
        ({"explore": [{"slots": [1, 1, 2], "epsilon": 0.1}]}, "slot 1 is named more than once"),
        ({"new": [{"at_least": 1, "days": 0.001}]}, "no product on sale was launched in the last 0.001 days"),
        ({"pin": [{"product_id": IDS[int(np.argmin(ON_SALE))], "slot": 1}]}, "it is not on sale now"),
        (
            {"pin": [{"product_id": IDS[1], "slot": 1}, {"product_id": IDS[2], "slot": 1}]},
            'it stands only where the product of "pin 0", which has slot 1, may not be shown',
        ),
        (
            {"pin": [{"product_id": IDS[1], "slot": 1}, {"product_id": IDS[1], "slot": 3}]},
            'it stands only where "pin 0" cannot put its product in slot 1',
        ),
    ],
)
def test_what_has_no_effect_is_told(content: dict[str, Any], warning: str) -> None:
    assert any(warning in one for row in told(content) for one in row.warnings)


def test_what_has_an_effect_is_not_warned_of() -> None:
    rows = told(
        {
            "price": [{"max": 20.0, "without_price": "show"}],
            "eligibility": [{"customer": "limit", "product": "stars", "compare": "at_most"}],
            "diversity": [{"lambda": 0.5, "surface": ["home"]}, {"lambda": 0.2}],
            "cap": [
                {"at_most": 2, "segment": ["category:tea", "rfm:recent-few"], "ends_at": AT + timedelta(1)}
            ],
            "explore": [{"slots": [1], "epsilon": 0.1, "ends_at": AT}, {"slots": [2], "epsilon": 0.1}],
        }
    )
    assert [row.warnings for row in rows if "ended" not in str(row.warnings)] == [()] * 6


def test_what_passes_is_counted_over_products_on_sale_and_customers() -> None:
    stars = BUNDLE.catalog.frame["stars"].to_numpy()
    eligible, new, explore = told(
        {
            "eligibility": [
                {"customer": "limit", "product": "stars", "compare": "at_most", "category": ["tea"]}
            ],
            "new": [{"at_least": 1, "days": 60.0}],
            "explore": [{"slots": [1], "epsilon": 0.1}],
        }
    )
    assert eligible.products == TEA.sum()
    assert eligible.shown == (0, int((ON_SALE & TEA & (stars <= 9.0)).sum()))
    assert (explore.products, explore.shown) == (ON_SALE.sum(), None)
    assert 0 < new.products < ON_SALE.sum()


def test_rules_that_hide_the_whole_shop_together_are_told() -> None:
    """Neither alone does; on mail both hold."""
    content = {"price": [{"max": 20.0}, {"min": 20.001, "surface": ["mail"]}]}
    warnings = Effects(Rules(file_of(content), BUNDLE), BUNDLE, AT, CUSTOMERS).together()
    assert len(warnings) == 2 and all("on mail" in one for one in warnings)
    content = {"eligibility": [{"customer": "limit", "min": 1.0}]}
    (warning,) = Effects(Rules(file_of(content), BUNDLE), BUNDLE, AT, CUSTOMERS).together()
    assert warning.startswith("a visitor of whom nothing is known is shown nothing")


def test_diversity_without_vectors_is_told() -> None:
    bundle = make_bundle(encoder="none", chain=("popular",))
    (row,) = told({"diversity": [{"lambda": 0.5}]}, bundle)
    assert row.warnings == ("the model has no vectors to tell unlike products by",)
