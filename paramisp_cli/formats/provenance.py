"""The origin of a RAW that no sensor recorded, written into its XMP: such a file says that it is made up.

A model made it of a picture, or it has the colours of a camera that did not take it (``transferred``).

Three statements tell it, which other programs can read, too:

* Iptc4xmpExt:DigitalSourceType. The term of IPTC's vocabulary is ``algorithmicallyEnhanced`` ("algorithmically-altered
  media"): an algorithm changed a picture of something real, and did not generate its content. Other candidates say
  something else: ``digitalCapture`` claims the sensor's own data, ``computationalCapture`` is frames merged in a
  camera, ``trainedAlgorithmicMedia`` is content from a generator, and ``compositeWithTrainedAlgorithmicMedia`` is a
  photo with such content in it. A picture whose own term says more than "a photograph" keeps this term: a generated
  picture must not become a photograph on its way through paramisp.
* an event of xmpMM:History: the program and its version, and as parameters (JSON) the model, its weights and their
  SHA-256, and the origin of each value of the shot. It has no time: the same input gives the same bytes.
* the tag Software (``formats.dng``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from paramisp_cli import __version__
from paramisp_cli.directions import Direction
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import xmp
from paramisp_cli.types import Notice

_VOCABULARY = "http://cv.iptc.org/newscodes/digitalsourcetype/"
ALTERED = f"{_VOCABULARY}algorithmicallyEnhanced"
"""DigitalSourceType of a RAW that a model made of a photograph."""
_PHOTOGRAPHS = {
    "", "digitalCapture", "computationalCapture", "negativeFilm", "positiveFilm", "print", "humanEdits",
    "minorHumanEdits",
}  # fmt: skip
"""Terms that ``ALTERED`` replaces: they describe a photograph, which the DNG no longer is."""
_PROGRAM = "paramisp"
_HDR = "hdr"
"""Operation of the events that ``hdr`` adds."""
_ESTIMATE = "estimated from a picture, not measured by a sensor"
_COMPUTED = "computed from the samples of another camera's sensor"
_RESTORED = "changed by a network, no longer as measured by the sensor"


@dataclass(frozen=True, slots=True)
class Made:
    """The origin of a RAW that paramisp made; None stands for unknown, and for a model without weights.

    software        program and version
    source          "JPEG", "picture" for other formats and arrays, or "RAW" of another camera
    weights         file name of the weights
    weights_sha256  SHA-256 of this file, in hexadecimal
    """

    software: str
    source: str
    model: str
    weights: str | None = None
    weights_sha256: str | None = None

    def __str__(self) -> str:
        """Return the facts in one line."""
        digest = f" (SHA-256 {self.weights_sha256[:12]}…)" if self.weights_sha256 else ""
        weights = f", weights {self.weights}{digest}" if self.weights else ""
        return f"made by {self.software} from a {self.source}, model {self.model}{weights}"

    def describe(self) -> dict[str, str | None]:
        """Return plain values for ``--json``."""
        return asdict(self)


def unprocessed(packet: bytes | None, source: str, how: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """Return the XMP of a RAW made of a picture with this packet, and notices; ``how`` holds facts that JSON can hold.

    The packet is the user's, with the event and the source type added. A packet that is not XML is replaced, with a
    notice: no program could read it, and a RAW must tell its origin.
    """
    return _altered(packet, Direction.UNPROCESS, {"source": source, "data": _ESTIMATE, **how})


def transferred(packet: bytes | None, how: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """Return the XMP of a RAW computed from another camera's RAW with this packet, and notices, as ``unprocessed``."""
    return _altered(packet, Direction.TRANSFER, {"source": "RAW", "data": _COMPUTED, **how})


