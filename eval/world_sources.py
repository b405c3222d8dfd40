"""The simulated shop as its systems would export it: nine files that disagree in everything, and their map.

Web shop, tills, browsing log, catalogue, customer service and bank each have their own ids, alphabet, clock, signs
of numbers and gaps. The map merges them into the tables of the world again, so that an import can be judged against
a known answer; the faults put in on purpose are counted (``Sources``). Prices and measures are given to the cent,
web orders to the second, the browsing log to the millisecond, all other times to the microsecond. Deliberately
absent: campaigns, contacts and ties.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pandas as pd

from eval.world import AGE_BAND, BRAND, ECO, REGION, World
from eval.world_names import REGIONS
from eval.world_sources_map import (
    BERLIN,
    CHINESE,
    CHINESE_CATEGORIES,
    CHINESE_REGIONS,
    LOG_KINDS,
    MAP_TEMPLATE,
    MEASURES,
    SHANGHAI,
    STORE,
    TILL_KINDS,
    WEB_KINDS,
    WORDS,
)
from feature_repo.schema import (
    AT,
    AVAILABLE,
    CATEGORY,
    CHANNEL,
    CONSENT_PREFIX,
    CUSTOMER_ID,
    DISCOUNT,
    KIND,
    LAUNCHED_AT,
    MARGIN,
    NAME,
    ORDER_ID,
    PRICE,
    PRODUCT_ID,
    QUANTITY,
    REQUEST_ID,
    SIGNED_UP_AT,
    STORE_ID,
    VALID_FROM,
    VALUE,
    WITHDRAWN_AT,
)

__all__ = ["MAP", "Sources", "exported_names", "write_sources"]

MAP: Final = "map.toml"

_FAULTY: Final = 0.01  # share of lines that come again with a fault
_TWICE: Final = 0.05  # share of the earlier till file that the later one repeats
_DISAGREE: Final = 0.05  # share of card holders whose region is overruled; for as many it is filled in
_TWO_CARDS: Final = 0.2
_CAPITALS: Final = 0.1  # share of e-mail addresses typed in capitals


@dataclass(frozen=True)
class Sources:
    """Where the map of the written files is, and how many faults are in them.

    Attributes
    ----------
    path
        The map; the files lie beside it.
    exported_twice
        Lines of receipts that stand in both till files.
    unknown_cards
        Lines of tills with a card that is nobody's.
    impossible_dates
        Web orders at a time that no clock shows.
    unmapped_kinds
        Lines of the browsing log with a kind that the map does not name.
    regions_overruled
        Customers whose region the two customer files tell differently.
    regions_filled
        Customers whose region only the second of them tells.
    regions_repeated
        Customers of whom the second says nothing new.
    repeated_hour
        Web orders in the hour that comes twice when clocks go back. Those of its second coming are imported
        an hour early, since the clock cannot tell.
    """

    path: Path
    exported_twice: int
    unknown_cards: int
    impossible_dates: int
    unmapped_kinds: int
    regions_overruled: int
    regions_filled: int
    regions_repeated: int
    repeated_hour: int

    @property
    def rejected(self) -> int:
        """Rows that an import has to leave out."""
        return self.unknown_cards + self.impossible_dates + self.unmapped_kinds


def write_sources(world: World, directory: Path, *, customers: int | None = None) -> Sources:
    """Write a simulated shop as files of its systems, and the map that merges them.

    Every fault is a row beside the rows of the world, so none of these is lost.

    Parameters
    ----------
    world
        The shop.
    directory
        Where the files go; made if missing.
    customers
        How many customers, the first by id; all by default.

    Returns
    -------
    Sources
        The map's path and the number of faults.
    """
    directory.mkdir(parents=True, exist_ok=True)
    rng = world.truth.config.chance("sources")
    ids = np.sort(world.customers[CUSTOMER_ID].unique())[:customers]
    lines = world.interactions[world.interactions[CUSTOMER_ID].isin(ids)].reset_index(drop=True)
    people = world.customers[world.customers[CUSTOMER_ID].isin(ids)]
    measures = world.measures[world.measures[CUSTOMER_ID].isin(ids)]

    in_store = lines[CHANNEL] == STORE
    bought = lines[KIND].isin(list(WEB_KINDS))
    holders = np.sort(lines.loc[in_store, CUSTOMER_ID].unique())
    cards = _write_ids(directory, ids, holders, rng=rng)
    dates, repeated = _write_orders(directory, lines[~in_store & bought], rng=rng)
    unknown, twice = _write_till(directory, lines[in_store], cards, rng=rng)
    kinds = _write_browsing(directory, lines[~in_store & ~bought], rng=rng)
    _write_catalogue(directory, world.products)
    overruled, filled = _write_people(directory, people, holders, rng=rng)
    names = _write_measures(directory, measures)

    numbers = range(1, world.truth.config.stores_per_region + 1)
    stores = [f"{STORE}-{region}-{number}" for region in REGIONS for number in numbers]
    text = MAP_TEMPLATE.substitute(
        stores="".join(f'"{_store(name)}" = "{name}"\n' for name in stores),
        consents="".join(
            f'{name} = {{ column = "{theirs}", values = {{ ja = true, nein = false }} }}\n'
            for name, theirs in _consents(people).items()
        ),
        measures=", ".join(f'{name} = "{MEASURES.get(name, name)}"' for name in names),
    )
    path = directory / MAP
    path.write_text(text, encoding="utf-8")
    return Sources(
        path,
        exported_twice=twice,
        unknown_cards=unknown,
        impossible_dates=dates,
        unmapped_kinds=kinds,
        regions_overruled=overruled,
        regions_filled=filled,
        regions_repeated=len(holders) - overruled - filled,
        repeated_hour=repeated,
    )


def exported_names(products: pd.DataFrame) -> pd.Series[str]:
    """Return the names of products as the catalogue is exported: those of tea and coffee in Chinese.

    Parameters
    ----------
    products
        ``name`` and ``category`` of each.
    """
    in_chinese = products[CATEGORY].isin(CHINESE_CATEGORIES)
    names = [
        WORDS.sub(lambda word: CHINESE[word[0]], name).replace(" ", "") if chosen else name
        for name, chosen in zip(products[NAME], in_chinese, strict=True)
    ]
    return pd.Series(names, index=products.index, dtype=object, name=NAME)


def _write_ids(
    directory: Path, ids: Iterable[str], holders: Iterable[str], *, rng: np.random.Generator
) -> dict[str, list[str]]:
    """Write the crosswalk, and return the one or two cards of each holder."""
    cards = {
        customer: [f"K{_digits(customer)}-{n + 1}" for n in range(1 + (rng.random() < _TWO_CARDS))]
        for customer in holders
    }
    rows = [(_account(customer), customer) for customer in ids]
    rows += [(card, customer) for customer, own in cards.items() for card in own]
    _write(directory / "ids.csv", pd.DataFrame(rows, columns=["id", "customer"]))
    return cards


def _write_orders(directory: Path, lines: pd.DataFrame, *, rng: np.random.Generator) -> tuple[int, int]:
    """Write the web shop's orders; return how many impossible dates and lines of a repeated hour are in them."""
    clock = lines[AT].dt.tz_convert(BERLIN)
    accounts = lines[CUSTOMER_ID].map(_account)
    table = pd.DataFrame(
        {
            "Bestellung": "W" + lines[ORDER_ID].str.removeprefix("o"),
            "Zeitpunkt": clock.dt.strftime("%d.%m.%Y %H:%M:%S"),
            "Konto": accounts.mask(rng.random(len(lines)) < _CAPITALS, accounts.str.upper()),
            "Vorgang": lines[KIND].map(WEB_KINDS),
            "Artikel": lines[PRODUCT_ID],
            "Menge": _plain(lines[QUANTITY], sign=","),
            "Betrag": _money(lines[VALUE]),
            "Rabatt %": _plain(100 * lines[DISCOUNT], sign=","),
            "Kanal": lines[CHANNEL].map({"web": "Shop", "app": "App"}),
            "Liste": lines[REQUEST_ID],
        }
    )
    table, faults = _with_faults(table, {"Zeitpunkt": "31.02.2026 25:61:00"}, rng=rng)
    _write(directory / "orders.csv", table, encoding="latin-1", sep=";")
    shown = clock.dt.tz_localize(None).dt.floor("s")
    summer, winter = (
        shown.dt.tz_localize(BERLIN, ambiguous=np.full(len(shown), fold)) for fold in (True, False)
    )
    return faults, int((summer != winter).sum())


