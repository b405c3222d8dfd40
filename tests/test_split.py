"""The time cut: exact boundaries, nothing lost, nothing twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eval.split import Split, rolling_origins
from feature_repo.errors import ConfigError, DataError
from feature_repo.schema import AT, PRODUCT_ID

DAY = timedelta(days=1)
TICK = timedelta(microseconds=1)
START = datetime(2024, 1, 1, tzinfo=UTC)
SPLIT = Split(START + 10 * DAY, START + 20 * DAY, START + 30 * DAY)


def interactions(*instants: datetime) -> pd.DataFrame:
    return pd.DataFrame(
        {
            PRODUCT_ID: [f"p{i}" for i in range(len(instants))],
            AT: pd.Series(pd.to_datetime(list(instants), utc=True)),
        }
    )


def names(rows: pd.DataFrame) -> list[str]:
    return rows[PRODUCT_ID].tolist()


def test_a_boundary_belongs_to_the_later_window() -> None:
    frame = interactions(
        SPLIT.train_end - TICK,
        SPLIT.train_end,
        SPLIT.validation_end - TICK,
        SPLIT.validation_end,
        SPLIT.test_end - TICK,
        SPLIT.test_end,
    )
    assert names(SPLIT.train(frame)) == ["p0"]
    assert names(SPLIT.validation(frame)) == ["p1", "p2"]
    assert names(SPLIT.test(frame)) == ["p3", "p4"]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.integers(0, 60 * 86_400), min_size=2, max_size=40),
    st.integers(1, 20 * 86_400),
    st.integers(1, 20 * 86_400),
)
def test_windows_partition_the_rows_and_keep_their_order(
    seconds: list[int], horizon: int, validation: int
) -> None:
    frame = interactions(*(START + timedelta(seconds=s) for s in seconds))
    before = frame.copy()
    try:
        split = Split.last(
            frame[AT], horizon=timedelta(seconds=horizon), validation=timedelta(seconds=validation)
        )
    except DataError:
        assert max(seconds) - min(seconds) < horizon + validation
        return
    windows = [split.train(frame), split.validation(frame), split.test(frame)]
    rows = [row for window in windows for row in window.index]
    assert sorted(rows) == list(frame.index)
    assert all(window.index.is_monotonic_increasing for window in windows)
    assert not windows[0].empty
    assert not windows[2].empty
    pd.testing.assert_frame_equal(frame, before)


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_last_puts_the_last_interaction_into_the_test_window(unit: str) -> None:
    at = interactions(START, START + 40 * DAY, START + 15 * DAY)[AT].dt.as_unit(unit)
    end = START + 40 * DAY + TICK
    assert Split.last(at, horizon=7 * DAY) == Split(end - 14 * DAY, end - 7 * DAY, end)
    assert Split.last(at, horizon=7 * DAY, validation=3 * DAY) == Split(end - 10 * DAY, end - 7 * DAY, end)


def test_last_reads_nanoseconds_and_other_timezones() -> None:
    instants = pd.DatetimeIndex([1_704_067_200_000_000_000, 1_706_745_600_000_000_999], tz="UTC")
    at = pd.Series(instants.tz_convert("Asia/Tokyo"))  # 1 January, 1 February and 999 ns
    split = Split.last(at, horizon=DAY)
    assert split.test_end == datetime(2024, 2, 1, 0, 0, 0, 1, tzinfo=UTC)
    assert split.test_end.utcoffset() == timedelta(0)
    assert len(split.test(pd.DataFrame({AT: at}))) == 1


def test_last_keeps_exactly_one_train_row_or_refuses() -> None:
    at = interactions(START, START + 2 * DAY)[AT]
    whole = 2 * DAY + TICK
    assert Split.last(at, horizon=DAY, validation=whole - DAY - TICK).train_end == START + TICK
    for horizon, validation in [(DAY, whole - DAY), (whole, DAY), (timedelta.max, timedelta.max)]:
        with pytest.raises(DataError, match="empty train window"):
            Split.last(at, horizon=horizon, validation=validation)


@pytest.mark.parametrize("position", range(3))
def test_naive_and_foreign_instants_are_refused(position: int) -> None:
    instants = [SPLIT.train_end, SPLIT.validation_end, SPLIT.test_end]
    good = instants[position]
    for bad, why in [
        (good.replace(tzinfo=None), "naive"),
        (good.astimezone(timezone(timedelta(hours=2))), "UTC"),
        (pd.NaT, "naive"),
    ]:
        with pytest.raises(ConfigError, match=why):
            Split(*[bad if i == position else instant for i, instant in enumerate(instants)])


@pytest.mark.parametrize("order", [(0, 0, 1), (0, 1, 1), (1, 0, 2), (2, 1, 0)])
def test_instants_must_increase(order: tuple[int, int, int]) -> None:
    with pytest.raises(ConfigError, match="train_end < validation_end < test_end"):
        Split(*(START + days * DAY for days in order))


def test_lengths_must_be_positive() -> None:
    at = interactions(START, START + 40 * DAY)[AT]
    with pytest.raises(ConfigError, match="horizon must be a positive"):
        Split.last(at, horizon=timedelta(0))
    with pytest.raises(ConfigError, match="validation must be a positive"):
        Split.last(at, horizon=DAY, validation=-DAY)


def test_an_empty_train_window_stops_the_job() -> None:
    with pytest.raises(DataError, match="train window must hold interactions"):
        SPLIT.train(interactions(SPLIT.train_end))
    assert SPLIT.validation(interactions(START)).empty
    assert SPLIT.test(interactions(START)).empty


def test_unusable_columns_are_refused() -> None:
    frame = interactions(START, START + 40 * DAY)
    with pytest.raises(DataError, match="must have the column 'at'"):
        SPLIT.test(frame.drop(columns=AT))
    naive = frame.assign(**{AT: frame[AT].dt.tz_localize(None)})
    with pytest.raises(DataError, match="timezone-aware"):
        SPLIT.test(naive)
    with pytest.raises(DataError, match="timezone-aware"):
        Split.last(naive[AT], horizon=DAY)
    with pytest.raises(DataError, match="1 among 2"):
        SPLIT.test(frame.assign(**{AT: [frame[AT][0], pd.NaT]}))
    with pytest.raises(DataError, match="at least one interaction"):
        Split.last(frame[AT][:0], horizon=DAY)


# --- rolling ----------------------------------------------------------------------------------------------


def test_rolling_origins_by_hand() -> None:
    frame = interactions(START, START + 40 * DAY + timedelta(hours=9))
    found = rolling_origins(frame[AT], count=3, every=7 * DAY, horizon=7 * DAY)
    # the last window ends at the midnight after the last row, the 41st day
    assert [(o.at - START).days for o in found] == [20, 27, 34]
    assert [(o.end - START).days for o in found] == [27, 34, 41]
    assert all(o.at.utcoffset() == timedelta(0) for o in found)
    longer = rolling_origins(frame[AT], count=2, every=DAY, horizon=10 * DAY)
    assert [((o.at - START).days, (o.end - START).days) for o in longer] == [(30, 40), (31, 41)]


def test_a_short_history_has_fewer_origins_and_none_is_an_error() -> None:
    frame = interactions(START, START + 20 * DAY)
    found = rolling_origins(frame[AT], count=10, every=7 * DAY, horizon=7 * DAY)
    assert [(o.at - START).days for o in found] == [7, 14]  # before each lies at least a window's length
    with pytest.raises(DataError, match="more than 40 days"):
        rolling_origins(frame[AT], count=1, every=DAY, horizon=20 * DAY)
    with pytest.raises(ConfigError, match="at least one origin"):
        rolling_origins(frame[AT], count=0, every=DAY, horizon=DAY)
    with pytest.raises(ConfigError, match="whole days for horizon"):
        rolling_origins(frame[AT], count=1, every=DAY, horizon=timedelta(hours=30))
    with pytest.raises(DataError, match="found none"):
        rolling_origins(frame[AT].iloc[:0], count=1, every=DAY, horizon=DAY)
