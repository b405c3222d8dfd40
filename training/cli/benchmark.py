"""``nextbest benchmark …``: measurements of this installation on this machine, as JSON.

Each command parses, calls the measurement and prints; progress goes to standard error, so that standard
output can be piped. Deliberately absent: any judgement of the figures.
"""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from serving.errors import ConfigError
from serving.settings import Settings
from training.cli import benchmark_experiment, benchmark_ranking, benchmark_service, benchmark_visitors
from training.cli.progress import shown

if TYPE_CHECKING:
    from eval.benchmarks.sites import DrawnShop


def register(app: typer.Typer) -> None:
    """Add the group of commands to the application."""
    group = typer.Typer(help="Measure this installation; JSON on standard output.", no_args_is_help=True)
    group.command("serving")(serving_command)
    group.command("features")(features_command)
    group.command("accuracy")(accuracy_command)
    group.command("cold")(cold_command)
    group.command("scoring")(scoring_command)
    group.command("index")(index_command)
    group.command("recovery")(recovery_command)
    group.command("world")(world_command)
    benchmark_experiment.register(group)
    benchmark_ranking.register(group)
    benchmark_service.register(group)
    benchmark_visitors.register(group)
    app.add_typer(group, name="benchmark")


def serving_command(
    requests: Annotated[
        int, typer.Option(min=10, max=100_000, help="Requests a side, a concurrency and a round.")
    ] = 400,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often the sides take turns.")] = 5,
    warm_up: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Requests to each side before those that are timed.")
    ] = 2000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the requests, and of the drawn shop.")] = 0,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Time the work without HTTP alone; start no services.")
    ] = False,
    drawn: Annotated[
        bool, typer.Option("--drawn", help="Measure a drawn shop instead, with filters and exclusions.")
    ] = False,
    store: Annotated[
        str | None, typer.Option(help="Its online stores, with commas. [default: redis,sqlite]")
    ] = None,
    products: Annotated[int | None, typer.Option(help="Its products. [default: 50000]")] = None,
    dimensions: Annotated[int | None, typer.Option(help="Of its vectors. [default: 64]")] = None,
    customers: Annotated[int | None, typer.Option(help="Its customers. [default: 200000]")] = None,
    history: Annotated[int | None, typer.Option(help="Recent events of each. [default: 50]")] = None,
    ranker: Annotated[
        bool, typer.Option("--ranker", help="Give it a ranker of the size that ships, over 200 candidates.")
    ] = False,
    rules: Annotated[
        bool, typer.Option("--rules", help="Measure it with rules and an experiment beside itself without.")
    ] = False,
    kinds: Annotated[
        str | None, typer.Option(help="Kinds of these rules, with commas. [default: all seven]")
    ] = None,
) -> None:
    """Measure the service on the live bundle, or on a drawn shop, beside services that return a constant answer."""
    from eval.benchmarks.serving import benchmark
    from eval.benchmarks.shop import Size
    from eval.benchmarks.sites import DrawnShop

    size = {"products": products, "dimensions": dimensions, "customers": customers, "history": history}
    given = {name: number for name, number in size.items() if number is not None}
    shop: DrawnShop | None = None
    if drawn:
        shop = DrawnShop(Size(**given), datetime.now(UTC), ranker=ranker)
        if store is not None:
            shop = replace(shop, stores=tuple(name.strip() for name in store.split(",")))
    elif given or store is not None or ranker:
        others = [name for name, is_given in (("store", store is not None), ("ranker", ranker)) if is_given]
        found = ", ".join(f"--{name}" for name in [*given, *others])
        raise ConfigError(f"expected a drawn shop with {found}, found no --drawn; add it")
    if kinds is not None and not rules:
        raise ConfigError("expected --rules with --kinds, found none; add it")
    if rules:
        if shop is None or (store is not None and len(shop.stores) > 1):
            raise ConfigError("expected --drawn with --rules, and one --store at most; correct the options")
        _rules(
            shop if store is not None else replace(shop, stores=("sqlite",)),
            requests=requests,
            rounds=rounds,
            warm_up=warm_up,
            seed=seed,
            http=not in_process,
            **({} if kinds is None else {"kinds": [kind.strip() for kind in kinds.split(",")]}),
        )
        return
    with shown() as progress:
        result = benchmark(
            Settings.load(),
            requests=requests,
            rounds=rounds,
            warm_up=warm_up,
            seed=seed,
            drawn=shop,
            http=not in_process,
            progress=progress,
        )
    typer.echo(json.dumps(result, ensure_ascii=False, indent=1))


