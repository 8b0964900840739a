"""Curves and bars as SVG, with axes; the colours are those of the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from paramisp_cli.pages.document import Markup, number, tag, text

_WIDTH, _HEIGHT = 420, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 14, 14, 44
_COLOURS = 6
_MOST_DOTS = 500
_WIDE = 30.0
"""Ratio of the greatest to the least value from which an axis is logarithmic."""


@dataclass(frozen=True, slots=True)
class Series:
    """A curve: its name, and points (x, y). Points without a finite y are left out."""

    name: str
    points: Sequence[tuple[float, float]]


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Return round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [at * step for at in range(first, math.floor(high / step + 1e-9) + 1)]


def _decades(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times powers of ten between two positive numbers; powers alone over many decades."""
    factors = (1, 2, 5) if high / low < 300 else (1,)
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [f * 10.0**power for power in powers for f in factors if low * 0.999 <= f * 10.0**power <= high * 1.001]


def _widened(low: float, high: float) -> tuple[float, float]:
    """Return a range with a margin; a single value gets one around it."""
    margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def curves(series: Sequence[Series], x_name: str, y_name: str, *, zoomed: bool = True) -> Markup:
    """Draw curves over a common axis; a wide range of positive values gets a logarithmic axis.

    ``zoomed`` False begins the axis at 0. Every point of a curve that is not too long has its
    values as a tooltip.
    """
    own = [Series(s.name, [p for p in s.points if math.isfinite(p[1])]) for s in series]
    points = [point for each in own for point in each.points]
    if not points:
        return tag("p", f"{y_name}: no finite value.", class_="soft")
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    is_log = min(ys) > 0 and max(ys) / min(ys) > _WIDE
    left, right = (min(xs), max(xs)) if max(xs) > min(xs) else _widened(min(xs), max(xs))
    if is_log:
        low, high = min(ys) / 1.2, max(ys) * 1.2
        marks = _decades(low, high)
    else:
        low, high = _widened(min(ys), max(ys)) if zoomed else (0.0, max(ys) * 1.05 or 1.0)
        marks = ticks(low, high)

    def place(x: float, y: float) -> tuple[float, float]:
        up = math.log(y / low) / math.log(high / low) if is_log else (y - low) / (high - low)
        across = (x - left) / (right - left)
        return (
            round(_LEFT + across * (_WIDTH - _LEFT - _RIGHT), 1),
            round(_HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM), 1),
        )

    drawn: list[Markup] = []
    for mark in marks:
        _, y = place(left, mark)
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", number(float(f"{mark:.6g}")), x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for mark in ticks(left, right, 4):
        x, _ = place(mark, low)
        drawn.append(tag("line", x1=x, x2=x, y1=_HEIGHT - _BOTTOM, y2=_HEIGHT - _BOTTOM + 4, class_="axis"))
        drawn.append(tag("text", f"{mark:.6g}", x=x, y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    drawn += _axes(f"{x_name}{' · ' + y_name + ', logarithmic' if is_log else ''}")
    for at, each in enumerate(own):
        colour = at % _COLOURS
        spots = [place(*point) for point in each.points]
        if len(spots) > 1:
            line = " ".join(f"{x},{y}" for x, y in spots)
            drawn.append(tag("polyline", points=line, class_=f"line s{colour}"))
        for (x, y), point in zip(spots, each.points, strict=True) if len(spots) <= _MOST_DOTS else ():
            label = f"{each.name}, {x_name} {point[0]:.6g}: {number(point[1])}"
            drawn.append(tag("circle", tag("title", label), cx=x, cy=y, r=3 if len(spots) < 60 else 1.5,
                             class_=f"d{colour}"))  # fmt: skip
    legend = _legend([each.name for each in own]) if len(own) > 1 else []
    names = ", ".join(each.name for each in own)
    return _svg(f"{y_name} over {x_name}: {names}", drawn, legend)


def bars(labels: Sequence[str], counts: Sequence[int], name: str) -> Markup:
    """Draw a bar for each label, with a tooltip; labels that would overlap are left out."""
    high = max(counts, default=0) or 1
    slot = (_WIDTH - _LEFT - _RIGHT) / max(len(labels), 1)
    room = max(8 * max(map(len, labels), default=1) + 6, 24)
    every = max(math.ceil(room / slot), 1)
    drawn: list[Markup] = []
    for mark in [mark for mark in ticks(0, high * 1.05, 4) if mark == int(mark)]:
        y = round(_HEIGHT - _BOTTOM - mark / (high * 1.05) * (_HEIGHT - _TOP - _BOTTOM), 1)
        drawn.append(tag("line", x1=_LEFT, x2=_WIDTH - _RIGHT, y1=y, y2=y, class_="grid"))
        drawn.append(tag("text", f"{mark:.0f}", x=_LEFT - 6, y=y + 4, text_anchor="end"))
    for at, (label, count) in enumerate(zip(labels, counts, strict=True)):
        tall = round(count / (high * 1.05) * (_HEIGHT - _TOP - _BOTTOM), 1)
        x = round(_LEFT + at * slot + 0.1 * slot, 1)
        drawn.append(
            tag("rect", tag("title", f"{label}: {count}"), x=x, y=_HEIGHT - _BOTTOM - tall, width=round(0.8 * slot, 1),
                height=tall, class_="bar")
        )  # fmt: skip
        if at % every == 0:
            middle = round(_LEFT + (at + 0.5) * slot, 1)
            drawn.append(tag("text", label, x=middle, y=_HEIGHT - _BOTTOM + 18, text_anchor="middle"))
    drawn += _axes(name)
    told = ", ".join(f"{label}: {count}" for label, count in zip(labels, counts, strict=True) if count)
    return _svg(f"Number by {name}. {told}", drawn, [])


def _axes(name: str) -> list[Markup]:
    bottom, right = _HEIGHT - _BOTTOM, _WIDTH - _RIGHT
    return [
        tag("line", x1=_LEFT, x2=right, y1=bottom, y2=bottom, class_="axis"),
        tag("line", x1=_LEFT, x2=_LEFT, y1=_TOP, y2=bottom, class_="axis"),
        tag("text", name, x=(_LEFT + right) / 2, y=_HEIGHT - 6, text_anchor="middle", class_="name"),
    ]


def _legend(names: Sequence[str]) -> list[Markup]:
    """Return a line for each curve, below the drawing."""
    lines = []
    for at, name in enumerate(names):
        y = _HEIGHT + 14 + 20 * at
        lines.append(tag("line", x1=_LEFT, x2=_LEFT + 22, y1=y, y2=y, class_=f"line s{at % _COLOURS}"))
        lines.append(tag("text", name, x=_LEFT + 30, y=y + 4, class_="name"))
    return lines


def _svg(label: str, drawn: Sequence[Markup], legend: Sequence[Markup]) -> Markup:
    height = _HEIGHT + 10 * len(legend) + (4 if legend else 0)  # a line of the legend has two elements
    inside = "".join(map(text, [*drawn, *legend]))
    # viewBox keeps its capital letter, which ``tag`` would accept, too; aria-label tells the drawing's content.
    return Markup(f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="{text(label)}">{inside}</svg>')


def plot(heading: str, drawing: Markup, *more: object) -> Markup:
    """Put a drawing into a card with a heading."""
    return tag("div", tag("h3", heading), drawing, *more, class_="plot")


def plots(cards: Sequence[Markup]) -> Markup:
    """Put cards side by side as far as they fit; nothing without cards."""
    return tag("div", *cards, class_="plots") if cards else Markup("")
