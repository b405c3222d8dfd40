"""A process that appends to an event log until it is done or killed; run by the tests of the log.

``events DIRECTORY URL NAME COUNT THREADS`` appends, in each thread, batches of one to three events named
``NAME-<thread>-<number>`` and prints each acknowledged event with the answer. ``exposures DIRECTORY URL NAME SECONDS``
adds exposures for ever, written every so many seconds, and prints after each how many were taken. URL is ``-`` for
SQLite.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
from pathlib import Path

from serving.events import EventLog, ExposureBuffer, open_log
from serving.events.records import Event, Exposure, Shown


def an_event(event_id: str) -> Event:
    return Event(event_id, "view", 1, "p1", customer_id="c1")


def an_exposure(request_id: str) -> Exposure:
    return Exposure(request_id, 1, "c1", None, "home", "e", "a", "v1", (Shown("p1", 0.5, "popular", 1.0),))


def append(log: EventLog, name: str, count: int) -> None:
    number = 0
    for size in itertools.cycle((1, 2, 3)):
        if number >= count:
            return
        ids = [f"{name}-{i}" for i in range(number, min(number + size, count))]
        answers = log.append_events([an_event(event_id) for event_id in ids])
        told = "".join(f"{event_id} {int(new)}\n" for event_id, new in zip(ids, answers, strict=True))
        os.write(1, told.encode())  # at once and whole
        number += size


def main(what: str, directory: str, url: str, name: str, *more: str) -> None:
    log = open_log(Path(directory), redis_url=None if url == "-" else url)
    if what == "events":
        count, workers = map(int, more)
        threads = [threading.Thread(target=append, args=(log, f"{name}-{i}", count)) for i in range(workers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    else:
        buffer = ExposureBuffer(
            log, Path(directory) / "exposures", flush_seconds=float(more[0]), capacity=10**9
        )
        buffer.start()
        for number in itertools.count():
            assert buffer.add(an_exposure(f"{name}-{number}"))
            os.write(1, f"{buffer.taken}\n".encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
