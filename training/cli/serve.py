"""``nextbest serve``: the service in the foreground.

The process becomes BentoML's supervisor instead of starting it as a child: signals and the exit code are
then its own, and killing it leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import os
import sys
from ipaddress import ip_address
from typing import Annotated

import typer

from serving.errors import BundleError, ConfigError
from serving.events.live import event_log
from serving.live import Live
from serving.process import check_port, command, environment
from serving.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command("serve")(serve_command)


def serve_command(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")] = 3000,
    host: Annotated[str, typer.Option(help="IP address to listen on.")] = "127.0.0.1",
    workers: Annotated[int, typer.Option(min=1, max=256, help="Worker processes.")] = 1,
) -> None:
    """Serve recommendations over HTTP; ready once something is published, follows what is live."""
    settings = Settings.load()
    try:
        address = ip_address("127.0.0.1" if host == "localhost" else host)
    except ValueError as error:
        raise ConfigError(
            f"expected an IP address for --host, found {host!r}; use 127.0.0.1 or 0.0.0.0"
        ) from error
    check_port(str(address), port)
    if not settings.bentoml_home.is_dir():  # BentoML would fail over it with a traceback
        settings.bentoml_home.mkdir(parents=True)
    if not address.is_loopback and not settings.api_keys:
        sys.stderr.write("no NEXTBEST_API_KEYS are set: only requests from this machine will be answered\n")
        sys.stderr.flush()
    _check_log(settings)
    _check_slot(settings)
    served = command(host=str(address), port=port)
    os.execve(served[0], served, environment(settings, workers=workers))


def _check_slot(settings: Settings) -> None:
    """Say so where nothing is live in the slot; the service starts all the same, and is ready once something is."""
    with contextlib.suppress(BundleError):  # told by the workers, which go on looking
        missing = Live.read(settings.live).missing(settings.slot)
        if missing is not None:
            sys.stderr.write(f"not ready: {missing}\n")
            sys.stderr.flush()


def _check_log(settings: Settings) -> None:
    """Refuse an event log that would lose events, in one sentence rather than in the log of each worker."""
    embedded = settings.events / "events.db"
    if settings.redis_url is not None and embedded.exists():
        sys.stderr.write(
            f"events and live changes in {embedded} are not served with NEXTBEST_REDIS_URL set: Redis has a log of its "
            "own; unset it and run `nextbest events export --to TABLES` to keep the events, tell the changes again\n"
        )
        sys.stderr.flush()
    event_log(settings).close()
