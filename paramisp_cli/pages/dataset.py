"""The page of a data set: counts, splits, distributions of the settings, licence, and some of its pictures.

Data sets of ``pairs`` and ``simulate`` have aligned pairs, those of ``synth`` clean and noisy RAWs, those of
``blur-dataset`` blurred and sharp pictures. Each line of the index becomes an ``Entry``.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from paramisp_cli.errors import InputMissingError
from paramisp_cli.pages import lines, pictures, samples, svg
from paramisp_cli.pages.document import (
    Markup,
    compared,
    counted,
    details,
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
from paramisp_cli.pages.lines import Record
from paramisp_cli.training import dataset
from paramisp_cli.training.dataset import Pair

CARD, OPTIONS = "README.md", "synth.json"
_MOST_PICTURES, _MOST_ROWS = 24, 300


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of an index.

    status   "pair", "reduced", "made" or "refused"
    split    "train" or "test"; "" in a data set without splits
    values   name of a quantity → value: ISO, exposure time [s], f-number, focal length [mm], EV
    """

    name: str
    status: str
    camera: str
    split: str = ""
    licence: str = ""
    reason: str = ""
    source: str = ""
    values: dict[str, float] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """Whether the data set holds its arrays or pictures."""
        return self.status != "refused"


@dataclass(frozen=True, slots=True)
class _Scale:
    """Bins of a distribution: ``base`` · ``factor``^k; with factor 0, whole numbers."""

    base: float
    factor: float
    word: Callable[[float], str]


_SCALES = {
    "ISO": _Scale(100, 2, lambda v: f"{v:.0f}"),
    "Exposure time [s]": _Scale(1, 2, lambda v: seconds(v).removesuffix(" s")),
    "f-number": _Scale(1, math.sqrt(2), lambda v: {"5.7": "5.6", "23": "22"}.get(f"{v:.2g}", f"{v:.2g}")),
    "Focal length [mm]": _Scale(50, math.sqrt(2), lambda v: f"{v:.0f}"),
    "Light of the scene [EV at ISO 100]": _Scale(0, 0, lambda v: f"{v:.0f}".replace("-", "−")),
    "Brightness from the picture's [EV]": _Scale(0, 0, lambda v: f"{v:.0f}".replace("-", "−")),
    "Headroom above the picture's white [EV]": _Scale(0, 0, lambda v: f"{v:.0f}".replace("-", "−")),
}
_ISO, _TIME, _F, _FOCAL, _EV, _EXPOSURE, _HEADROOM = _SCALES


def is_dataset(folder: Path) -> bool:
    """Tell whether a folder is a data set with an index."""
    return (folder / dataset.INDEX).is_file()


def document(folder: Path) -> str:
    """Return the page of a data set.

    Raises InputMissingError for an empty index, and FormatError for a damaged line, array or picture.
    """
    records = lines.read(folder / dataset.INDEX)
    if not records:
        raise InputMissingError(f"{folder / dataset.INDEX}: has no line: the data set is empty")
    if "regions" in records[0]:
        pairs = dataset.read_index(folder)
        entries = [_of_pair(pair) for pair in pairs]
        kind, shown = _kind_of(pairs), _pairs(folder, pairs)
    else:
        entries = [_of_record(record) for record in records]
        synthetic = (folder / OPTIONS).is_file()
        kind = "RAW that `paramisp synth` made of pictures" if synthetic else "blurred and sharp pictures"
        shown = _synthetic(folder, records) if synthetic else _sheet(folder)
    usable = [entry for entry in entries if entry.is_usable]
    sections = [
        ("Overview", _overview(entries, usable)),
        ("Settings", _distributions(usable)),
        ("Pictures", shown),
        ("Cameras and splits", _cameras(usable)),
        ("Refused", _refused(entries)),
        ("Licence and card", _licence(folder, usable)),
        ("Lines of the index", _lines(usable)),
    ]
    return page(f"Data set {folder.resolve().name}", f"{kind[:1].upper()}{kind[1:]}.".replace("`", ""), sections)


# The entries ----------------------------------------------------------------------------------------------------------


def _values(iso: float | None, time: float | None, f_number: float | None, focal: float | None) -> dict[str, float]:
    """Return the settings that are known, with the light at which they expose correctly (EV at ISO 100)."""
    found = {_ISO: iso, _TIME: time, _F: f_number, _FOCAL: focal}
    if iso and time and f_number and min(iso, time, f_number) > 0:
        found[_EV] = math.log2(f_number**2 / time) - math.log2(iso / 100)
    return {name: value for name, value in found.items() if value is not None and math.isfinite(value)}