def _rules(drawn: DrawnShop, **given: Any) -> None:
    from eval.benchmarks.ruled import ruled

    with shown() as progress:
        result = ruled(Settings.load(), drawn, progress=progress, **given)
    typer.echo(json.dumps(result, ensure_ascii=False, indent=1))


def recovery_command(
    seeds: Annotated[str, typer.Option(help="Seeds of the simulated shops, with commas.")] = "101,102,103",
    customers: Annotated[int, typer.Option(min=200, max=100_000, help="Customers of each shop.")] = 5000,
    products: Annotated[int, typer.Option(min=50, max=20_000, help="Products of each shop.")] = 800,
    config: Annotated[
        Path | None, typer.Option(metavar="F.toml", help="Recipes; default: those shipped.")
    ] = None,
) -> None:
    """Measure how much of the truth of simulated shops the recipes recover, beside the oracle."""
    from training.benchmarks.recovery import recovery
    from training.recipe import TrainConfig

    if not all(seed.strip().isdigit() for seed in seeds.split(",")):
        raise ConfigError(f"expected seeds such as 1,2,3, found {seeds!r}; correct --seeds")
    chosen = TrainConfig.read(config) if config else TrainConfig.default()
    numbers = [int(seed) for seed in seeds.split(",")]
    with shown() as progress:
        result = recovery(
            numbers,
            customers=customers,
            products=products,
            config=chosen,
            now=datetime.now(UTC),
            progress=progress,
        )
    typer.echo(json.dumps(result, indent=1))


def world_command(
    scale: Annotated[
        bool, typer.Option("--scale", help="100,000 customers × 20,000 products, about 5 million events.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the simulated shop.")] = 201,
    beside: Annotated[
        Path | None,
        typer.Option(
            metavar="TABLES", help="Tables of a shop to compare with, such as imported Online Retail."
        ),
    ] = None,
    as_table: Annotated[
        bool, typer.Option("--table", help="Print the comparison as Markdown instead.")
    ] = False,
) -> None:
    """Measure what a simulated shop costs to make, and how its sales compare with a real shop's."""
    from eval.benchmarks.world import ONLINE_RETAIL_SIZE, SCALE, benchmark_world
    from eval.world_config import WorldConfig

    if as_table and beside is None:
        raise ConfigError("expected --beside TABLES with --table, found none; name the shop to compare with")
    size = SCALE if scale else ONLINE_RETAIL_SIZE
    result = benchmark_world(WorldConfig.model_validate({**size, "seed": seed}), online_retail=beside)
    typer.echo(result["table"] if as_table else json.dumps(result, indent=1))


def cold_command(
    directory: Annotated[Path, typer.Argument(metavar="TABLES", help="Directory with the tables.")],
    config: Annotated[
        Path | None, typer.Option(metavar="F.toml", help="Recipes; default: every model.")
    ] = None,
    share: Annotated[
        float, typer.Option(min=0.01, max=0.9, help="Of products, and of customers, that are held out.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, help="Seed of what is held out.")] = 0,
    ago_days: Annotated[
        int, typer.Option("--ago-days", min=0, help="Judge on a window that ended so long before the last.")
    ] = 0,
) -> None:
    """Measure how well models serve customers and products that they have never seen."""
    from training.benchmarks.cold import cold
    from training.recipe import TrainConfig

    chosen = TrainConfig.read(config) if config else TrainConfig.shipped("all.toml")
    with shown() as progress:
        result = cold(
            Settings.load(),
            directory,
            chosen,
            share=share,
            seed=seed,
            now=datetime.now(UTC),
            ago_days=ago_days,
            progress=progress,
        )
    typer.echo(json.dumps(result, indent=1))


def accuracy_command(
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="Holds train.txt and test.txt: 'user item item …' a line.")
    ],
    models: Annotated[
        str, typer.Option(help="Which models, with commas.")
    ] = "popularity,als,bpr,knn,spectral,lightfm,two_tower,blend",
    k: Annotated[int, typer.Option(min=1, max=100, help="Cut-off.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything that is drawn.")] = 0,
    with_two_tower: Annotated[
        bool, typer.Option("--with-two-tower", help="Let the two-tower model take part in the blend.")
    ] = False,
) -> None:
    """Measure how well the models rank on a published split; every setting is chosen on a part of train."""
    from training.benchmarks.accuracy import accuracy

    names = [name.strip() for name in models.split(",") if name.strip()]
    with shown() as progress:
        result = accuracy(
            directory, models=names, k=k, seed=seed, with_two_tower=with_two_tower, progress=progress
        )
    typer.echo(json.dumps(result, indent=1))


