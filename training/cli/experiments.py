"""``nextbest experiments``: what ``experiments.toml`` says, and who sees which variant."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from serving.bundle import NAME, verify
from serving.dropped_rules import dropped_rules
from serving.errors import BundleError, ConfigError, NextbestError
from serving.experiments_file import (
    FALLBACK,
    HOLDOUT,
    INTERLEAVE,
    INTERLEAVED,
    Experiment,
    Experiments,
    Variant,
)
from serving.live import Live
from serving.settings import Settings
from serving.told import Files, LiveRules
from serving.variants import Scale, positions
from training.cli.checked import asked, under
from training.cli.experiments_doubts import alike, unmatched, unreached
from training.cli.tables import console

_EVERYWHERE = "everywhere"
_EVERYBODY = "everybody"
_WHOLE = "whole"


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(help="Who sees which variant of what is served.", no_args_is_help=True)
    group.command("check")(check_command)
    group.command("assign")(assign_command)
    app.add_typer(group, name="experiments")


def check_command(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE", help="experiments.toml of NEXTBEST_HOME by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Explain a file: experiments, shares, bundles, whom they are for. Exit code 2 where it would not be taken up.

    Warns of hard rules that a variant drops, of experiments that nobody can be in, and of variants that do not differ.
    """
    settings = Settings.load()
    path = asked(file, settings.experiments)
    files = Files(settings.live, settings.slot, rules=settings.rules, experiments=path)
    plan, rules = files.plan(), files.rules()
    told = plan.experiments
    live = Live.read(settings.live).slots.get(settings.slot)
    fits: dict[tuple[str, str], str] = {}
    rows = [
        _described(
            settings,
            experiment,
            variant,
            share,
            tag=variant.bundle or (None if live is None else live.live),
            rules=rules if variant.rules is None else plan.rules[variant.rules],
            fits=fits,
        )
        for experiment in told.experiments
        for variant, share in zip(experiment.variants, _shares(experiment), strict=True)
    ]
    warnings = [*dropped_rules(rules, plan), *unreached(told), *alike(rows), *unmatched(settings, told)]
    if as_json:
        about = {"holdout": told.holdout, "digest": told.digest}
        typer.echo(json.dumps({**about, "variants": rows, "warnings": warnings}))
    elif rows or told.holdout:
        _print(told, rows)
    else:
        typer.echo(f"no experiments in {path}: everybody sees what is live")
    if not as_json:
        for sentence in warnings:
            typer.echo(f"warning: {sentence}")
    problems = [row["state"] for row in rows if row["state"] != _WHOLE]
    if problems:
        raise BundleError(f"{path}: {problems[0]}")
    if told.attributes:
        _check_attributes(settings, told)


