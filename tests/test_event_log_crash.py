"""Processes killed while they append: what was acknowledged is there once, the rest at most once, and others go on."""

from __future__ import annotations

import itertools
import signal
import subprocess

import pytest

from tests.event_stores import Store, everything, ids
from tests.event_writer import an_event


def killed(process: subprocess.Popen[bytes], *, after: int) -> list[str]:
    """Kill a process when it has printed so many lines; return all it printed: what was acknowledged."""
    assert process.stdout is not None
    lines = [process.stdout.readline() for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    rest, _ = process.communicate()
    assert process.returncode == -signal.SIGKILL, "it was still at work"
    return [line.decode() for line in [*lines, *rest.splitlines(keepends=True)] if line.endswith(b"\n")]


@pytest.mark.parametrize("after", [1, 50, 400])
def test_an_acknowledged_event_survives_the_kill_of_its_writer(event_store: Store, after: int) -> None:
    log = event_store.open()
    acknowledged: list[str] = []
    for name in ("first", "second"):
        process = event_store.process("events", name, 1_000_000, 4)
        told = [line.split() for line in killed(process, after=after)]
        assert all(new == "1" for _, new in told)
        acknowledged += [event_id for event_id, _ in told]
        assert log.append_events([an_event(f"{name} killed")]) == [True], "nobody waits for the dead"
    logged = ids(log)
    assert len(set(logged)) == len(logged)
    assert set(acknowledged) <= set(logged)
    for name, thread in itertools.product(("first", "second"), range(4)):
        own = [event_id for event_id in logged if event_id.startswith(f"{name}-{thread}-")]
        assert own == [f"{name}-{thread}-{number}" for number in range(len(own))], "in order, without a gap"
    again = log.append_events([an_event(event_id) for event_id in dict.fromkeys(acknowledged)])
    assert not any(again)
    times = [entry.logged_at for entry in everything(log)]
    assert all(earlier < later for earlier, later in itertools.pairwise(times))