def scoring_command(
    customers: Annotated[int, typer.Option(min=1, max=10_000_000, help="Customers ranked for.")] = 30_000,
    products: Annotated[int, typer.Option(min=100, max=1_000_000, help="Products ranked.")] = 40_000,
    factors: Annotated[int, typer.Option(min=1, max=4096, help="Dimensions of the vectors.")] = 128,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often the sides take turns.")] = 5,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the vectors and purchases.")] = 0,
) -> None:
    """Measure the top 20 of all customers beside a plain matrix product and beside implicit, on random vectors."""
    from training.benchmarks.scoring import scoring

    with shown() as progress:
        result = scoring(
            customers=customers,
            products=products,
            factors=factors,
            rounds=rounds,
            seed=seed,
            progress=progress,
        )
    typer.echo(json.dumps(result, indent=1))


def index_command(
    sizes: Annotated[
        str, typer.Option(help="Products × dimensions, with commas.")
    ] = "10000x64,50000x64,41000x512,41000x1024",
    queries: Annotated[int, typer.Option(min=10, max=10_000, help="Queries timed for each size.")] = 300,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="How often each is answered.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the vectors and queries.")] = 0,
) -> None:
    """Measure one search of the product index, chosen by size, beside the exact one, on drawn vectors."""
    from eval.benchmarks.index import index_times

    asked = [size.strip().split("x") for size in sizes.split(",") if size.strip()]
    if not asked or not all(
        len(size) == 2 and all(part.isdigit() and int(part) for part in size) for size in asked
    ):
        raise ConfigError(f"expected sizes such as 50000x64,41000x512, found {sizes!r}; correct --sizes")
    pairs = [(int(products), int(dimensions)) for products, dimensions in asked]
    with shown() as progress:
        result = index_times(pairs, queries=queries, rounds=rounds, seed=seed, progress=progress)
    typer.echo(json.dumps(result, indent=1))


def features_command(
    keys: Annotated[int, typer.Option(min=100, help="Rows to join features to.")] = 500_000,
    features: Annotated[int, typer.Option(min=1, max=500, help="Features joined and materialised.")] = 20,
    snapshots: Annotated[int, typer.Option(min=100, help="Rows of the view that is joined.")] = 600_000,
    rows: Annotated[int, typer.Option(min=10, help="Rows materialised.")] = 20_000,
    interactions: Annotated[
        str, typer.Option(help="Sizes of the build, with commas; empty for none.")
    ] = "1000000",
    rounds: Annotated[int, typer.Option(min=1, max=50, help="How often the sides take turns.")] = 3,
) -> None:
    """Measure the point-in-time join, materialising and the build, beside Feast's own."""
    from eval.benchmarks.features import build_sizes, materialise, pit_join

    sizes = [size.strip() for size in interactions.split(",") if size.strip()]
    if not all(size.isdigit() and int(size) >= 1000 for size in sizes):
        raise ConfigError(
            f"expected sizes such as 1000000,5000000, found {interactions!r}; correct --interactions"
        )
    with shown() as progress:
        join = pit_join(keys=keys, features=features, snapshots=snapshots, rounds=rounds, progress=progress)
        online = materialise(rows=rows, features=features, rounds=rounds, progress=progress)
        build = build_sizes([int(size) for size in sizes], progress=progress)
    typer.echo(json.dumps({"pit_join": join, "materialise": online, "build": build}, indent=1))