def _altered(packet: bytes | None, direction: Direction, facts: dict[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """Return the packet with an event and the source type, and notices."""
    try:
        terms = xmp.read(packet).source_types if packet else []
        replaced = all(_term(value) in _PHOTOGRAPHS for value in terms)
        if terms and replaced:
            facts["digital_source_type"] = terms[0]  # of the picture
        return xmp.merged(packet, _event(direction, facts), ALTERED if replaced else None), ()
    except FormatError as error:
        text = "left out of the DNG, which tells only of its own making"
        notice = Notice(f"{error}: {text}", f"the XMP is damaged: {text}")
        return xmp.merged(None, _event(direction, facts), ALTERED), (notice,)


def restored(packet: bytes | None, source: str, how: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """Return the XMP of a RAW or picture that a network restored, and notices; see ``unprocessed``."""
    facts: dict[str, Any] = {"source": source, "data": _RESTORED, **how}
    try:
        terms = xmp.read(packet).source_types if packet else []
        replaced = all(_term(value) in _PHOTOGRAPHS for value in terms)
        if terms and replaced:
            facts["digital_source_type"] = terms[0]
        return xmp.merged(packet, _event(Direction.RESTORE, facts), ALTERED if replaced else None), ()
    except FormatError as error:
        text = "left out of the result, which tells only of its own making"
        notice = Notice(f"{error}: {text}", f"the XMP is damaged: {text}")
        return xmp.merged(None, _event(Direction.RESTORE, facts), ALTERED), (notice,)


def rendered(packet: bytes | None, how: Mapping[str, Any]) -> bytes | None:
    """Return the XMP of a picture rendered from a RAW with this packet: with an event more if paramisp made the RAW."""
    if packet is None or made_by(packet) is None:
        return packet
    try:
        return xmp.merged(packet, _event(Direction.RENDER, {"source": "DNG", "data": _ESTIMATE, **how}))
    except FormatError:  # its history already tells
        return packet


def hdr(packet: bytes | None, how: Mapping[str, Any]) -> tuple[bytes, tuple[str, ...]]:
    """Return the XMP of an HDR result of one photograph with this packet, and notices: its exposures are computed."""
    facts: dict[str, Any] = {"data": "exposures computed from one photograph, not taken by a camera", **how}
    try:
        terms = xmp.read(packet).source_types if packet else []
        replaced = all(_term(value) in _PHOTOGRAPHS for value in terms)
        return xmp.merged(packet, _event(_HDR, facts), ALTERED if replaced else None), ()
    except FormatError as error:
        notice = Notice(f"{error}: left it out", "the XMP is damaged: left it out")
        return xmp.merged(None, _event(_HDR, facts), ALTERED), (notice,)


def is_hdr(packet: bytes | None) -> bool:
    """Tell by its XMP whether paramisp made a picture as an HDR result."""
    if packet is None or _PROGRAM.encode() not in packet:
        return False
    try:
        events = xmp.read(packet).events
    except FormatError:
        return False
    return any((_facts_of(event) or {}).get("operation") == _HDR for event in events)


def made_by(packet: bytes | None) -> Made | None:
    """Return the origin of a RAW by its XMP; None if there is none.

    It is the last event that made a RAW of a picture, else the last one that gave it another camera's colours.
    """
    if packet is None or _PROGRAM.encode() not in packet:
        return None
    try:
        events = xmp.read(packet).events
    except FormatError:
        return None
    event = _making(events)
    return None if event is None else _made(event)


def history_of(packet: bytes | None) -> dict[str, Any] | None:
    """Return the program and the facts of the event that made a RAW of a picture, and its source type; None without it.

    ``packet_of`` makes a packet of them. Nothing else in the packet is returned: it may be private.
    """
    if packet is None or made_by(packet) is None:
        return None
    found = xmp.read(packet)
    event = _making(found.events)
    assert event is not None
    types = {"source_type": found.source_types[0]} if found.source_types else {}
    return {"software": event.software_agent, **types, **json.loads(event.parameters)}


def packet_of(history: Mapping[str, Any]) -> bytes:
    """Return an XMP packet with the facts of ``history_of`` and nothing else; FormatError if they make no sense."""
    facts = dict(history)
    software, source_type = facts.pop("software", None), facts.pop("source_type", ALTERED)
    if not isinstance(software, str) or not isinstance(source_type, str):
        raise FormatError("its origin names no program")
    event = xmp.Event("converted", software, json.dumps(facts, allow_nan=False))
    if _made(event) is None:
        raise FormatError(f"its origin is not an event of {_PROGRAM}")
    return xmp.merged(None, event, source_type)


def _term(value: str) -> str:
    """Return the last word of a value: some programs write the vocabulary's address, some its short name."""
    return value.strip().rstrip("/").replace(":", "/").rpartition("/")[2]


def _event(operation: str, facts: Mapping[str, Any]) -> xmp.Event:
    parameters = json.dumps({"operation": str(operation), **facts}, allow_nan=False)
    return xmp.Event("converted", f"{_PROGRAM} {__version__}", parameters)


def _facts_of(event: xmp.Event) -> dict[str, Any] | None:
    """Return the parameters of an event; None if it is another program's, or damaged."""
    if event.software_agent.partition(" ")[0] != _PROGRAM:
        return None
    try:
        facts = json.loads(event.parameters)
    except (ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) else None


_MAKING = (Direction.UNPROCESS, Direction.TRANSFER)


def _making(events: Sequence[xmp.Event]) -> xmp.Event | None:
    """Return the last event that made a RAW of a picture, else the last that gave it another camera's colours."""
    for direction in _MAKING:
        for event in reversed(events):
            facts = _facts_of(event)
            if facts is not None and facts.get("operation") == direction and _made(event) is not None:
                return event
    return None


def _made(event: xmp.Event) -> Made | None:
    """Return the facts of an event; None if it is another program's, another operation, or damaged."""
    facts = _facts_of(event)
    if facts is None or facts.get("operation") not in _MAKING:
        return None

    def text(name: str) -> str | None:
        value = facts.get(name)
        return _printable(value) if isinstance(value, str) else None

    return Made(
        _printable(event.software_agent), text("source") or "picture", text("model") or "unknown",
        text("weights"), text("weights_sha256"),
    )  # fmt: skip


def _printable(value: str) -> str:
    """Return a text from a file for a terminal: no control characters, and not endless."""
    return "".join(letter if letter.isprintable() else "?" for letter in value[:200])
