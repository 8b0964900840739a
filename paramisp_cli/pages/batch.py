"""The page of a batch: each file before and after, its parameters, notices and time, and the failures first."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paramisp_cli.batch.find import Job
from paramisp_cli.batch.outcome import Outcome
from paramisp_cli.directions import Direction
from paramisp_cli.pages import pictures
from paramisp_cli.pages.document import (
    Markup,
    compared,
    details,
    facts,
    joined,
    limited,
    number,
    page,
    paragraph,
    seconds,
    table,
    tag,
    tiles,
)
from paramisp_cli.pages.pictures import Picture
from paramisp_cli.types import Output

_SIDE, MOST_PICTURES, _MOST_ROWS = 240, 300, 5000
"""Least size [px] of the longer side of a thumbnail; most files with thumbnails, and with a row: bounds of the page."""


def thumbnails(before: Output, after: Output) -> tuple[Picture, Picture]:
    """Return thumbnails of the input and the result of a conversion."""
    first, second = (pictures.embedded(pictures.of_image(each, _SIDE), _SIDE) for each in (before, after))
    return first, second


@dataclass(frozen=True, slots=True)
class _Row:
    """A finished file: the texts of its card."""

    source: Path
    target: str
    status: str
    seconds: float
    error: str
    notices: tuple[str, ...]
    values: list[tuple[str, str]]


@dataclass(slots=True)
class Page:
    """The page of a batch in progress; ``taken`` may be called from any thread.

    worded   turns a text of the library into one with the command's flags
    """

    direction: Direction
    worded: Callable[[str], str] = str
    rows: list[_Row] = field(default_factory=list)
    thumbnails: dict[Path, tuple[Picture, Picture]] = field(default_factory=dict)

    def taken(self, job: Job, before: Output, after: Output) -> None:
        """Make thumbnails of the input and the result of a conversion, up to a number of files."""
        if len(self.thumbnails) < MOST_PICTURES:
            self.put(job, thumbnails(before, after))

    def put(self, job: Job, pair: tuple[Picture, Picture]) -> None:
        """Take the thumbnails of a conversion, made in another process."""
        self.thumbnails[job.source] = pair

    def add(self, outcome: Outcome) -> None:
        """Take the facts of a finished file. The outcome itself may hold a RAW, and is not stored."""
        described = outcome.conversion.describe() if outcome.conversion is not None else {}
        self.rows.append(
            _Row(
                outcome.job.source,
                str(outcome.target) if outcome.target is not None else "",
                outcome.status,
                outcome.seconds,
                self.worded(str(outcome.error)).removeprefix(f"{outcome.job.source}: ") if outcome.error else "",
                tuple(map(self.worded, outcome.all_notices)),
                _values(described),
            )
        )

    def document(self, untried: int = 0) -> str:
        """Return the page; ``untried`` files were left at an interrupt or after a failure."""
        counts = Counter(row.status for row in self.rows)
        items: list[tuple[str, object]] = [(name.capitalize(), counts[name]) for name in ("done", "skipped", "failed")]
        items += [("Not tried", untried)] if untried else []
        items.append(("Time of all files", f"{number(sum(row.seconds for row in self.rows), 1)} s"))
        failed = [row for row in self.rows if row.status == "failed"]
        failures = table("Failed files", ["file", "error"], [[row.source, row.error] for row in failed[:_MOST_ROWS]])
        sections = [
            ("Overview", tiles(items)),
            ("Failures", failures if failed else Markup("")),
            ("Files", self._cards()),
            ("Notices", _notices(self.rows)),
            ("All files", _listed(self.rows)),
        ]
        lead = "RAW is drawn plainly here: white balance, colour matrix and even brightness, without a look."
        return page(f"Batch of {self.direction}", lead, sections)

    def _cards(self) -> Markup:
        done = [row for row in self.rows if row.status == "done"]
        if not done:
            return paragraph("No file was converted.")
        shown = [row for row in done if row.source in self.thumbnails]
        note = limited(len(shown), len(done), "converted files have thumbnails")
        return joined([tag("div", *map(self._card, shown), class_="sheet"), note])

    def _card(self, row: _Row) -> Markup:
        before, after = self.thumbnails[row.source]
        names = str(self.direction.input), str(self.direction.output)
        name = row.source.name
        shown = compared(before.shown(f"{name}, {names[0]}"), after.shown(f"{name}, {names[1]}"), names, name)
        return tag(
            "article",
            tag("h3", name),
            shown,
            paragraph(f"{row.seconds:.1f} s → ", tag("code", Path(row.target).name)),
            *(paragraph(notice) for notice in row.notices),
            details("Parameters", facts(row.values)),
            class_="pair",
        )


def _values(described: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Word the parameters of a conversion, each with its origin."""
    origin = described.get("origin") or {}
    shown = []
    for key, value in described.items():
        if key in ("origin", "notices") or value is None:
            continue
        source = origin.get({"wb_gains": "wb"}.get(key, key))
        if key == "exposure_time" and isinstance(value, int | float):
            worded = seconds(value)
        elif isinstance(value, str):
            worded = value
        else:
            worded = json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else number(value)
        shown.append((key, f"{worded} ({source})" if source else worded))
    return shown


def _notices(rows: list[_Row]) -> Markup:
    """Return each notice once, with the number of its files."""
    counts = Counter(notice for row in rows for notice in row.notices)
    if not counts:
        return Markup("")
    return table("Notices", ["notice", "files"], counts.most_common(200), numbers_from=1)


def _listed(rows: list[_Row]) -> Markup:
    listed = [
        [row.source, tag("span", row.status, class_="failed") if row.status == "failed" else row.status,
         row.target or "–", f"{row.seconds:.2f}"]
        for row in rows[:_MOST_ROWS]
    ]  # fmt: skip
    listing = table("Files in their order", ["input", "status", "output", "time [s]"], listed, numbers_from=3)
    return joined([listing, limited(len(listed), len(rows), "files")])
