"""HTML elements and the document around them: every string is escaped, and the page loads nothing.

A policy in the page's head lets a browser run the one script of `page.js` and show embedded pictures, nothing else.
"""

from __future__ import annotations

import base64
import hashlib
import html
import math
import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources

from paramisp_cli import __version__

GENERATOR = "paramisp"
"""Name in the page's head, by which ``is_own`` knows a page of paramisp."""
_VOID = {"br", "img", "input", "link", "meta"}
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
"""Control characters and marks of writing direction, which could hide a part of a file's name."""


class Markup(str):
    """HTML source, ready for the page. Any other string is text and gets escaped."""

    __slots__ = ()


def text(value: object) -> Markup:
    """Escape a value as text; control characters and bytes that are not UTF-8 become visible escapes."""
    if isinstance(value, Markup):
        return value
    seen = str(value).encode("utf-8", "backslashreplace").decode("utf-8")
    return Markup(html.escape(_UNSEEN.sub(lambda match: ascii(match[0])[1:-1], seen), quote=True))


def tag(name: str, /, *children: object, **attributes: object) -> Markup:
    """Make an element; ``class_`` and ``data_x`` become class and data-x; None and False leave an attribute out."""
    shown = []
    for key, value in attributes.items():
        attribute = key.rstrip("_").replace("_", "-")
        if value is True:
            shown.append(f" {attribute}")
        elif value is not None and value is not False:
            shown.append(f' {attribute}="{text(value)}"')
    head = f"<{name}{''.join(shown)}>"
    if name in _VOID:
        return Markup(head)
    return Markup(f"{head}{''.join(map(text, children))}</{name}>")


def joined(parts: Iterable[object]) -> Markup:
    """Join elements and texts."""
    return Markup("".join(map(text, parts)))


# Numbers --------------------------------------------------------------------------------------------------------------


def number(value: object, digits: int | None = None) -> str:
    """Word a number with ``digits`` after the point (None: up to 5 significant digits); "–" for none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int) and abs(value) > 10**15:  # beyond every float, perhaps
        return str(value)[:40]
    if not math.isfinite(value):
        return "∞" if value == math.inf else "not a number" if math.isnan(value) else "−∞"
    if digits is not None:
        return f"{value:.{digits}f}".replace("-", "−")
    shown = str(value) if isinstance(value, int) else f"{value:.5g}"
    return re.sub(r"e(-?)\+?0*", r"e\1", shown).replace("-", "−")


def seconds(value: float) -> str:
    """Word an exposure time: "1/125 s", "2 s"."""
    return f"1/{1 / value:.0f} s" if 0 < value < 0.4 else f"{value:.3g} s"


def counted(count: int, noun: str, plural: str | None = None) -> str:
    """Word a number of things: "1 pair", "3 pairs"."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


# Blocks ---------------------------------------------------------------------------------------------------------------


def paragraph(*children: object) -> Markup:
    """Make a paragraph."""
    return tag("p", *children)


def tiles(items: Iterable[tuple[str, object]]) -> Markup:
    """Make the row of main numbers: (name, value)."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items), class_="tiles")


def facts(items: Iterable[tuple[str, object]]) -> Markup:
    """Make a list of names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in items), class_="facts")


def table(
    caption: str, head: Sequence[object], rows: Iterable[Sequence[object]], *, numbers_from: int | None = None
) -> Markup:
    """Make a table that scrolls inside its box; columns from ``numbers_from`` on are aligned as numbers.

    The first cell of a row is its heading.
    """

    def kind(column: int) -> str | None:
        return "n" if numbers_from is not None and column >= numbers_from else None

    columns = (tag("th", name, scope="col", class_=kind(column)) for column, name in enumerate(head))
    body = []
    for row in rows:
        first, *others = row
        cells = (tag("td", cell, class_=kind(column)) for column, cell in enumerate(others, 1))
        body.append(tag("tr", tag("th", first, scope="row"), *cells))
    whole = tag("table", tag("thead", tag("tr", *columns)), tag("tbody", *body), aria_label=caption)
    box = tag("div", whole, class_="scroll", tabindex="0", role="region", aria_label=f"{caption}: table")
    return tag("div", tag("p", caption, class_="caption"), box, class_="listing")


