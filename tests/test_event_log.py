"""The event log: one contract that SQLite and Redis keep, whole or not at all, in order, once."""

from __future__ import annotations

import itertools
import time
import uuid

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from serving.errors import DataError
from serving.events import (
    CHANGES,
    EVENTS,
    EXPOSURES,
    FEEDBACK_KINDS,
    KNOWN_DAYS,
    Change,
    Event,
    Exposure,
    Shown,
)
from tests.event_stores import Store, everything, ids
from tests.event_writer import an_event, an_exposure

DAY = 86_400_000_000


class Clock:
    """A clock that the test sets; it stands still by itself."""

    def __init__(self, micros: int = 1_800_000_000_000_000) -> None:
        self.micros = micros

    def __call__(self) -> int:
        return self.micros


# records ----------------------------------------------------------------------------------------------------------

RECORDS = [
    Event("e1", "purchase", 1_800_000_000_000_001, "p1", customer_id="c1", value=12.5, request_id="r1"),
    Event("e\0 \n'\"ü", "dismiss", -1, "p", session_id="s1"),
    Change("product", "p1", {"price": 3.5, "available": False, "attributes": {"colour": None}}, 5),
    Change("customer", "c1", {"consent_email": True}, 6),
    Exposure("r1", 7, None, "s1", None, None, None, "v1", ()),
    Exposure(
        "r2",
        8,
        "c1",
        None,
        "home",
        "e",
        "b",
        "v1",
        (Shown("p2", -0.1, "new"), Shown("p1", 9.0, "popular", 1.0)),
        conditions='{"exclude":["p3"]}',
    ),
]


@pytest.mark.parametrize("record", RECORDS)
def test_a_record_comes_back_from_json(record: Event | Change | Exposure) -> None:
    assert type(record).from_json(record.to_json()) == record


def test_fields_of_a_later_version_are_passed_over() -> None:
    later = b'{"event_id":"e1","kind":"view","at":1,"product_id":"p1","mood":"good"}'
    assert Event.from_json(later) == Event("e1", "view", 1, "p1")


@pytest.mark.parametrize("wrong", [{"event_id": ""}, {"kind": "sneeze"}, {"value": float("nan")}])
def test_an_event_that_nobody_could_read_is_refused(wrong: dict[str, object]) -> None:
    given: dict[str, object] = {"event_id": "e1", "kind": "view", "at": 1, "product_id": "p1"}
    with pytest.raises(DataError, match="expected"):
        Event(**{**given, **wrong})  # type: ignore[arg-type]
    assert [Event("e1", kind, 1, "p1").kind for kind in FEEDBACK_KINDS] == list(FEEDBACK_KINDS)


def test_a_stored_record_that_is_none_is_told_with_its_place() -> None:
    for raw in ("{", "{}", "[1]", '{"event_id":"e","kind":"sneeze","at":1,"product_id":"p"}'):
        with pytest.raises(DataError, match="record of events at offset 77"):
            EVENTS.entry(77, raw)


# the contract -----------------------------------------------------------------------------------------------------


def test_all_records_come_back_in_order(event_store: Store) -> None:
    log = event_store.open()
    assert log.append_events([RECORDS[0], RECORDS[1]]) == [True, True]  # type: ignore[list-item]
    log.append_changes([RECORDS[2], RECORDS[3]])  # type: ignore[list-item]
    log.append_exposures([RECORDS[4], RECORDS[5]], writer="w", after=0)  # type: ignore[list-item]
    streams = (EVENTS, CHANGES, EXPOSURES)
    found = [entry.record for stream in streams for entry in everything(log, stream)]
    assert found == RECORDS


def test_nothing_appended_is_nothing(event_store: Store) -> None:
    log = event_store.open()
    assert log.append_events([]) == []
    log.append_changes([])
    log.append_exposures([], writer="w", after=0)
    assert everything(log) == everything(log, CHANGES) == everything(log, EXPOSURES) == []
    assert log.trim(EVENTS, before=2**62) == 0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(st.text(min_size=1, max_size=2), max_size=6), max_size=6), data=st.data())
def test_batches_with_repeats_leave_each_event_once(
    event_store: Store,
    batches: list[list[str]],
    data: st.DataObject,
) -> None:
    log = event_store.open()
    entries = everything(log)
    mark = entries[-1].offset if entries else None
    own = uuid.uuid4().hex
    sent = [f"{own}{name}" for batch in batches for name in batch]
    answers = [
        answer
        for batch in batches
        for answer in log.append_events([an_event(f"{own}{name}") for name in batch])
    ]
    assert answers == [name not in sent[:place] for place, name in enumerate(sent)]
    cuts = sorted(data.draw(st.lists(st.integers(0, len(sent)), max_size=3)))
    for start, end in itertools.pairwise([0, *cuts, len(sent)]):
        again = log.append_events([an_event(name) for name in sent[start:end]])
        assert not any(again), "in whatever grouping they are repeated"
    logged = [entry.record.event_id for entry in log.read(EVENTS, after=mark, limit=1000)]
    assert logged == list(dict.fromkeys(sent))
    log.close()


def test_the_first_of_a_name_stays(event_store: Store) -> None:
    log = event_store.open()
    first, second = Event("e", "view", 1, "p1"), Event("e", "purchase", 2, "p2")
    assert log.append_events([first, second]) == [True, False]
    assert log.append_events([second]) == [False]
    assert [entry.record for entry in everything(log)] == [first]


def test_pages_of_any_size_are_the_whole(event_store: Store) -> None:
    log = event_store.open()
    log.append_events([an_event(f"e{i}") for i in range(23)])
    whole = everything(log)
    for size in (1, 5, 23, 40):
        pages, after = [], None
        while page := log.read(EVENTS, after=after, limit=size):
            assert len(page) <= size
            pages += page
            after = page[-1].offset
        assert pages == whole