def _of_pair(pair: Pair) -> Entry:
    o = pair.optical
    values = _values(o.iso, o.exposure_time, o.f_number, o.focal_length)
    camera = pair.camera.name if pair.camera else "unknown"
    return Entry(pair.name, pair.status, camera, reason=pair.reason, source=pair.raw, values=values)


def _of_record(record: Record) -> Entry:
    """Make an entry of a line by ``synth`` or ``blur-dataset``; any of its keys may be missing."""
    iso, time, f_number, focal = (
        lines.real(record, key) for key in ("iso", "exposure_time", "f_number", "focal_length")
    )
    values = _values(iso, time, f_number, focal)
    for name, key in ((_EXPOSURE, "exposure"), (_HEADROOM, "headroom")):
        value = lines.real(record, key)
        if value is not None and math.isfinite(value):
            values[name] = value
    words = {key: str(record.get(key) or "") for key in ("name", "split", "licence", "reason", "source")}
    return Entry(
        status=str(record.get("status") or "made"),
        camera=str(record.get("camera") or "unknown"),
        values=values,
        **words,
    )


def _kind_of(pairs: Sequence[Pair]) -> str:
    simulated = sum(pair.is_simulated for pair in pairs if pair.status != "refused")
    usable = sum(pair.status != "refused" for pair in pairs)
    if simulated == usable:
        return "shots of simulated cameras: RAW and picture"
    return "photographs: RAW and the camera's JPEG" + (f", with {simulated} simulated shots" if simulated else "")


# Sections -------------------------------------------------------------------------------------------------------------


def _overview(entries: Sequence[Entry], usable: Sequence[Entry]) -> Markup:
    statuses = Counter(entry.status for entry in entries)
    splits = Counter(entry.split for entry in usable if entry.split)
    items: list[tuple[str, object]] = [("Lines of the index", len(entries)), ("Usable", len(usable))]
    items += [(f"Status “{name}”", count) for name, count in sorted(statuses.items())]
    items += [(f"Split “{name}”", splits[name]) for name in sorted(splits)]
    items.append(("Cameras", len({entry.camera for entry in usable})))
    note = "" if splits else paragraph("The index has no splits: --leave-out and --hold-out of a training make them.")
    return joined([tiles(items), note])


def _distributions(usable: Sequence[Entry]) -> Markup:
    cards = []
    for name, scale in _SCALES.items():
        values = [entry.values[name] for entry in usable if name in entry.values]
        values = [value for value in values if not scale.factor or value > 0]
        if not values or (name in (_EXPOSURE, _HEADROOM) and len(set(values)) < 2):
            continue
        missing = len(usable) - len(values)
        note = [tag("p", f"Unknown for {counted(missing, 'line')}.", class_="soft")] if missing else []
        cards.append(svg.plot(name, svg.bars(*_binned(values, scale), name), *note))
    return svg.plots(cards) if cards else paragraph("No line of the index has settings.")


def _binned(values: Sequence[float], scale: _Scale) -> tuple[list[str], list[int]]:
    """Return the labels of the bins, without gaps, and the number of values in each; at most 60 bins."""

    def bin_of(value: float) -> int:
        return round(math.log(value / scale.base, scale.factor)) if scale.factor else round(value)

    counts = Counter(map(bin_of, values))
    first = min(counts)
    bins = range(first, min(max(counts), first + 59) + 1)
    counts[bins[-1]] += sum(count for number, count in counts.items() if number > bins[-1])
    shown = [scale.base * scale.factor**at if scale.factor else at for at in bins]
    return [scale.word(value) for value in shown], [counts[at] for at in bins]


def _cameras(usable: Sequence[Entry]) -> Markup:
    splits = sorted({entry.split for entry in usable if entry.split})
    counts = Counter(entry.camera for entry in usable)
    by_split = Counter((entry.camera, entry.split) for entry in usable)
    sources: dict[str, set[str]] = {}
    for entry in usable:
        sources.setdefault(entry.camera, set()).add(entry.source)
    rows = [
        [camera, count, len(sources[camera]), *(by_split[camera, split] for split in splits)]
        for camera, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:_MOST_ROWS]
    ]
    head = ["camera", "usable lines", "sources", *splits]
    return table("Usable lines by camera", head, rows, numbers_from=1) if rows else Markup("")