def details(summary: str, *children: object, is_open: bool = False) -> Markup:
    """Make a block that opens on a click."""
    return tag("details", tag("summary", summary), *children, open=is_open)


def limited(shown: int, total: int, noun: str) -> Markup:
    """Make the sentence about things that a long list leaves out; nothing if it leaves out none."""
    return paragraph(f"The first {shown} of {total} {noun}.") if total > shown else Markup("")


# Pictures -------------------------------------------------------------------------------------------------------------


def image(uri: str, size: tuple[int, int], alt: str, **attributes: object) -> Markup:
    """Make a picture of a data URI; ``size`` is (height, width)."""
    height, width = size
    return tag("img", src=uri, alt=alt, width=width, height=height, **attributes)


def figure(picture: Markup, caption: object) -> Markup:
    """Make a picture with a caption."""
    return tag("figure", picture, tag("figcaption", caption))


def compared(before: Markup, after: Markup, names: tuple[str, str], subject: str) -> Markup:
    """Lay a picture over another with a divider that moves; ``names`` are those of the left and the right picture."""
    left, right = names
    divider = tag(
        "input", type="range", min="0", max="100", step="1", value="50", class_="divider",
        aria_label=f"{subject}: share of the width that shows {left} instead of {right}", data_divider=True,
    )  # fmt: skip
    legend = tag("figcaption", tag("span", "◀ ", left), tag("span", right, " ▶"), class_="sides")
    over = tag("div", before, class_="over", data_over=True)
    return tag("figure", tag("div", after, over, divider, class_="compare", data_compare=True), legend)


def chooser(label: str, frames: Sequence[tuple[str, Markup]], *, slider: bool = True) -> Markup:
    """Show one of several frames (name, content), the last at first, by a slider or a list of names."""
    if len(frames) == 1:
        return tag("div", paragraph(f"{label}: {frames[0][0]}"), frames[0][1], class_="frames")
    last = len(frames) - 1
    output = Markup("")
    if slider:
        names = "\n".join(" ".join(name.split()) for name, _ in frames)
        control = tag(
            "input", type="range", min="0", max=last, step="1", value=last, aria_label=label,
            aria_valuetext=frames[-1][0], data_names=names, data_chooser=True,
        )  # fmt: skip
        output = tag("output", frames[-1][0])
    else:
        choices = [tag("option", name, value=at, selected=at == last) for at, (name, _) in enumerate(frames)]
        control = tag("select", *choices, aria_label=label, data_chooser=True)
    shown = [tag("div", each, class_="frame", hidden=at != last) for at, (_, each) in enumerate(frames)]
    chosen = tag("div", tag("label", tag("span", label), control), output, class_="choose")
    return tag("div", chosen, *shown, class_="frames")


# The document ---------------------------------------------------------------------------------------------------------


@cache
def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text("utf-8")


def _hash(content: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()}'"


def page(title: str, lead: object, sections: Sequence[tuple[str, Markup]]) -> str:
    """Return the document: title, lead, and sections (heading, content); empty sections are left out."""
    style, script = _resource("page.css"), _resource("page.js")
    policy = f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}"
    shown = [(f"s{at}", heading, content) for at, (heading, content) in enumerate(sections, 1) if content]
    links = [tag("li", tag("a", heading, href=f"#{name}")) for name, heading, _ in shown]
    head = [
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("meta", name="generator", content=f"{GENERATOR} {__version__}"),
        tag("title", title),
        tag("link", rel="icon", href="data:,"),
        Markup(f"<style>{style}</style>"),
    ]
    body = [
        tag("header", tag("h1", title), tag("p", lead, class_="lead")),
        tag("nav", tag("ul", *links), aria_label="Sections") if len(links) > 2 else "",
        tag("main", *(tag("section", tag("h2", heading), each, id=name) for name, heading, each in shown)),
        tag("footer", paragraph(f"Made by paramisp {__version__}.")),
        Markup(f"<script>{script}</script>"),
    ]
    document = tag("html", tag("head", *head), "\n", tag("body", *body), lang="en")
    return f"<!doctype html>\n{document}\n"
