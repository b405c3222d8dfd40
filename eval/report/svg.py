"""Small charts as SVG inside the page: lines, intervals, stacked shares.

They are drawn for a phone and grow to twice that, so that their text is legible at both. Colours differ for the
colour-blind, and lines by their dashes as well. Deliberately absent: a charting library, which would outweigh the
page, and anything that moves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from markupsafe import Markup, escape

WIDTH: Final = 360
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 26
_INK, _SOFT, _LINE = "#1d252c", "#5b6670", "#dde2e6"


@dataclass(frozen=True)
class Line:
    """One line of a chart: its points (x, y), colour and dashes; ``strong`` draws it thicker and last."""

    name: str
    points: Sequence[tuple[float, float]]
    colour: str
    dash: str = ""
    strong: bool = False
    band: Sequence[tuple[float, float, float]] = ()


@dataclass(frozen=True)
class Range:
    """One mean with its interval, to be told with its label."""

    label: str
    low: float
    mean: float
    high: float
    colour: str
    strong: bool = False


@dataclass(frozen=True)
class Part:
    """One bar of shares that sum to one."""

    label: str
    shares: Sequence[float]


def lines(
    series: Sequence[Line],
    *,
    label: str,
    x_ticks: Sequence[tuple[float, str]],
    y_of: Callable[[float], str],
    y_from_zero: bool = True,
    y_max: float | None = None,
    height: int = 210,
) -> Markup:
    """Draw lines over a common axis.

    Parameters
    ----------
    series
        The lines; where one has a ``band`` (x, low, high), it is shaded.
    label
        What a reader who does not see it is told.
    x_ticks
        Where the axis is marked, and how.
    y_of
        How a height is written.
    y_from_zero
        Whether the axis begins at zero.
    y_max
        Where it ends; by default at the highest point.
    height
        In units of the drawing, which is 360 wide.
    """
    xs = [x for line in series for x, _ in line.points]
    ys = [y for line in series for _, y in line.points] + [h for one in series for *_, h in one.band]
    if not xs:
        return Markup("")
    left, right = min(xs), max(xs)
    low = 0.0 if y_from_zero else min(ys + [low for one in series for _, low, _ in one.band])
    high = y_max if y_max is not None else max(ys)
    high = high if high > low else low + 1.0
    inner_w, inner_h = WIDTH - _LEFT - _RIGHT, height - _TOP - _BOTTOM

    def px(x: float) -> float:
        return _LEFT + (inner_w / 2 if right == left else inner_w * (x - left) / (right - left))

    def py(y: float) -> float:
        return _TOP + inner_h * (1 - (y - low) / (high - low))

    parts = []
    for y in _ticks(low, high):
        parts.append(
            f'<line x1="{_LEFT}" x2="{WIDTH - _RIGHT}" y1="{py(y):.1f}" y2="{py(y):.1f}" stroke="{_LINE}"/>'
        )
        parts.append(_text(_LEFT - 5, py(y) + 4, y_of(y), anchor="end", colour=_SOFT))
    for x, text in x_ticks:
        anchor = "start" if px(x) < _LEFT + 12 else "end" if px(x) > WIDTH - _RIGHT - 16 else "middle"
        parts.append(_text(px(x), height - 8, text, anchor=anchor, colour=_SOFT))
    for line in sorted(series, key=lambda one: one.strong):
        if line.band:
            upper = [f"{px(x):.1f},{py(h):.1f}" for x, _, h in line.band]
            lower = [f"{px(x):.1f},{py(b):.1f}" for x, b, _ in reversed(line.band)]
            parts.append(
                f'<polygon points="{" ".join(upper + lower)}" fill="{line.colour}" fill-opacity="0.14" stroke="none"/>'
            )
        points = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in line.points)
        width = 2.6 if line.strong else 1.6
        dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
        if len(line.points) == 1:
            x, y = line.points[0]
            parts.append(f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="4" fill="{line.colour}"/>')
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="{line.colour}" stroke-width="{width}"{dash} '
            'stroke-linejoin="round"/>'
        )
    return _svg(parts, label, height)


def ranges(rows: Sequence[Range], *, label: str, told: Callable[[Range], str]) -> Markup:
    """Draw means with their intervals, one under the other on one axis that begins at zero."""
    if not rows:
        return Markup("")
    step, top = 32, 4
    high = max(row.high for row in rows) or 1.0
    low = min(0.0, *(row.low for row in rows))
    span = (high - low) or 1.0

    def px(value: float) -> float:
        return 4 + (WIDTH - 8) * (value - low) / span

    parts = []
    if low < 0:
        end = top + step * len(rows)
        parts.append(f'<line x1="{px(0):.1f}" x2="{px(0):.1f}" y1="{top}" y2="{end}" stroke="{_SOFT}"/>')
    for number, row in enumerate(rows):
        y = top + step * number
        parts.append(_text(2, y + 11, row.label, bold=row.strong, halo=True))
        parts.append(_text(WIDTH - 2, y + 11, told(row), anchor="end", bold=row.strong, halo=True))
        middle = y + 20
        parts.append(f'<line x1="4" x2="{WIDTH - 4}" y1="{middle}" y2="{middle}" stroke="{_LINE}"/>')
        parts.append(
            f'<line x1="{px(row.low):.1f}" x2="{px(row.high):.1f}" y1="{middle}" y2="{middle}" stroke="{row.colour}" '
            'stroke-width="4" stroke-opacity="0.45" stroke-linecap="round"/>'
        )
        parts.append(f'<circle cx="{px(row.mean):.1f}" cy="{middle}" r="4.5" fill="{row.colour}"/>')
    return _svg(parts, label, top + step * len(rows))


def stacked(rows: Sequence[Part], *, label: str, colours: Sequence[str]) -> Markup:
    """Draw shares as bars of one length, one under the other."""
    step = 34
    parts = []
    for number, row in enumerate(rows):
        y = step * number
        parts.append(_text(2, y + 12, row.label))
        x = 2.0
        for share, colour in zip(row.shares, colours, strict=True):
            width = (WIDTH - 4) * share
            parts.append(f'<rect x="{x:.1f}" y="{y + 17}" width="{width:.1f}" height="11" fill="{colour}"/>')
            x += width
    return _svg(parts, label, step * len(rows))


def spark(values: Sequence[float], *, label: str, colour: str) -> Markup:
    """Draw a trend in a table's cell."""
    if len(values) < 2:
        return Markup("")
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    points = " ".join(
        f"{4 + 92 * i / (len(values) - 1):.1f},{22 - 18 * (value - low) / span:.1f}"
        for i, value in enumerate(values)
    )
    last = points.rsplit(" ", 1)[-1].split(",")
    return Markup(
        f'<svg class="spark" viewBox="0 0 100 26" width="100" height="26" role="img" aria-label="{escape(label)}">'
        f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.8"/>'
        f'<circle cx="{last[0]}" cy="{last[1]}" r="3" fill="{colour}"/></svg>'
    )


def _ticks(low: float, high: float) -> list[float]:
    """Return three to six round heights from ``low`` to ``high``."""
    raw = (high - low) / 4
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(scale * part for part in (1, 2, 2.5, 5, 10) if scale * part >= raw)
    first = -(-low // step) * step
    return [round(first + step * i, 10) for i in range(int((high - first) / step + 1e-9) + 1)]


def _text(
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    colour: str = _INK,
    bold: bool = False,
    halo: bool = False,
) -> str:
    weight = ' font-weight="700"' if bold else ""
    if halo:  # a line behind it does not run through the letters
        weight += ' stroke="#fff" stroke-width="4" paint-order="stroke"'
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{colour}" font-size="11"{weight}>'
        f"{escape(text)}</text>"
    )


def _svg(parts: Sequence[str], label: str, height: int) -> Markup:
    body = "".join(parts)
    return Markup(
        f'<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="{escape(label)}"><title>{escape(label)}</title>'
        f"{body}</svg>"
    )