def _refused(entries: Sequence[Entry]) -> Markup:
    refused = [entry for entry in entries if not entry.is_usable]
    if not refused:
        return Markup("")
    rows = [[entry.source or entry.name, entry.reason or "no reason given"] for entry in refused[:_MOST_ROWS]]
    return joined([table("Refused files", ["file", "reason"], rows), limited(len(rows), len(refused), "refused files")])


def _licence(folder: Path, usable: Sequence[Entry]) -> Markup:
    stated = Counter(entry.licence for entry in usable)
    words = [f"{name or 'not stated'} ({count})" for name, count in stated.most_common(10)]
    blocks = [paragraph("Licence of the pictures, by lines of the index: ", ", ".join(words) or "not stated", ".")]
    card = folder / CARD
    if card.is_file():
        content = lines.read_bytes(card).decode("utf-8", "replace")[:20_000]
        blocks.append(details(f"The card, {CARD}", tag("pre", content), is_open=True))
    return joined(blocks)


def _lines(usable: Sequence[Entry]) -> Markup:
    words: dict[str, Callable[[float], str]] = {
        _ISO: number, _TIME: seconds, _F: lambda v: f"f/{v:.3g}", _FOCAL: lambda v: f"{v:.3g} mm",
        _EV: lambda v: number(v, 1),
    }  # fmt: skip
    rows = [
        [e.name, e.camera, e.status, e.split or "–",
         *(word(e.values[key]) if key in e.values else "–" for key, word in words.items())]
        for e in usable[:_MOST_ROWS]
    ]  # fmt: skip
    head = ["name", "camera", "status", "split", "ISO", "time", "f-number", "focal length", "EV"]
    listed = table("Usable lines", head, rows, numbers_from=4)
    return details(counted(len(rows), "line"), listed, limited(len(rows), len(usable), "usable lines"))


# Pictures -------------------------------------------------------------------------------------------------------------


def _pairs(folder: Path, pairs: Sequence[Pair]) -> Markup:
    """Show pairs, spread over the index: the picture beside its RAW, drawn plainly."""
    usable = [pair for pair in pairs if pair.status != "refused" and pair.canonical is not None]
    picked = [usable[at] for at in pictures.spread(len(usable), _MOST_PICTURES)]
    names = "picture", "RAW, drawn plainly"
    cards = [_card(pair.name, pair.reason, *samples.of_pair(folder, pair), names) for pair in picked]
    return _cards(cards, len(usable), "usable pairs")


def _synthetic(folder: Path, records: Sequence[Record]) -> Markup:
    """Show RAWs of ``synth``: clean beside noisy, drawn plainly."""
    made = [record for record in records if record.get("status") == "made"]
    found = samples.synthetic(folder, made, _MOST_PICTURES)
    cards = []
    for record, clean, noisy in found:
        iso = lines.real(record, "iso")
        about = f"{record.get('camera') or 'unknown camera'}, ISO {number(iso, 0) if iso else 'unknown'}"
        cards.append(_card(str(record.get("name")), about, noisy, clean, ("noisy", "clean")))
    return _cards(cards, len(made), "RAWs")


def _card(
    name: str, about: str, left: pictures.Picture | None, right: pictures.Picture, names: tuple[str, str]
) -> Markup:
    """Return a card with two pictures under a divider, or with the right one alone."""
    alts = [f"{name}: {each}" for each in names]
    if left is None:
        shown = tag("figure", right.shown(alts[1]))
    else:
        shown = compared(left.shown(alts[0]), right.shown(alts[1]), names, name)
    return tag("div", tag("h3", name), shown, paragraph(about), class_="pair")


def _cards(cards: Sequence[Markup], total: int, noun: str) -> Markup:
    if not cards:
        return paragraph("No picture to show.")
    note = paragraph(f"{len(cards)} of {total} {noun}.") if total > len(cards) else ""
    return joined([tag("div", *cards, class_="sheet"), note])


def _sheet(folder: Path) -> Markup:
    """Show the contact sheet that the command itself made."""
    path = folder / dataset.CONTACT_SHEET
    if not path.is_file():
        return paragraph(f"The data set has no {dataset.CONTACT_SHEET}.")
    sheet = pictures.embedded(pictures.read(path), 1000)
    return tag("figure", sheet.shown("Contact sheet of the data set"))
