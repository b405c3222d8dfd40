"""Every feature computed a second time, in plain loops over rows, from the definitions in words.

Slow and obvious on purpose, and without a look at the expressions: where both agree, the expression says what
its definition says. Instants are microseconds since 1970, windows are told by age in days, and an order is what
``_orders`` makes of a customer's purchase lines. Where the definitions leave something open (ties within an
instant, what holds before anything was told), the choice is made here in one place and said there.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pandas as pd

Value = float | str | list[float] | list[str]
Features = dict[str, Value]
Tables = Mapping[str, pd.DataFrame]

DAY = 86_400_000_000
NEVER = 3650.0
YEAR = 365
LEVELS = (7, 30, 90, 365)
CHANGES = (7, 30, 90)
LISTED = 5


@dataclass(frozen=True)
class Event:
    """One row of the interactions; ``category`` is that of the product as told at the event or before."""

    row: int
    customer: str | None
    product: str
    at: int
    kind: str
    quantity: float
    value: float
    discount: float
    order: str | None
    channel: str | None
    store: str | None
    category: str | None

    @property
    def order_key(self) -> str:
        """The order of a line; lines without one are together by instant."""
        return str(self.at) if self.order is None else self.order


@dataclass(frozen=True)
class Version:
    """What was told of a product from an instant on; ``since`` is None where no instant was given."""

    since: int | None
    category: str | None
    available: bool
    launched: int | None


@dataclass(frozen=True)
class Measure:
    """One measurement of a customer."""

    at: int
    value: float


def micros(at: Any) -> int | None:
    """Microseconds since 1970; None for no instant."""
    if pd.isna(at):
        return None
    return int((pd.Timestamp(at) - pd.Timestamp(0, tz=UTC)) // pd.Timedelta(microseconds=1))


def _instant(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _text(value: Any) -> str | None:
    return None if pd.isna(value) else str(value)


def _number(value: Any, otherwise: float) -> float:
    return otherwise if pd.isna(value) else float(value)


def _missing_last(value: Any) -> tuple[bool, Any]:
    """A key for sorting in which what is missing comes last."""
    return (value is None, 0 if value is None else value)


def _over(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator > 0 else 0.0


def _age(at: int, now: int) -> float:
    return (now - at) / DAY


def _aged(rows: Iterable[Event], now: int, over: float, up_to: float) -> list[Event]:
    """The rows older than ``over`` days and at most ``up_to`` days old."""
    return [row for row in rows if over < _age(row.at, now) <= up_to]


def _last_days(rows: Iterable[Event], now: int, days: float) -> list[Event]:
    return [row for row in rows if _age(row.at, now) <= days]


def _windows(name: str, rows: Sequence[Event], now: int, amount: Callable[[list[Event]], float]) -> Features:
    """An amount in each window, and in some of them less the amount in the window before."""
    told: Features = {}
    for days in LEVELS:
        told[f"{name}_{days}d"] = amount(_last_days(rows, now, days))
    for days in CHANGES:
        before = amount(_aged(rows, now, days, 2 * days))
        told[f"{name}_change_{days}d"] = amount(_last_days(rows, now, days)) - before
    return told


def _how_many(rows: Sequence[Event]) -> float:
    return float(len(rows))


def _money(rows: Iterable[Event]) -> float:
    return sum((row.value for row in rows), 0.0)


def _units(rows: Iterable[Event]) -> float:
    return sum((row.quantity for row in rows), 0.0)


def _discounts(rows: Iterable[Event]) -> float:
    return sum((row.discount for row in rows), 0.0)


def _kind(rows: Iterable[Event], *kinds: str) -> list[Event]:
    return [row for row in rows if row.kind in kinds]


def _versions(tables: Tables) -> dict[str, list[Version]]:
    """Versions of each product, undated first, then in time; of two told at once one is kept."""
    told: dict[str, list[Version]] = {}
    for row in tables["products"].to_dict("records"):
        version = Version(
            micros(row["valid_from"]),
            _text(row["category"]),
            True if pd.isna(row["available"]) else bool(row["available"]),
            micros(row["launched_at"]),
        )
        told.setdefault(str(row["product_id"]), []).append(version)
    kept: dict[str, list[Version]] = {}
    for product, versions in told.items():
        kept[product] = []
        instants = {version.since for version in versions}
        for since in sorted(instants, key=lambda since: (since is not None, since or 0)):
            same = [version for version in versions if version.since == since]
            # at one instant: the first by category, availability (no before yes) and launch
            same.sort(key=lambda x: (_missing_last(x.category), x.available, _missing_last(x.launched)))
            kept[product].append(same[0])
    return kept


def _newest(versions: Iterable[Version], at: int) -> Version | None:
    """The newest version told at ``at`` or before; the undated one holds from the beginning."""
    found = None
    for version in versions:
        if version.since is None or version.since <= at:
            found = version
    return found


def _events(tables: Tables, now: int) -> list[Event]:
    """Interactions strictly before ``now``, in order of lines: by instant, then order, then content."""
    versions = _versions(tables)
    events = []
    for place, row in enumerate(tables["interactions"].to_dict("records")):
        at = micros(row["at"])
        assert at is not None
        if at >= now:
            continue
        newest = _newest(versions.get(str(row["product_id"]), []), at)
        event = Event(
            place,
            _text(row["customer_id"]),
            str(row["product_id"]),
            at,
            _text(row["kind"]) or "purchase",
            _number(row["quantity"], 1.0),
            _number(row["value"], 0.0),
            _number(row["discount"], 0.0),
            _text(row["order_id"]),
            _text(row["channel"]),
            _text(row["store_id"]),
            None if newest is None else newest.category,
        )
        events.append(event)

    def line(e: Event) -> tuple[Any, ...]:
        content = (e.product, e.kind, e.value, e.quantity, e.discount)
        return (e.at, e.order_key, *content, _missing_last(e.channel), _missing_last(e.store))

    return sorted(events, key=line)


def _by_customer(events: Iterable[Event]) -> dict[str, list[Event]]:
    told: dict[str, list[Event]] = {}
    for event in events:
        if event.customer is not None:
            told.setdefault(event.customer, []).append(event)
    return told


def _orders(bought: Iterable[Event]) -> list[list[Event]]:
    """Orders of one customer in order of their first lines; each with its lines in order."""
    told: dict[str, list[Event]] = {}
    for line in bought:
        told.setdefault(line.order_key, []).append(line)
    return list(told.values())


def customer_reference(tables: Tables, at: datetime) -> dict[str, Features]:
    """The customer features of everybody with an interaction before ``at``."""
    now = _instant(at)
    return {customer: _customer(mine, now) for customer, mine in _by_customer(_events(tables, now)).items()}


def _customer(events: list[Event], now: int) -> Features:
    bought = _kind(events, "purchase")
    year = _last_days(bought, now, YEAR)
    told: Features = {
        "recency_days": min((_age(line.at, now) for line in bought), default=NEVER),
        "activity_days": min(_age(event.at, now) for event in events),
        "tenure_days": max(_age(event.at, now) for event in events),
        "returns_365d": _over(len(_last_days(_kind(events, "return"), now, YEAR)), len(year)),
        "returned_value_365d": _over(
            _money(_last_days(_kind(events, "return"), now, YEAR)),
            _money(year),
        ),
    }
    begins = [order[0] for order in _orders(bought)]
    told |= _windows("orders", begins, now, _how_many)
    told |= _windows("spend", bought, now, _money)
    told |= _windows("lines", bought, now, _how_many)
    told |= _windows("views", _kind(events, "view", "click", "cart"), now, _how_many)
    told |= _windows("carts", _kind(events, "cart"), now, _how_many)
    told |= _baskets(bought, begins, now)
    told |= _novelty(bought, now)
    told |= _habits(_last_days(begins, now, YEAR))
    told |= _last(bought)
    told |= _rhythm(begins, now, told["recency_days"])
    told |= _taste("category", [line.category for line in year])
    told |= _taste("month_category", [line.category for line in _last_days(bought, now, 30)])
    told |= _taste("channel", [line.channel for line in year])
    told |= _taste("store", [line.store for line in year])
    told["segment"] = _segment(told)
    return told


def _baskets(bought: list[Event], begins: list[Event], now: int) -> Features:
    """Lines and money an order (the lines and the beginnings of orders in the window), prices, discounts."""
    year, month = _last_days(bought, now, YEAR), _last_days(bought, now, 30)
    orders = len(_last_days(begins, now, YEAR))
    return {
        "basket_size": _over(len(year), orders),
        "basket_value": _over(_money(year), orders),
        "price_level": _over(_money(year), _units(year)),
        "price_level_30d": _over(_money(month), _units(month)),
        "discount_share": _over(_discounts(year), _money(year) + _discounts(year)),
        "discount_share_30d": _over(_discounts(month), _money(month) + _discounts(month)),
        "discounted_lines": _over(len([line for line in year if line.discount > 0]), len(year)),
    }


def _had_bought(line: Event, bought: Iterable[Event]) -> bool:
    """Whether the customer bought the product of the line at an earlier instant."""
    return any(other.product == line.product and other.at < line.at for other in bought)


def _novelty(bought: list[Event], now: int) -> Features:
    year = _last_days(bought, now, YEAR)
    first: dict[str, Event] = {}
    for line in bought:
        if line.category is not None and line.category not in first:
            first[line.category] = line
    return {
        "repeat_share": _over(len([line for line in year if _had_bought(line, bought)]), len(year)),
        "categories_ever": float(len(first)),
        "new_categories_90d": float(len(_last_days(first.values(), now, 90))),
    }


def _habits(begins: list[Event]) -> Features:
    """Parts of the day and days of the week at which orders began."""
    told: Features = {}
    clock = [datetime.fromtimestamp(line.at // 1_000_000, UTC) for line in begins]
    for part, hours in (
        ("night", (0, 1, 2, 3, 4, 5)),
        ("morning", (6, 7, 8, 9, 10, 11)),
        ("afternoon", (12, 13, 14, 15, 16, 17)),
        ("evening", (18, 19, 20, 21, 22, 23)),
    ):
        told[f"orders_{part}_share"] = _over(len([at for at in clock if at.hour in hours]), len(clock))
    for day in ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"):
        on_day = [at for at in clock if f"{at:%A}" == day]
        told[f"orders_{day.lower()}_share"] = _over(len(on_day), len(clock))
    return told


def _last(bought: list[Event]) -> Features:
    """The line bought last and its order, as far as it goes."""
    if not bought:
        numbers = ("order_value", "order_lines", "price", "discount_share", "hour")
        words = ("product", "category", "channel", "store")
        return {**{f"last_{name}": 0.0 for name in numbers}, **{f"last_{name}": "" for name in words}}
    line = bought[-1]
    order = next(lines for lines in _orders(bought) if line in lines)
    return {
        "last_order_value": _money(order),
        "last_order_lines": float(len(order)),
        "last_price": _over(line.value, line.quantity),
        "last_discount_share": _over(line.discount, line.value + line.discount),
        "last_hour": float(datetime.fromtimestamp(line.at // 1_000_000, UTC).hour),
        "last_product": line.product,
        "last_category": line.category or "",
        "last_channel": line.channel or "",
        "last_store": line.store or "",
    }


def _rhythm(begins: list[Event], now: int, recency: Any) -> Features:
    """Gaps between consecutive orders of which the later began in the last 365 days."""
    gaps = [
        (later.at - earlier.at) / DAY for earlier, later in pairwise(begins) if _age(later.at, now) <= YEAR
    ]
    mean = _over(sum(gaps), len(gaps))
    deviation = _over(sum((gap - mean) ** 2 for gap in gaps), len(gaps)) ** 0.5
    return {
        "gap_count": float(len(gaps)),
        "gap_mean_days": mean,
        "gap_deviation_days": deviation,
        "lateness": _over(recency, mean) if gaps else 0.0,
        "lateness_deviations": (recency - mean) / max(deviation, 1.0) if len(gaps) >= 2 else 0.0,
    }


def _taste(what: str, labels: Iterable[str | None]) -> Features:
    told = [label for label in labels if label is not None]
    counts = sorted(Counter(told).items(), key=lambda pair: (-pair[1], pair[0]))
    return {
        f"{what}_names": [label for label, _ in counts[:LISTED]],
        f"{what}_shares": [lines / len(told) for _, lines in counts[:LISTED]],
        f"{what}_breadth": float(len(counts)),
    }


def _segment(told: Mapping[str, Any]) -> str:
    """``category:…``, or ``rfm:…`` with the bounds of recency (60, 180 days) and orders a year (1, 4)."""
    if told["category_names"]:
        return f"category:{told['category_names'][0]}"
    if told["recency_days"] == NEVER:
        return "rfm:never"
    recency = (
        "recent" if told["recency_days"] <= 60 else "lapsing" if told["recency_days"] <= 180 else "lapsed"
    )
    frequency = "once" if told["orders_365d"] <= 1 else "few" if told["orders_365d"] <= 4 else "many"
    return f"rfm:{recency}-{frequency}"


@dataclass(frozen=True)
class _Marks:
    """Rows of purchase lines of known customers that are something to their customer."""

    first_buy: set[int]
    repeat: set[int]
    first_order: set[int]


def _marks(events: list[Event]) -> _Marks:
    marks = _Marks(set(), set(), set())
    for mine in _by_customer(events).values():
        bought = _kind(mine, "purchase")
        seen = set()
        for line in bought:
            if line.product not in seen:
                seen.add(line.product)
                marks.first_buy.add(line.row)
            if _had_bought(line, bought):
                marks.repeat.add(line.row)
        if bought:
            marks.first_order.update(line.row for line in _orders(bought)[0])
    return marks


def product_reference(tables: Tables, at: datetime) -> dict[str, Features]:
    """The product features of every product with an interaction before ``at``, a dated row or a launch by then."""
    now = _instant(at)
    events = _events(tables, now)
    marks = _marks(events)
    segments = {customer: str(told["segment"]) for customer, told in customer_reference(tables, at).items()}
    versions = _versions(tables)
    known = {event.product for event in events}
    for product, mine in versions.items():
        newest = _newest(mine, now)
        launched = newest is not None and newest.launched is not None and newest.launched <= now
        if launched or (newest is not None and newest.since is not None):
            known.add(product)
    told = {}
    categories = {}
    for product in sorted(known):
        mine = versions.get(product, [])
        newest = _newest(mine, now)
        categories[product] = None if newest is None else newest.category
        rows = [event for event in events if event.product == product]
        features = _product(rows, marks, now)
        features |= _bought_by(rows, segments, now)
        features |= _stock(mine, now)
        launch = None if newest is None else newest.launched
        if launch is not None and launch <= now:
            features["launched_days"] = _age(launch, now)
        else:
            features["launched_days"] = features["age_days"]
        told[product] = features
    for product in told:
        told[product]["price_rank"] = _price_rank(product, told, categories)
    return told


def _product(rows: list[Event], marks: _Marks, now: int) -> Features:
    bought = _kind(rows, "purchase")
    year, month, quarter = (_last_days(bought, now, days) for days in (YEAR, 30, 90))
    viewed = _kind(rows, "view", "click", "cart")
    price, price_now = _over(_money(year), _units(year)), _over(_money(month), _units(month))
    told: Features = {
        "recency_days": min((_age(line.at, now) for line in bought), default=NEVER),
        "age_days": max((_age(row.at, now) for row in rows), default=0.0),
        "price_paid": price,
        "price_paid_30d": price_now,
        "discount_share": _over(_discounts(year), _money(year) + _discounts(year)),
        "repeat_rate": _over(len([line for line in year if line.row in marks.repeat]), len(year)),
        "return_rate": _over(len(_last_days(_kind(rows, "return"), now, YEAR)), len(year)),
        "new_customer_share": _over(len([line for line in year if line.row in marks.first_order]), len(year)),
        "new_customer_share_30d": _over(
            len([line for line in month if line.row in marks.first_order]), len(month)
        ),
        "buyers_30d": float(len({line.customer for line in month} - {None})),
        "buyers_365d": float(len({line.customer for line in year} - {None})),
        "trend": (len(month) + 1) / (len(quarter) / 3 + 1),
        "conversion_90d": len(quarter) / (len(quarter) + len(_last_days(viewed, now, 90)) + 1),
        "price_change": price_now / price - 1 if price > 0 and price_now > 0 else 0.0,
    }
    told |= _windows("purchases", bought, now, _how_many)
    told |= _windows("revenue", bought, now, _money)
    told |= _windows("views", viewed, now, _how_many)
    told |= _windows("first_buys", [line for line in bought if line.row in marks.first_buy], now, _how_many)
    return told


def _bought_by(rows: list[Event], segments: Mapping[str, str], now: int) -> Features:
    lines = [line for line in _last_days(_kind(rows, "purchase"), now, 90) if line.customer is not None]
    of_all = Counter(segments[line.customer or ""] for line in lines)
    of_month = Counter(segments[line.customer or ""] for line in _last_days(lines, now, 30))
    top = sorted(of_all, key=lambda segment: (-of_all[segment], segment))[:LISTED]
    return {
        "segment_names": top,
        "segment_shares": [of_all[segment] / len(lines) for segment in top],
        "segment_trends": [(of_month[segment] + 1) / (of_all[segment] / 3 + 1) for segment in top],
    }


def _stock(versions: list[Version], now: int) -> Features:
    """Availability told by the dated rows up to ``now``; the first of them tells of what came before too."""
    dated = [(x.since, x.available) for x in versions if x.since is not None and x.since <= now]
    told: Features = {"stockouts_365d": 0.0, "restocked_days": NEVER}
    for days in (30, 90):
        begin = now - days * DAY
        held = 0
        for place, (since, available) in enumerate(dated):
            start = begin if place == 0 else max(since, begin)
            end = dated[place + 1][0] if place + 1 < len(dated) else now
            if available and end > start:
                held += end - start
        told[f"available_share_{days}d"] = held / (days * DAY) if dated else 1.0
    went = [since for (_, was), (since, now_is) in pairwise(dated) if was and not now_is]
    came = [since for (_, was), (since, now_is) in pairwise(dated) if now_is and not was]
    told["stockouts_365d"] = float(len([since for since in went if _age(since, now) <= YEAR]))
    told["restocked_days"] = min((_age(since, now) for since in came), default=NEVER)
    return told


def _price_rank(product: str, told: Mapping[str, Features], categories: Mapping[str, str | None]) -> float:
    """Share of the others sold in the category that are cheaper; those without a category are one group."""

    def price(other: str) -> float:
        return round(float(str(told[other]["price_paid"])), 6)

    kin = [other for other in told if other != product and categories[other] == categories[product]]
    others = [other for other in kin if price(other) > 0]
    if price(product) <= 0 or not others:
        return 0.5
    return _over(len([other for other in others if price(other) < price(product)]), len(others))


def customer_facts_reference(
    tables: Tables, at: datetime, *, final: datetime, constant: Collection[str] = ()
) -> dict[str, Features]:
    """The facts of every customer with a measurement before ``at`` or a date known at it.

    ``final`` is the final instant of the build, ``constant`` the columns declared constant.
    """
    now = _instant(at)
    names = sorted(set(tables["measures"]["name"]))
    measured: dict[str, dict[str, list[Measure]]] = {}
    for row in tables["measures"].to_dict("records"):
        told_at = micros(row["at"])
        assert told_at is not None
        if told_at < now:
            mine = measured.setdefault(str(row["customer_id"]), {name: [] for name in names})
            mine[row["name"]].append(Measure(told_at, float(row["value"])))
    dates = _dates(tables["customers"], "customer_id", now, _instant(final), constant, "signed_up_at")
    columns = _date_columns(tables["customers"])
    told = {}
    for customer in measured.keys() | dates.keys():
        features: Features = {}
        for name in names:
            column = re.sub(r"\W+", "_", name).strip("_")
            features |= _measure(column, measured.get(customer, {}).get(name, []), now)
        features |= _since(dates.get(customer, {}), columns, now)
        told[customer] = features
    return told


def product_facts_reference(
    tables: Tables, at: datetime, *, final: datetime, constant: Collection[str] = ()
) -> dict[str, Features]:
    """The facts of every product with a date known at ``at``; the launch is a feature of products, no fact."""
    now = _instant(at)
    dates = _dates(tables["products"], "product_id", now, _instant(final), constant)
    columns = _date_columns(tables["products"])
    return {product: _since(mine, columns, now) for product, mine in dates.items()}


def _measure(column: str, told: list[Measure], now: int) -> Features:
    """Level, age, mean, change and slope; of two told at once the greater is the later."""
    told = sorted(told, key=lambda measure: (measure.at, measure.value))
    last = told[-1].value if told else 0.0
    features: Features = {
        f"{column}_last": last,
        f"{column}_age_days": _age(told[-1].at, now) if told else NEVER,
    }
    for days in CHANGES:
        recent = [measure for measure in told if _age(measure.at, now) <= days]
        before = [measure for measure in told if _age(measure.at, now) >= days]
        values = [measure.value for measure in recent]
        features[f"{column}_mean_{days}d"] = sum(values) / len(values) if values else last
        features[f"{column}_change_{days}d"] = last - before[-1].value if before else 0.0
        features[f"{column}_slope_{days}d"] = _slope(recent, now)
    return features


def _slope(measures: list[Measure], now: int) -> float:
    if len({measure.at for measure in measures}) < 2:
        return 0.0
    days = [-_age(measure.at, now) for measure in measures]
    values = [measure.value for measure in measures]
    mean_day, mean_value = sum(days) / len(days), sum(values) / len(values)
    together = sum((d - mean_day) * (x - mean_value) for d, x in zip(days, values, strict=True))
    return together / sum((d - mean_day) ** 2 for d in days)


def _date_columns(frame: pd.DataFrame) -> list[str]:
    """Columns with instants, but for those with a meaning of their own."""
    own = ("valid_from", "launched_at", "withdrawn_at")
    return [
        str(name) for name in frame if name not in own and isinstance(frame[name].dtype, pd.DatetimeTZDtype)
    ]


def _dates(
    frame: pd.DataFrame,
    entity: str,
    now: int,
    final: int,
    constant: Collection[str],
    known_once_past: str | None = None,
) -> dict[str, dict[str, int]]:
    """Dates of each entity as known at ``now``: of the newest dated row, else what an undated row may tell."""
    columns = _date_columns(frame)
    rows: dict[str, list[tuple[int | None, dict[str, int | None]]]] = {}
    for row in frame.to_dict("records"):
        told = {name: micros(row[name]) for name in columns}
        rows.setdefault(str(row[entity]), []).append((micros(row["valid_from"]), told))
    known: dict[str, dict[str, int]] = {}
    for key, versions in rows.items():
        # at one instant: the row with the earliest dates
        versions.sort(key=lambda version: [_missing_last(told) for told in version[1].values()])
        dated = [(since, told) for since, told in versions if since is not None and since <= now]
        undated = [told for since, told in versions if since is None]
        mine: dict[str, int | None] = {}
        if dated:
            newest = max(since for since, _ in dated)
            mine = next(told for since, told in dated if since == newest)
        elif undated:
            for name, told_at in undated[0].items():
                is_past = name == known_once_past and told_at is not None and told_at <= now
                if now >= final or name in constant or is_past:
                    mine[name] = told_at
        found = {name: told_at for name, told_at in mine.items() if told_at is not None}
        if found:
            known[key] = found
    return known


def _since(dates: Mapping[str, int], columns: Iterable[str], now: int) -> Features:
    return {
        f"{column.removesuffix('_at')}_days": _age(dates[column], now) if column in dates else NEVER
        for column in columns
    }
