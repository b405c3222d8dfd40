"""Live changes over a bundle: what fits is taken up, what does not fit hurts nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from feature_repo import names as v
from feature_repo import schema as s
from feature_repo.recent import to_micros
from serving.catalog import Filters
from serving.events import Change, open_log
from serving.features import CustomerState, FeatureReader, FrameReader, Kind
from serving.overlay import Overlay
from tests.builders import AT, make_bundle


def test_values_of_another_type_keep_nothing_else_from_its_place(tmp_path: Path) -> None:
    bundle = make_bundle()
    catalog, as_published = bundle.catalog, bundle.catalog.frame.copy()
    product, row = "p003", catalog.index["p003"]
    log = open_log(tmp_path / "events")
    at = to_micros(AT)
    log.append_changes(
        [
            Change("product", product, {"available": 3, "eco": 3, "stars": "five", "price": "?"}, at),
            Change(
                "product", product, {"colour": "red", "stars": 2, "eco": True, "price": 7, "brand": 5}, at
            ),
        ]
    )
    overlay = Overlay(log, poll_seconds=1.0)
    overlay.attach(bundle)
    found = catalog.described(row)
    assert (found["stars"], found["eco"], found[s.PRICE], found["brand"]) == (2.0, True, 7.0, 5)
    assert "colour" not in catalog.frame
    others = np.arange(len(catalog)) != row
    for name in as_published:
        pd.testing.assert_series_equal(
            catalog.frame[name][others], as_published[name][others], check_dtype=False
        )
    stars = catalog.matching(Filters(attributes=(("stars", (4,)),)))
    assert np.array_equal(stars, (as_published["stars"] == 4).to_numpy() & others)
    assert catalog.matching(Filters(price_min=7.0, price_max=7.0))[row]
    log.append_changes([Change("product", product, {"available": False}, at)])
    overlay.look()
    assert not catalog.on_sale(AT)[row]
    log.close()


def test_of_customers_too_only_what_fits_counts_and_null_is_not_known(tmp_path: Path) -> None:
    """A rule that asks for the region would else hide products from somebody whose region became a number."""
    kinds: dict[str, Kind] = {"region": "a text", "age": "a number"}

    class Typed(FrameReader):
        attributes: Mapping[str, Kind] = kinds

    region, age = (v.row_key(v.CUSTOMER_ATTRIBUTES, name) for name in kinds)
    reader: FeatureReader = Typed({"c1": CustomerState({region: "north", age: 40.0, "visits": 3.0})})
    log = open_log(tmp_path / "events")
    overlay = Overlay(log, poll_seconds=1.0)

    def told(**values: object) -> dict[str, object]:
        log.append_changes([Change("customer", "c1", values, to_micros(AT))])
        overlay.look()
        return dict(overlay.reader(reader, 0).read(["c1"], AT)[0].row)

    assert told(region=5, age="old") == {region: "north", age: 40.0, "visits": 3.0}
    assert told(region=None, age=41) == {age: 41, "visits": 3.0}
    assert told(region="south") == {region: "south", age: 41, "visits": 3.0}
    log.close()
