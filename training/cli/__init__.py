"""The command ``nextbest``: one file a group of commands; this one joins them and words the errors.

An error of ours is one sentence on standard error and exit code 2. Anything unforeseen is written whole
to a file, and told in one sentence with exit code 1: a user never sees a traceback.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import traceback
from pathlib import Path
from typing import NoReturn

import duckdb
import typer

from serving.errors import NextbestError
from training.cli import (
    benchmark,
    data,
    demo,
    evaluate,
    events,
    experiment,
    experiments,
    features,
    models,
    recommend,
    refresh,
    rules,
    serve,
    train,
    tune,
)
from training.cli.room import shortage

app = typer.Typer(
    name="nextbest",
    help="Which products for this customer, which customers for this product, and what it was worth.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for group in (
    demo,
    data,
    features,
    train,
    evaluate,
    tune,
    refresh,
    models,
    serve,
    recommend,
    rules,
    events,
    experiment,
    experiments,
    benchmark,
):
    group.register(app)


def main() -> None:
    """Run the command; the process exits with its code."""
    # warnings of libraries are not the user's; ours are errors or findings. Not by a filter: libraries reset those
    logging.captureWarnings(True)
    for name in ("py.warnings", "feast"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        app()
    except NextbestError as error:
        _end(shortage(error) or str(error))
    except BrokenPipeError:
        sys.exit(141)
    except OSError as error:
        about = f" {error.filename}" if error.filename else ""
        _end(
            shortage(error)
            or f"expected to read and write files, found {error.strerror or error}:{about}; "
            "check the path and its permissions, or set NEXTBEST_HOME to another directory"
        )
    except duckdb.IOException as error:
        found = str(error).strip().splitlines()[0]
        _end(
            shortage(error)
            or f"expected leave to read and write files, found: {found}; check the path and its permissions, or choose "
            "another directory"
        )
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if (sentence := shortage(error)) is not None:
            _end(sentence)
        with tempfile.NamedTemporaryFile("w", prefix="nextbest-", suffix=".log", delete=False) as file:
            traceback.print_exc(file=file)
        sys.stderr.write(
            f"error: something unforeseen happened ({type(error).__name__}: {error}); "
            f"the details are in {Path(file.name)}, please report them\n"
        )
        sys.exit(1)


def _end(sentence: str) -> NoReturn:
    sys.stderr.write(f"error: {sentence}\n")
    sys.exit(2)
