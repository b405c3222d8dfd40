"""The consumer's state is the pure fold of the log: for any grouping, crash and repetition; in SQLite and in Redis."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_repo import schema as s
from feature_repo.names import HISTORY_LENGTH
from serving.errors import FeatureUnavailable
from serving.events import DISMISS, IMPRESSION, EventLog, open_log
from serving.events import EVENTS as LOGGED
from serving.events.consumer import BATCH, Consumer, ConsumerThread
from serving.events.fold import Lines, folded, key_of, line_of, merged, session_key
from serving.events.records import Event
from serving.events.states import SqliteStates, States
from tests.served_home import until

START = 1_780_000_000_000_000


class Shelf:
    """The online rows, in memory; ``fails`` says before how many more writes it breaks, and whether after writing."""

    def __init__(self, rows: Mapping[str, Lines]) -> None:
        self.held = dict(rows)
        self.stamps: dict[str, int] = {}
        self.fails: list[str] = []

    def read(self, keys: Sequence[str]) -> dict[str, Lines]:
        self._maybe("read")
        return {key: self.held[key] for key in keys if key in self.held}

    def write(self, histories: Mapping[str, Lines], stamps: Mapping[str, int]) -> None:
        self._maybe("before")
        for key, lines in histories.items():
            assert stamps[key] >= self.stamps.get(key, 0), "no row is replaced by an older one"
            self.held[key], self.stamps[key] = lines, stamps[key]
        self._maybe("after")

    def remove(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.held.pop(key, None)

    def _maybe(self, when: str) -> None:
        if self.fails and self.fails[0] == when:
            self.fails.pop(0)
            raise FeatureUnavailable("planted")


@pytest.fixture
def own_redis(redis_url: str) -> Iterator[str]:
    """A database of the real Redis for these tests alone, empty."""
    url = f"{redis_url.rpartition('/')[0]}/5"
    with redis.Redis.from_url(url) as client:
        client.flushdb()
        yield url
        client.flushdb()


def event(
    number: int, *, who: str = "a", at: int = START, kind: str = s.PURCHASE, product: str = "p"
) -> Event:
    customer, session = (None, who[1:]) if who.startswith("~") else (who, None)
    return Event(f"e{number}", kind, at, product, customer_id=customer, session_id=session, value=1.0)


def pure(base: Mapping[str, Lines], events: Sequence[Event]) -> dict[str, Lines]:
    """The definition, from scratch: all lines of a key by time, base before log, log in order; the last fifty."""
    found = {key: list(lines) for key, lines in base.items()}
    for one in events:
        if one.kind in (IMPRESSION, DISMISS):
            continue
        key = one.customer_id if one.customer_id is not None else session_key(str(one.session_id))
        lines = found.setdefault(key, [])
        line = (one.at, one.product_id, one.kind, one.value)
        if line not in lines:
            lines.append(line)
    return {
        key: tuple(sorted(lines, key=lambda line: line[0])[-HISTORY_LENGTH:]) for key, lines in found.items()
    }


@contextmanager
def opened(kind: str, redis_url: str) -> Iterator[tuple[EventLog, Path]]:
    with tempfile.TemporaryDirectory() as directory:
        ticks = itertools.count(START)
        log = open_log(
            Path(directory),
            redis_url=redis_url if kind == "redis" else None,
            redis_durable=True,
            clock=lambda: next(ticks),
        )
        try:
            yield log, Path(directory)
        finally:
            log.close()


def states_of(kind: str, directory: Path, redis_url: str) -> States:
    if kind == "sqlite":
        return SqliteStates(directory / "state.db")
    from serving.events.redis_states import RedisStates

    return RedisStates(redis_url)


EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b", "c", "~s", "~t"]),
        st.integers(0, 6),  # few instants, so that many are equal
        st.sampled_from([*s.KINDS, IMPRESSION, DISMISS]),
        st.sampled_from(["p", "q", "r"]),
    ),
    max_size=60,
)


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    told=EVENTS,
    held=EVENTS,
    cuts=st.lists(st.integers(1, 12), min_size=1, max_size=20),
    crashes=st.lists(st.sampled_from(["read", "before", "after", "restart", ""]), max_size=20),
    repeats=st.booleans(),
)
def test_state_is_the_pure_fold_of_the_log(
    kind: str,
    own_redis: str,
    told: list[tuple[str, int, str, str]],
    held: list[tuple[str, int, str, str]],
    cuts: list[int],
    crashes: list[str],
    repeats: bool,
) -> None:
    events = [
        event(number, who=who, at=START + at, kind=what, product=product)
        for number, (who, at, what, product) in enumerate(told)
    ]
    base = pure({}, [event(0, who=w, at=START + at, kind=k, product=p) for w, at, k, p in held])
    with opened(kind, own_redis) as (log, directory):
        shelf, ticks = Shelf(base), itertools.count(START)
        consumer = Consumer(log, states_of(kind, directory, own_redis), shelf, clock=lambda: next(ticks))
        queue, plan, sizes = list(events), iter(crashes), itertools.cycle(cuts)
        while queue:
            size = next(sizes)
            log.append_events(queue[:size])
            if repeats:
                log.append_events(queue[: size // 2 + 1])
            del queue[:size]
            crash = next(plan, "")
            if crash in ("read", "before", "after"):
                shelf.fails.append(crash)
            try:
                consumer.step()
            except FeatureUnavailable:
                crash = "restart"
            if crash == "restart":
                consumer.close()
                consumer = Consumer(
                    log, states_of(kind, directory, own_redis), shelf, clock=lambda: next(ticks)
                )
        shelf.fails.clear()
        while consumer.step():
            pass
        consumer.step()
        assert shelf.held == {**base, **pure(base, events)}
        assert consumer.step() == 0
        before = dict(shelf.held)
        consumer.rebuild([{key: base[key]} for key in sorted(base)])
        assert shelf.held == before, "a clean replay over the tables gives the same rows"
        assert consumer.step() == 0
        consumer.close()
        if kind == "redis":
            with redis.Redis.from_url(own_redis) as client:
                client.flushdb()


@given(held=EVENTS, told=EVENTS)
@settings(max_examples=200, deadline=None)
def test_fold_is_the_definition(
    held: list[tuple[str, int, str, str]], told: list[tuple[str, int, str, str]]
) -> None:
    events = [
        event(number, who=who, at=START + at, kind=what, product=product)
        for number, (who, at, what, product) in enumerate([*held, *told])
    ]
    rows: dict[str, Lines] = {}
    for one in events:
        if (key := key_of(one)) is not None:
            rows[key] = folded(rows.get(key, ()), line_of(one))
    assert rows == pure({}, events)


def test_only_the_last_fifty_stay_and_late_ones_find_their_place() -> None:
    lines: Lines = ()
    for number in range(HISTORY_LENGTH + 5):
        lines = folded(lines, (START + 10 * number, f"p{number}", s.VIEW, 0.0))
    assert len(lines) == HISTORY_LENGTH
    assert lines[0][1] == "p5"
    late = folded(lines, (START + 105, "late", s.VIEW, 0.0))
    assert [line[1] for line in late].index("late") == 5
    assert late[0][1] == "p6"
    assert folded(lines, (START, "too old", s.VIEW, 0.0)) == lines
    assert merged(lines, lines) == lines


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_one_consumer_by_lease(kind: str, own_redis: str) -> None:
    with opened(kind, own_redis) as (log, directory):
        first, second = (
            Consumer(log, states_of(kind, directory, own_redis), Shelf({}), clock=lambda: START)
            for _ in range(2)
        )
        log.append_events([event(1)])
        assert first.step() == 1
        assert second.step() is None
        first.close()
        assert second.step() == 0, "what was folded stays folded"
        second.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_running_consumer_gives_way_to_a_rebuild_and_comes_back(kind: str, own_redis: str) -> None:
    with opened(kind, own_redis) as (log, directory):
        shelf, ticks = Shelf({}), itertools.count(START)
        running, job = (
            Consumer(log, states_of(kind, directory, own_redis), shelf, clock=lambda: next(ticks))
            for _ in range(2)
        )
        log.append_events([event(1)])
        thread = ConsumerThread(running, poll_seconds=0.01)
        thread.start()
        until(lambda: "a" in shelf.held)
        assert job.rebuild([{"a": ((START - 5, "from the tables", s.VIEW, 0.0),)}]) == 1
        assert [line[1] for line in shelf.held["a"]] == ["from the tables", "p"]
        job.close()
        log.append_events([event(2, who="b")])
        until(lambda: "b" in shelf.held)
        thread.stop()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_pages_of_pushes_miss_no_row(kind: str, own_redis: str) -> None:
    """A consumer that could not push for long pushes everything, though pages cut commits."""
    with opened(kind, own_redis) as (log, directory):
        shelf = Shelf({})
        states = states_of(kind, directory, own_redis)
        assert states.lease()
        keys = [f"c{number:05d}" for number in range(5 * BATCH + 7)]
        for place, start in enumerate(range(0, len(keys), 300)):  # pages do not end with commits
            rows = dict.fromkeys(keys[start : start + 300], ((START, "p", s.VIEW, 0.0),))
            states.commit(rows, offset=None, stamp=START + place)
        consumer = Consumer(log, states, shelf, clock=lambda: START)
        assert consumer.step() == 0
        assert sorted(shelf.held) == keys
        consumer.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_sessions_end_a_day_later_and_customers_stay(kind: str, own_redis: str) -> None:
    with opened(kind, own_redis) as (log, directory):
        shelf, now = Shelf({}), [START]
        consumer = Consumer(log, states_of(kind, directory, own_redis), shelf, clock=lambda: now[0])
        log.append_events([event(1, who="~s"), event(2, who="a")])
        assert consumer.step() == 2
        now[0] += 23 * 3_600 * 1_000_000
        assert consumer.sweep() == 0
        now[0] += 2 * 3_600 * 1_000_000
        assert consumer.sweep() == 1
        assert set(shelf.held) == {"a"}
        consumer.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_what_is_old_and_folded_is_trimmed(kind: str, own_redis: str) -> None:
    with opened(kind, own_redis) as (log, directory):
        shelf = Shelf({})
        consumer = Consumer(log, states_of(kind, directory, own_redis), shelf, clock=lambda: START)
        log.append_events([event(number) for number in range(4)])
        entries = log.read(LOGGED, after=None, limit=10)
        assert consumer.trim(2**53) == 0, "nothing is folded yet"
        assert consumer.step() == 4
        log.append_events([event(4)])
        assert consumer.trim(entries[1].logged_at) == 1
        assert consumer.trim(2**53) == 3, "what is not folded stays, however old"
        assert consumer.step() == 1
        assert len(shelf.held["a"]) == 1
        consumer.close()


def test_chores_are_done_however_busy_the_consumer_is() -> None:
    """Old sessions end and chores are done beside a log that never runs dry."""
    old = 25 * 3_600 * 1_000_000
    with opened("sqlite", "") as (log, directory):
        shelf, now, chores = Shelf({}), [START], []
        states = states_of("sqlite", directory, "")
        consumer = Consumer(log, states, shelf, clock=lambda: now[0])
        sessions = [event(number, who=f"~{number}") for number in range(2 * BATCH + 3)]
        log.append_events(sessions)
        while consumer.step():
            pass
        now[0] += old
        numbers = itertools.count(len(sessions))
        step = consumer.step

        def busy() -> int | None:
            log.append_events([event(next(numbers), who="busy", at=START + next(numbers))])
            return step()

        consumer.step = busy  # type: ignore[method-assign]
        thread = ConsumerThread(
            consumer, poll_seconds=0.001, chores=lambda: chores.append(1), chore_seconds=0.05
        )
        thread.start()
        until(lambda: set(shelf.held) == {"busy"} and len(chores) > 4)
        thread.stop()