def _write_till(
    directory: Path, lines: pd.DataFrame, cards: dict[str, list[str]], *, rng: np.random.Generator
) -> tuple[int, int]:
    """Write the receipts in two files; return how many unknown cards are in them, and lines that are in both."""
    lines = lines.sort_values(AT, kind="stable")
    chosen = rng.random(len(lines))
    own = [
        cards[customer][int(at * len(cards[customer]))]
        for customer, at in zip(lines[CUSTOMER_ID], chosen, strict=True)
    ]
    table = pd.DataFrame(
        {
            "小票": "T" + lines[ORDER_ID].str.removeprefix("o"),
            "时间": lines[AT].dt.tz_convert(SHANGHAI).dt.strftime("%Y/%m/%d %H:%M:%S.%f"),
            "门店": lines[STORE_ID].map(_store),
            "会员卡": own,
            "类型": lines[KIND].map(TILL_KINDS),
            "货号": lines[PRODUCT_ID],
            "数量": _plain(lines[QUANTITY]),
            "金额(分)": (100 * lines[VALUE]).round().astype("int64"),
            "折扣(%)": _plain(100 * lines[DISCOUNT]),
        }
    )
    at = lines[AT].astype("int64").to_numpy()
    receipts = np.append(np.searchsorted(at, at), len(at))  # where the receipt of each line begins
    half = int(receipts[len(at) // 2])
    again = int(receipts[int((1 - _TWICE) * half)])
    later, faults = _with_faults(table.iloc[again:], {"会员卡": "K999999-9"}, rng=rng)
    for number, part in enumerate((table.iloc[:half], later), start=1):
        _write(directory / f"till-{number}.csv", part, encoding="gb18030")
    return faults, half - again


def _write_browsing(directory: Path, lines: pd.DataFrame, *, rng: np.random.Generator) -> int:
    """Write the log of looks; return how many lines of an unmapped kind are in it."""
    table = pd.DataFrame(
        {
            "ts": lines[AT].dt.as_unit("ms").astype("int64"),
            "visitor": lines[CUSTOMER_ID].map(_account),
            "event": lines[KIND].map(LOG_KINDS),
            "sku": lines[PRODUCT_ID],
            "shown_discount": _plain(lines[DISCOUNT]),
            "surface": lines[CHANNEL],
            "list": lines[REQUEST_ID],
        }
    )
    table, faults = _with_faults(table, {"event": "scroll"}, rng=rng)
    _write(directory / "browsing.csv", table)
    return faults


def _write_catalogue(directory: Path, products: pd.DataFrame) -> None:
    table = pd.DataFrame(
        {
            "货号": products[PRODUCT_ID],
            "品名": exported_names(products),
            "类别": products[CATEGORY],
            "售价": _plain(products[PRICE]),
            "毛利": _plain(products[MARGIN]),
            "在售": products[AVAILABLE].map({True: "是", False: "否"}),
            "上架": _iso(products[LAUNCHED_AT]),
            "下架": _iso(products[WITHDRAWN_AT]),
            "生效": _iso(products[VALID_FROM]),
            "品牌": products[BRAND],
            "环保": products[ECO].map({True: "是", False: "否"}),
        }
    )
    _write(directory / "catalogue.csv", table, encoding="utf-8-sig")


def _write_people(
    directory: Path, people: pd.DataFrame, holders: Iterable[str], *, rng: np.random.Generator
) -> tuple[int, int]:
    """Write the two files of customers; return how many regions differ, and how many only the second has."""
    people = people.sort_values([CUSTOMER_ID, VALID_FROM]).reset_index(drop=True)
    first = people.drop_duplicates(CUSTOMER_ID).set_index(CUSTOMER_ID)
    single = ~people[CUSTOMER_ID].duplicated(keep=False)
    order = rng.permutation(np.asarray(list(holders), dtype=object))
    wanted = max(1, round(_DISAGREE * len(order)))
    # a version of a later date would lack the region as well, so only who has one version may lack it
    blank = order[np.isin(order, people.loc[single, CUSTOMER_ID])][:wanted]
    wrong = order[~np.isin(order, blank)][:wanted]
    table = pd.DataFrame(
        {
            "Kundennummer": people[CUSTOMER_ID].map(_digits).astype("int64"),
            "Angelegt": _iso(people[SIGNED_UP_AT]),
            "Gültig ab": _iso(people[VALID_FROM]),
            "Region": people[REGION].mask(people[CUSTOMER_ID].isin(blank)),
            "Alter": people[AGE_BAND],
        }
        | {
            theirs: people[name].map({True: "ja", False: "nein"})
            for name, theirs in _consents(people).items()
        }
    )
    _write(directory / "crm.csv", table, sep=";")
    cards = first.loc[sorted(order)].reset_index()
    others = dict(zip(REGIONS, (*REGIONS[1:], REGIONS[0]), strict=True))
    forms = pd.DataFrame(
        {
            "customer": cards[CUSTOMER_ID],
            "since": _iso(cards[VALID_FROM]),
            "region": cards[REGION].mask(cards[CUSTOMER_ID].isin(wrong), cards[REGION].map(others)),
        }
    )
    _write(directory / "loyalty.csv", forms)
    return len(wrong), len(blank)


def _write_measures(directory: Path, measures: pd.DataFrame) -> list[str]:
    """Write a row a customer and instant, and return the names of the measures."""
    wide = measures.pivot(index=[AT, CUSTOMER_ID], columns=NAME, values=VALUE).reset_index()
    names = [str(name) for name in wide if name not in (AT, CUSTOMER_ID)]
    table = pd.DataFrame(
        {"Kundennummer": wide[CUSTOMER_ID].map(_digits).astype("int64"), "Stichtag": _iso(wide[AT])}
        | {MEASURES.get(name, name): _money(wide[name], nothing="k.A.") for name in names}
    )
    _write(directory / "bank.csv", table, encoding="utf-16", sep="\t")
    return names


def _with_faults(
    table: pd.DataFrame, fault: dict[str, str], *, rng: np.random.Generator
) -> tuple[pd.DataFrame, int]:
    """Put copies of some rows, with a fault, behind them."""
    count = min(len(table), max(1, round(_FAULTY * len(table))))
    faulty = table.iloc[np.sort(rng.choice(len(table), count, replace=False))].assign(**fault)
    order = np.argsort(
        np.concatenate([np.arange(len(table)), table.index.get_indexer(faulty.index) + 0.5]), kind="stable"
    )
    return pd.concat([table, faulty]).iloc[order], count


def _write(path: Path, table: pd.DataFrame, *, encoding: str = "utf-8", sep: str = ",") -> None:
    table.to_csv(path, index=False, encoding=encoding, sep=sep, lineterminator="\r\n")


def _digits(customer: str) -> str:
    return customer.removeprefix("c")


def _account(customer: str) -> str:
    return f"kunde.{_digits(customer)}@post.example"


def _consents(people: pd.DataFrame) -> dict[str, str]:
    """Return our column of each consent → its heading in German."""
    named = [str(name) for name in people]
    return {
        name: f"Werbung per {name.removeprefix(CONSENT_PREFIX)}"
        for name in named
        if name.startswith(CONSENT_PREFIX)
    }


def _store(name: object) -> str:
    """Name a store in Chinese: ``store-capital-1`` is ``首都1号店``."""
    region, number = str(name).removeprefix(f"{STORE}-").rsplit("-", 1)
    return f"{CHINESE_REGIONS[region]}{number}号店"


def _iso(times: pd.Series) -> pd.Series[str]:
    text: pd.Series[str] = times.dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return text


def _plain(numbers: Iterable[float], *, sign: str = ".") -> list[str]:
    """Numbers without needless digits."""
    return [f"{number:.8f}".rstrip("0").rstrip(".").replace(".", sign) for number in numbers]


def _money(numbers: Iterable[float], *, nothing: str = "") -> list[str]:
    """Money to the cent as it is written in Germany: 1.234,50."""
    swap = str.maketrans(",.", ".,")
    return [f"{number:,.2f}".translate(swap) if number == number else nothing for number in numbers]
