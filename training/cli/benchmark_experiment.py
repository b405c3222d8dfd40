"""``nextbest benchmark experiment``: false alarms and coverage of what reads experiments, on simulated ones."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from training.cli.progress import shown


def register(group: typer.Typer) -> None:
    """Add the command to the group of benchmarks."""
    group.command("experiment")(experiment_command)


def experiment_command(
    runs: Annotated[int, typer.Option(min=10, max=100_000, help="Experiments without an effect.")] = 1000,
    lifted: Annotated[int, typer.Option(min=10, max=100_000, help="Experiments with a known lift.")] = 500,
    lift: Annotated[float, typer.Option(min=0.0, max=10.0, help="That lift, relative.")] = 0.10,
    customers: Annotated[int, typer.Option(min=1000, max=1_000_000, help="Customers an arm.")] = 20_000,
    others: Annotated[
        int,
        typer.Option(
            min=0, max=100_000, help="Interleaved experiments, and logs that value a bundle; 0: none."
        ),
    ] = 500,
    days: Annotated[int, typer.Option(min=2, max=100, help="Over how many days, one look each.")] = 28,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
) -> None:
    """Measure false alarms, coverage, what the past narrows and the check of shares, on simulated experiments.

    Then the same of interleaved experiments, and of bundles that are valued from the log of another.
    """
    from eval.benchmarks.experiment import Size, experiment_benchmark
    from eval.benchmarks.experiment_others import counterfactual_benchmark, interleaving_benchmark

    with shown() as progress:
        result = experiment_benchmark(
            runs=runs, lifted=lifted, lift=lift, size=Size(customers, days), seed=seed, progress=progress
        )
        if others:
            result["interleaving"] = interleaving_benchmark(
                runs=others, share=0.55, customers=2000, seed=seed, progress=progress
            )
            result["counterfactual"] = counterfactual_benchmark(
                runs=others, size=3000, seed=seed, progress=progress
            )
    typer.echo(json.dumps(result, indent=1))
