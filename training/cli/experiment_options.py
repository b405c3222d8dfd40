"""Which options belong to which way of reading an experiment; what belongs to another way is refused."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import typer

from serving.errors import ConfigError

SPLIT: Final = "an A/B test"
MIXED: Final = "an interleaved experiment"
LOGGED: Final = "--counterfactual"
#: Option → what it is for; all others are for every way.
_FOR: Final[Mapping[str, tuple[str, ...]]] = {
    "shares": (SPLIT,),
    "past": (SPLIT,),
    "margin": (SPLIT,),
    "since": (SPLIT,),
    "immature": (SPLIT, LOGGED),
    "smallest": (SPLIT, MIXED),
    "power": (SPLIT, MIXED),
    "expected": (SPLIT, MIXED),
    "final": (SPLIT, MIXED),
    "hours": (MIXED, LOGGED),
    "rules": (LOGGED,),
    "clip": (LOGGED,),
}


def refuse_misplaced(context: typer.Context, name: str, way: str | None) -> None:
    """Refuse options that were given and say nothing in this way of reading an experiment.

    Parameters
    ----------
    context
        Of the command.
    name, way
        The experiment, and how it is read; None: nothing is known of it but that it is not valued by a log.

    Raises
    ------
    ConfigError
        There is one.
    """
    ways = (SPLIT, MIXED) if way is None else (way,)
    for option, whose in _FOR.items():
        if not set(ways) & set(whose) and _is_given(context, option):
            where = {None: "without", LOGGED: f"with {LOGGED}"}.get(way, f"though {name} is {way}")
            raise ConfigError(
                f"expected --{option} with {' or '.join(whose)} only, found it {where}; leave it out"
            )


def _is_given(context: typer.Context, option: str) -> bool:
    source = context.get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"