def assign_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"Of an experiment, or {HOLDOUT}.")],
    customers: Annotated[list[str], typer.Argument(metavar="CUSTOMER...", help="Or session ids.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Tell which variant customers see wherever the experiment is for them.

    It is for those that its surfaces and customers match and that are in no earlier experiment of the file. Sessions
    are in no holdout: where there is one, what it says of their ids holds for customers.
    """
    path = Settings.load().experiments
    told = Experiments.read(path)
    experiment = next((one for one in told.experiments if one.name == name), None)
    if experiment is None and name != HOLDOUT:
        there = [*(one.name for one in told.experiments), *([HOLDOUT] if told.holdout else [])]
        if not path.exists():
            raise ConfigError(
                f"expected the experiment {name!r} in {path}, found no such file; write it, or set NEXTBEST_HOME to "
                "the home that has it"
            )
        raise ConfigError(
            f"expected the name of an experiment in {path} (there are: {', '.join(there) or 'none'}), found {name!r}"
        )
    held_out = positions(told.holdout_salt)
    rows = [
        {
            "customer_id": customer,
            "experiment": HOLDOUT if held_out(customer) < told.holdout else name if experiment else None,
            **(_seen(None) if held_out(customer) < told.holdout else _seen(experiment, customer)),
        }
        for customer in customers
    ]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    for row in rows:
        beside = f" (beside it, unseen: {row['shadow']})" if row["shadow"] else ""
        where = "in no holdout" if row["variant"] is None else f"{row['experiment']}/{row['variant']}"
        typer.echo(f"{row['customer_id']}\t{where}{beside}")


def _seen(experiment: Experiment | None, customer: str = "") -> dict[str, str | None]:
    """Return what a customer sees in an experiment, or in the holdout; nothing where the holdout is not theirs."""
    if experiment is None:
        return {"variant": None if customer else FALLBACK, "shadow": None}
    if experiment.is_interleaved:
        return {"variant": INTERLEAVED, "shadow": None}
    scale = Scale.of([variant.weight for variant in experiment.variants])
    variant = experiment.variants[scale.owner(positions(experiment.salt)(customer))]
    shown = experiment.variants[0] if variant.shadow else variant
    return {"variant": shown.name, "shadow": variant.name if variant.shadow else None}


def _shares(experiment: Experiment) -> list[float]:
    """Return the share of its customers who see each variant; of an interleaved one everybody sees both."""
    if experiment.is_interleaved:
        return [1.0] * len(experiment.variants)
    total = sum(variant.weight for variant in experiment.variants)
    return [variant.weight / total for variant in experiment.variants]


def _described(
    settings: Settings,
    experiment: Experiment,
    variant: Variant,
    share: float,
    *,
    tag: str | None,
    rules: LiveRules,
    fits: dict[tuple[str, str], str],
) -> dict[str, Any]:
    """Return what is told of a variant; ``fits`` keeps what was found of a bundle under rules."""
    state = "nothing is live yet; run `nextbest train TABLES`"
    if tag is not None:
        key = tag.removeprefix(f"{NAME}:"), rules.digest
        if key not in fits:
            fits[key] = _fit(settings, key[0], rules)
        state = fits[key] if fits[key] == _WHOLE else f"{experiment.name}/{variant.name}: {fits[key]}"
    return {
        "experiment": experiment.name,
        "kind": experiment.kind,
        "salt": experiment.salt,
        "surfaces": experiment.surfaces,
        "customers": experiment.customers,
        "variant": variant.name,
        "share": share,
        "shadow": variant.shadow,
        "bundle": tag,
        "is_live": variant.bundle is None,
        "rules": rules.path.name if variant.rules is None else variant.rules,
        "rules_digest": None if rules.file is None else rules.digest,
        "state": state,
    }


def _fit(settings: Settings, version: str, rules: LiveRules) -> str:
    """Return whether a bundle is whole and its rules fit it, else why not."""
    try:
        if rules.file is None:
            verify(settings.bundles / version, version)
        else:
            under(settings, version, rules)
    except NextbestError as error:
        return str(error)
    return _WHOLE


def _print(told: Experiments, rows: list[dict[str, Any]]) -> None:
    table = Table("experiment", "surfaces", "customers", "variant", "share", "bundle", "rules", "state")
    if told.holdout:
        table.add_row(
            HOLDOUT, _EVERYWHERE, _EVERYBODY, FALLBACK, f"{told.holdout:.2%}", "", "", "segment, popular"
        )
    last = None
    for row in rows:
        first = row["experiment"] != last
        if first:
            table.add_section()
        last = row["experiment"]
        targets = " and ".join(
            f"{name} = {' or '.join(map(str, values))}" for name, values in row["customers"].items()
        )
        table.add_row(
            row["experiment"] if first else "",
            escape(", ".join(row["surfaces"] or (_EVERYWHERE,))) if first else "",
            escape(targets or _EVERYBODY) if first else "",
            row["variant"] + (" (shadow)" if row["shadow"] else ""),
            INTERLEAVED if row["kind"] == INTERLEAVE else f"{row['share']:.2%}",
            f"{row['bundle'] or ''}{' (live)' if row['is_live'] else ''}",
            escape(row["rules"]) if row["rules_digest"] else "",
            _WHOLE if row["state"] == _WHOLE else "refused",
        )
    console().print(table)
    if told.holdout and rows:
        typer.echo(
            f"shares of experiments are of those outside the holdout; {told.digest} is what /readyz says"
        )


def _check_attributes(settings: Settings, told: Experiments) -> None:
    from feature_repo.store import open_store  # Feast takes seconds to import
    from serving.attributes import AttributeReader

    AttributeReader(
        open_store(settings.store, offline=False), told.attributes, timeout_ms=settings.feature_timeout_ms
    )
