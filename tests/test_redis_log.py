"""The event log in Redis: refused unless durable, told when it fails, whole when it comes back."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from eval.redis_server import RedisServer
from serving.errors import ConfigError, EventLogUnavailable
from serving.events import EVENTS, KNOWN_DAYS, EventLog, open_log
from serving.events import redis_log as module
from tests.conftest import free_port
from tests.event_stores import everything, ids, until
from tests.event_writer import an_event


@pytest.fixture
def server(durable_redis: RedisServer) -> RedisServer:
    durable_redis.client.flushall()
    return durable_redis


@pytest.fixture
def log(server: RedisServer, tmp_path: Path) -> EventLog:
    return open_log(tmp_path, redis_url=server.url)


@pytest.fixture
def restored(server: RedisServer) -> Iterator[RedisServer]:
    """The server; what the test sets is set back."""
    kept = server.client.config_get("*")
    yield server
    for name in ("maxmemory", "maxmemory-policy", "save", "dbfilename"):
        server.client.config_set(name, kept[name])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appendonly", "no"),
        ("appendfsync", "everysec"),
        ("no_appendfsync_on_rewrite", "yes"),
        ("maxmemory_policy", "allkeys-lru"),
    ],
)
def test_a_redis_that_forgets_is_refused(tmp_path: Path, name: str, value: str) -> None:
    forgetful = RedisServer(tmp_path, **{name: value})
    try:
        setting = name.replace("_", "-")
        needed = module.DURABLE[setting]
        with pytest.raises(ConfigError, match=f"found {setting} {value}; set `{setting} {needed}`"):
            open_log(tmp_path, redis_url=forgetful.url)
        assert open_log(tmp_path, redis_url=forgetful.url, redis_durable=True).append_events(
            [an_event("a")]
        ) == [True]
        forgetful.client.config_set(setting, needed)
        assert open_log(tmp_path, redis_url=forgetful.url).append_events([an_event("a")]) == [False]
    finally:
        forgetful.kill()


def test_every_connection_is_checked(restored: RedisServer, log: EventLog) -> None:
    assert log.append_events([an_event("a")]) == [True]
    restored.client.config_set("maxmemory-policy", "allkeys-lru")
    restored.client.client_kill_filter(_type="normal", skipme=True)
    for _ in range(2):
        with pytest.raises(EventLogUnavailable, match="found maxmemory-policy allkeys-lru; set"):
            log.append_events([an_event("b")])
    restored.client.config_set("maxmemory-policy", "noeviction")
    assert log.append_events([an_event("b")]) == [True]


def test_where_config_is_forbidden_somebody_must_vouch(server: RedisServer, tmp_path: Path) -> None:
    server.client.execute_command("ACL", "SETUSER", "guest", "on", ">secret", "~*", "+@all", "-config")
    url = server.url.replace("redis://", "redis://guest:secret@")
    with pytest.raises(ConfigError, match=r"found .*permissions.*NEXTBEST_REDIS_DURABLE=true") as told:
        open_log(tmp_path, redis_url=url)
    assert all(f"{name} {value}" in str(told.value) for name, value in module.DURABLE.items())
    assert open_log(tmp_path, redis_url=url, redis_durable=True).append_events([an_event("a")]) == [True]
    with pytest.raises(ConfigError, match=r"to let us in, found .*; correct NEXTBEST_REDIS_URL") as told:
        open_log(tmp_path, redis_url=url.replace("secret", "wrong"))
    assert "wrong@" not in str(told.value)


def test_a_redis_that_is_not_there_yet_is_used_when_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr("eval.redis_server.free_port", lambda: port)
    log = open_log(tmp_path, redis_url=f"redis://127.0.0.1:{port}/0")
    for call in (lambda: log.append_events([an_event("a")]), lambda: ids(log), log.exposures_lost):
        with pytest.raises(
            EventLogUnavailable, match=f"expected the event log in Redis at 127.0.0.1:{port} to answer"
        ):
            call()
    late = RedisServer(tmp_path, appendfsync="everysec")
    try:
        with pytest.raises(EventLogUnavailable, match="found appendfsync everysec"):
            log.append_events([an_event("a")])
        late.client.config_set("appendfsync", "always")
        assert log.append_events([an_event("a")]) == [True]
    finally:
        late.kill()


def test_a_full_redis_writes_a_batch_whole_or_not_at_all(restored: RedisServer, log: EventLog) -> None:
    assert log.append_events([an_event("a")]) == [True]
    used = restored.client.info("memory")["used_memory"]
    restored.client.config_set("maxmemory", used + 300_000)
    batches = [[f"{batch}-{i}-{'x' * 300}" for i in range(100)] for batch in range(100)]
    acknowledged = ["a"]

    def append_all() -> None:
        for batch in batches:
            assert log.append_events([an_event(name) for name in batch]) == [True] * 100
            acknowledged.extend(batch)

    with pytest.raises(EventLogUnavailable, match=r"OOM|OutOfMemory"):
        append_all()
    assert len(acknowledged) > 100
    assert ids(log) == acknowledged, "readers go on"
    restored.client.config_set("maxmemory", 0)
    refused = batches[len(acknowledged) // 100]
    assert log.append_events([an_event(name) for name in refused]) == [True] * 100, "none of it was written"


def test_a_redis_that_cannot_save_is_told(restored: RedisServer, log: EventLog) -> None:
    directory = Path(restored.client.config_get("dir")["dir"])
    (directory / "in-the-way" / "of").mkdir(parents=True, exist_ok=True)
    restored.client.config_set("dbfilename", "in-the-way")
    restored.client.config_set("save", "3600 1")
    restored.client.bgsave()
    until(lambda: restored.client.info("persistence")["rdb_last_bgsave_status"] == "err")
    with pytest.raises(EventLogUnavailable, match="MISCONF"):
        log.append_events([an_event("a")])
    restored.client.config_set("save", "")
    assert log.append_events([an_event("a")]) == [True]


def test_a_redis_that_hangs_is_told_and_nothing_is_doubled(
    server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_ANSWER_SECONDS", 0.2)
    log = open_log(tmp_path, redis_url=server.url)
    log.append_events([an_event("a")])
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for _ in range(2):
            with pytest.raises(EventLogUnavailable, match="Timeout"):
                log.append_events([an_event("b"), an_event("c")])
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    log.append_events([an_event("b"), an_event("c")])
    assert ids(log) == ["a", "b", "c"]


class Proxy:
    """Stands between a client and Redis; told to cut, it loses the next answer to a script with the connection."""

    def __init__(self, url: str) -> None:
        self._to = int(url.rpartition(":")[2].partition("/")[0])
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"
        self.is_cutting = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self._listener.accept()
            threading.Thread(target=self._forward, args=(client,), daemon=True).start()

    def _forward(self, client: socket.socket) -> None:
        asked = b""
        with client, socket.create_connection(("127.0.0.1", self._to)) as server:
            while True:
                for source in select.select([client, server], [], [])[0]:
                    data = source.recv(65536)
                    if not data:
                        return
                    if source is server and self.is_cutting and b"EVALSHA" in asked:
                        self.is_cutting = False
                        return
                    if source is client:
                        asked = data
                    (server if source is client else client).sendall(data)


def test_a_lost_answer_is_told_not_tried_again_in_secret(server: RedisServer, tmp_path: Path) -> None:
    """A second try would answer that events are known which nobody was ever told are new."""
    proxy = Proxy(server.url)
    log = open_log(tmp_path, redis_url=proxy.url)
    assert log.append_events([an_event("a")]) == [True]
    proxy.is_cutting = True
    with pytest.raises(EventLogUnavailable, match="ConnectionError"):
        log.append_events([an_event("b")])
    assert log.append_events([an_event("b"), an_event("c")]) == [False, True]
    assert ids(log) == ["a", "b", "c"]


def test_a_script_that_redis_forgot_is_given_again(server: RedisServer, log: EventLog) -> None:
    log.append_events([an_event("a")])
    server.client.script_flush()
    assert log.append_events([an_event("a"), an_event("b")]) == [False, True]


def test_ids_are_known_for_their_time(server: RedisServer, log: EventLog) -> None:
    log.append_events([an_event("a")])
    seconds = server.client.ttl("{nextbest}:known:a")
    assert KNOWN_DAYS * 86_400 - 60 < seconds <= KNOWN_DAYS * 86_400
    assert all(b"{nextbest}" in key for key in server.client.keys("*"))


def test_events_survive_the_kill_of_redis(tmp_path: Path) -> None:
    """Redis is killed while threads append; each repeats what was not acknowledged until it is."""
    server = RedisServer(tmp_path)
    log = open_log(tmp_path, redis_url=server.url)
    failures = []
    stop = threading.Event()
    appended: dict[int, list[str]] = {i: [] for i in range(4)}

    def append(thread: int) -> None:
        for number in range(100_000):
            names = [f"{thread}-{number}-{i}" for i in range(3)]
            while True:
                try:
                    answers = log.append_events([an_event(name) for name in names])
                    break
                except EventLogUnavailable as error:
                    failures.append(error)
                    time.sleep(0.01)
            assert len(set(answers)) == 1, "a batch is whole"
            appended[thread] += names
            if stop.is_set():
                return

    threads = [threading.Thread(target=append, args=(i,)) for i in appended]
    try:
        for thread in threads:
            thread.start()
        for _ in range(3):
            time.sleep(0.2)
            server.kill()
            server.start()
        time.sleep(0.1)
        stop.set()
        for thread in threads:
            thread.join(timeout=30)
        logged = ids(log)
        assert failures
        assert sorted(logged) == sorted(name for names in appended.values() for name in names)
        for thread, names in appended.items():
            assert [name for name in logged if name.startswith(f"{thread}-")] == names
        assert redis.Redis.from_url(server.url).xlen("{nextbest}:events") == len(everything(log, EVENTS))
    finally:
        stop.set()
        server.kill()


def test_serving_on_a_redis_that_forgets_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "events").mkdir()
    (tmp_path / "events" / "events.db").touch()
    monkeypatch.setenv("NEXTBEST_HOME", str(tmp_path))
    forgetful = RedisServer(tmp_path, appendonly="no")
    try:
        monkeypatch.setenv("NEXTBEST_REDIS_URL", forgetful.url)
        done = subprocess.run(
            [str(Path(sys.executable).with_name("nextbest")), "serve", "--port", str(free_port())],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    finally:
        forgetful.kill()
    assert done.returncode == 2
    assert "found appendonly no; set `appendonly yes`" in done.stderr
    assert "events.db are not served with NEXTBEST_REDIS_URL set" in done.stderr
    assert "Traceback" not in done.stderr