@pytest.mark.parametrize("offset", ["", "x", "-1", "1.5", "１"])
def test_what_is_no_offset_is_told(event_store: Store, offset: str) -> None:
    with pytest.raises(DataError, match="expected an offset"):
        event_store.open().read(EVENTS, after=offset, limit=1)


def test_log_time_goes_on_whatever_the_clock_does(event_store: Store) -> None:
    clock = Clock()
    log = event_store.open(clock)
    log.append_events([an_event("a"), an_event("b")])
    clock.micros -= 5 * DAY
    log.append_events([an_event("c")])
    log.append_changes([RECORDS[2]])  # type: ignore[list-item]
    start = clock.micros + 5 * DAY
    assert [entry.logged_at for entry in everything(log)] == [start, start + 1, start + 2]
    assert everything(log, CHANGES)[0].logged_at == clock.micros, "each stream has its own order"
    end = everything(log)[-1].offset
    assert log.trim(EVENTS, before=start + DAY) == 3
    assert event_store.open(clock).append_events([an_event("d")]) == [True]
    assert [entry.logged_at for entry in log.read(EVENTS, after=end, limit=9)] == [start + 3], (
        "nor after a trim"
    )
    clock.micros += 10 * DAY
    log.append_events([an_event("e")])
    assert everything(log)[-1].logged_at == clock.micros


def test_trim_removes_what_is_older_and_nothing_else(event_store: Store) -> None:
    clock = Clock()
    log = event_store.open(clock)
    for name in "abcd":
        log.append_events([an_event(name)])
        clock.micros += 10
    log.append_changes([RECORDS[2]])  # type: ignore[list-item]
    entries = everything(log)
    assert log.trim(EVENTS, before=entries[2].logged_at) == 2
    assert everything(log) == entries[2:]
    assert log.read(EVENTS, after=entries[0].offset, limit=9) == entries[2:], "old offsets still read on"
    assert log.trim(EVENTS, before=entries[2].logged_at) == 0
    assert len(everything(log, CHANGES)) == 1


def test_a_trimmed_event_stays_known(event_store: Store) -> None:
    clock = Clock()
    log = event_store.open(clock)
    log.append_events([an_event("a")])
    clock.micros += (KNOWN_DAYS - 1) * DAY
    assert log.trim(EVENTS, before=clock.micros) == 1
    assert log.append_events([an_event("a"), an_event("b")]) == [False, True]
    assert ids(log) == ["b"]


@pytest.mark.parametrize("bad", [{"x": object()}, {"x": "\ud800"}, {1: "x"}, {"x": 2**70}])
def test_a_batch_with_a_record_that_is_no_json_writes_nothing(
    event_store: Store, bad: dict[str, object]
) -> None:
    log = event_store.open()
    with pytest.raises(DataError, match="expected a record that JSON can hold"):
        log.append_changes([Change("product", "p1", {}, 1), Change("product", "p2", bad, 1)])
    with pytest.raises(DataError):
        log.append_events([an_event("a"), an_event("\ud800")])
    assert everything(log) == everything(log, CHANGES) == []
    assert log.append_events([an_event("a")]) == [True]


def test_exposures_are_written_once_however_they_are_repeated(event_store: Store) -> None:
    log = event_store.open()
    shown = [an_exposure(f"r{i}") for i in range(6)]
    log.append_exposures(shown[:2], writer="w", after=0)
    log.append_exposures(shown[:2], writer="w", after=0)
    log.append_exposures(shown[1:5], writer="w", after=1)
    log.append_exposures(shown[:1], writer="other", after=0)
    log.append_exposures(shown[5:], writer="w", after=5)
    written = [entry.record.request_id for entry in everything(log, EXPOSURES)]
    assert written == ["r0", "r1", "r2", "r3", "r4", "r0", "r5"]


def test_a_loss_counts_once_and_closes_the_account(event_store: Store) -> None:
    log = event_store.open()
    shown = [an_exposure(f"r{i}") for i in range(5)]
    log.append_exposures(shown[:2], writer="w", after=0)
    assert log.exposures_lost() == 0
    assert log.settle_exposures("w", taken=5) == 3
    assert log.settle_exposures("w", taken=5) == 0
    assert log.settle_exposures("never wrote", taken=4) == 4
    log.append_exposures(shown[2:], writer="w", after=2)
    assert len(everything(log, EXPOSURES)) == 2, "late ones would be both lost and there"
    assert log.exposures_lost() == 7
    assert event_store.open().exposures_lost() == 7


def test_threads_and_processes_at_once(event_store: Store) -> None:
    """Three processes of three threads append the same events: each is new for one of them, once, in one order."""
    count, threads = 120, 3
    processes = [event_store.process("events", "same", count, threads) for _ in range(3)]
    log = event_store.open()  # whoever comes first makes it
    tail, told = [], []
    while len(tail) < count * threads and any(process.poll() is None for process in processes):
        tail += log.read(EVENTS, after=tail[-1].offset if tail else None, limit=7)
    for process in processes:
        output, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        told += [line.split() for line in output.decode().splitlines()]
    whole = everything(log)
    tail += log.read(EVENTS, after=tail[-1].offset if tail else None, limit=10_000)
    assert tail == whole, "who reads on while others write misses nothing and sees nothing twice"
    expected = {f"same-{thread}-{i}" for thread in range(threads) for i in range(count)}
    assert sorted(entry.record.event_id for entry in whole) == sorted(expected)
    assert len(told) == 3 * len(expected)
    assert sorted(name for name, new in told if new == "1") == sorted(expected)
    times = [entry.logged_at for entry in whole]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
    assert times[-1] <= time.time_ns() // 1000
