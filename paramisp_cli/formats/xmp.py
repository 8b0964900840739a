"""XMP packets (ISO 16684-1): read their history, and add to a packet without rewriting it.

A packet may hold anything, in any of the ways in which RDF can be written. So expat finds the places, and bytes are cut
and inserted there; all other bytes of the user's packet stay. The packet is UTF-8. A document type declaration is
refused: XMP has none, and its entities can grow without limit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from xml.parsers import expat
from xml.sax.saxutils import escape, quoteattr

from paramisp_cli.errors import FormatError

_RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_MM = "http://ns.adobe.com/xap/1.0/mm/"
_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
_IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
_ROOT, _DESCRIPTION, _ABOUT, _RESOURCE, _LI = (f"{_RDF} {x}" for x in ("RDF", "Description", "about", "resource", "li"))
_HISTORY, _SOURCE_TYPE = f"{_MM} History", f"{_IPTC} DigitalSourceType"
_CONTAINERS = {f"{_RDF} {x}" for x in ("Seq", "Bag", "Alt")}

_EMPTY = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?>\n<x:xmpmeta xmlns:x="adobe:ns:meta/">\n'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">\n</rdf:RDF>\n</x:xmpmeta>\n<?xpacket end="w"?>'
)
_TAG = re.compile(rb"""<(?:[^>"']|"[^"]*"|'[^']*')*>""")
_NAME = re.compile(rb"<([^\s/>]+)")
_ATTRIBUTE = re.compile(rb"""\s+([^\s=]+)\s*=\s*(?:"[^"]*"|'[^']*')""")


@dataclass(frozen=True, slots=True)
class Event:
    """An entry of xmpMM:History: the action, the program with its version, and its parameters as free text."""

    action: str
    software_agent: str
    parameters: str


@dataclass(slots=True)
class Packet:
    """The contents of a packet that matter here; ``read`` makes it.

    source_types  values of Iptc4xmpExt:DigitalSourceType
    events        the history, oldest first
    """

    source_types: list[str] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    about: str = ""
    root: tuple[int, int] | None = None  # first bytes of the start tag and of the end tag of rdf:RDF
    container: tuple[int, int] | None = None  # the same of the history's rdf:Seq
    cuts: list[tuple[int, int]] = field(default_factory=list)  # bytes that hold a DigitalSourceType
    empty_histories: list[tuple[int, int]] = field(default_factory=list)


def read(packet: bytes) -> Packet:
    """Read a packet. Raises FormatError if it is not well-formed XML in UTF-8 with an rdf:RDF element."""
    data = packet.rstrip(b"\0")
    reader = _Reader(data)
    try:
        reader.parser.Parse(data, True)
    except expat.ExpatError as error:
        raise FormatError(f"its XMP is not well-formed XML ({error})") from error
    if reader.found.root is None:
        raise FormatError("its XMP holds no rdf:RDF")
    return reader.found


def merged(packet: bytes | None, event: Event, source_type: str | None = None) -> bytes:
    """Return the packet with one more event at the end of its history; None stands for an empty packet.

    ``source_type`` replaces the values of Iptc4xmpExt:DigitalSourceType; None leaves them. All other bytes stay.
    Raises FormatError like ``read``.
    """
    data = (packet or _EMPTY).rstrip(b"\0")
    found = read(data)
    assert found.root is not None
    entry = _entry(event)
    properties = ""
    edits = []  # (first byte, end, bytes in their place)
    if found.container is not None:
        edits.append(_inserted(data, found.container, entry))
    else:
        properties += f"<xmpMM:History><rdf:Seq>{entry}</rdf:Seq></xmpMM:History>\n"
        edits += [(*cut, b"") for cut in found.empty_histories]
    if source_type is not None:
        properties += f"<Iptc4xmpExt:DigitalSourceType>{escape(source_type)}</Iptc4xmpExt:DigitalSourceType>\n"
        edits += [(*cut, b"") for cut in found.cuts]
    if properties:
        description = (
            f'<rdf:Description rdf:about={quoteattr(found.about)} xmlns:rdf="{_RDF}" xmlns:xmpMM="{_MM}"\n'
            f' xmlns:Iptc4xmpExt="{_IPTC}">\n{properties}</rdf:Description>\n'
        )
        edits.append(_inserted(data, found.root, description))
    for first, end, replacement in sorted(edits, reverse=True):
        data = data[:first] + replacement + data[end:]
    after = read(data)  # the edits should be exact for any packet that expat accepts
    if len(after.events) != len(found.events) + 1 or (source_type is not None and after.source_types != [source_type]):
        raise FormatError("its XMP is written in an unknown way")
    return data


def with_properties(packet: bytes | None, namespaces: Mapping[str, str], properties: str) -> bytes:
    """Return the packet with a description more; None stands for an empty packet. All other bytes stay.

    namespaces  prefix → namespace of ``properties``
    properties  elements in RDF/XML, such as ``<hdrgm:Version>1.0</hdrgm:Version>``

    Raises FormatError like ``read``.
    """
    data = (packet or _EMPTY).rstrip(b"\0")
    found = read(data)
    assert found.root is not None
    declared = "".join(f" xmlns:{prefix}={quoteattr(name)}" for prefix, name in {"rdf": _RDF, **namespaces}.items())
    description = f"<rdf:Description rdf:about={quoteattr(found.about)}{declared}>\n{properties}</rdf:Description>\n"
    first, end, text = _inserted(data, found.root, description)
    data = data[:first] + text + data[end:]
    read(data)
    return data


def _entry(event: Event) -> str:
    """Return an rdf:li of a history, with namespaces of its own: the packet may use other prefixes."""
    values = (("action", event.action), ("softwareAgent", event.software_agent), ("parameters", event.parameters))
    inside = "".join(f"<stEvt:{name}>{escape(value)}</stEvt:{name}>" for name, value in values)
    return f'<rdf:li rdf:parseType="Resource" xmlns:rdf="{_RDF}" xmlns:stEvt="{_EVENT}">{inside}</rdf:li>'


def _inserted(data: bytes, element: tuple[int, int], text: str) -> tuple[int, int, bytes]:
    """Return the edit that puts ``text`` last into an element, which may be an empty-element tag."""
    start, end = element
    if start != end:
        return end, end, text.encode()
    tag, name = _tag(data, start), _NAME.match(data, start)
    assert name is not None
    return start, start + len(tag), tag[:-2].rstrip() + b">" + text.encode() + b"</" + name[1] + b">"


def _tag(data: bytes, at: int) -> bytes:
    """Return the tag that begins at a byte."""
    match = _TAG.match(data, at)
    assert match is not None  # expat found a tag there
    return match[0]


class _Reader:
    """Handlers of expat that fill a ``Packet``."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.found = Packet()
        self.parser = expat.ParserCreate("utf-8", " ")
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._start
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._characters
        self.parser.StartDoctypeDeclHandler = self._doctype
        self._path: list[tuple[str, int]] = []  # open elements, each with its first byte
        self._depth = 0  # of rdf:RDF, counted from 1
        self._event: dict[str, str] = {}
        self._text: list[str] = []
        self._resource = ""

    def _doctype(self, *_: object) -> None:
        raise FormatError("its XMP has a document type declaration")

    def _names(self) -> list[str]:
        """Return the open elements inside rdf:RDF, outermost first."""
        return [name for name, _ in self._path[self._depth : self._depth + 4]] if self._depth else []

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        at = self.parser.CurrentByteIndex
        self._path.append((name, at))
        self._text = []
        self._resource = attributes.get(_RESOURCE, "")
        if name == _ROOT and not self._depth:
            self._depth = len(self._path)
            return
        names = self._names()
        if len(self._path) == self._depth + 1 and names:  # a description
            self.found.about = self.found.about or attributes.get(_ABOUT, "")
            if _SOURCE_TYPE in attributes:
                self.found.source_types.append(attributes[_SOURCE_TYPE])
                self._cut_attribute(at)
        if self._in_event(names):
            if len(self._path) == self._depth + 4:
                self._event = {}
            if name in (_LI, _DESCRIPTION):
                for key, value in attributes.items():
                    if key.startswith(f"{_EVENT} "):
                        self._event[key.partition(" ")[2]] = value

    @staticmethod
    def _in_event(names: list[str]) -> bool:
        return len(names) == 4 and names[1] == _HISTORY and names[2] in _CONTAINERS and names[3] == _LI

    def _cut_attribute(self, at: int) -> None:
        """Note the bytes of the attribute DigitalSourceType of the tag at a byte."""
        tag, name = _tag(self.data, at), _NAME.match(self.data, at)
        assert name is not None
        for match in _ATTRIBUTE.finditer(tag, name.end() - at):
            if match[1].rpartition(b":")[2] == b"DigitalSourceType":
                self.found.cuts.append((at + match.start(), at + match.end()))

    def _characters(self, text: str) -> None:
        self._text.append(text)

    def _end(self, name: str) -> None:
        names, (_, start) = self._names(), self._path[-1]
        depth = len(self._path) - self._depth
        if depth > 3:
            if depth == 4 and self._in_event(names):
                values = (self._event.get(key, "") for key in ("action", "softwareAgent", "parameters"))
                self.found.events.append(Event(*values))
            elif self._in_event(names) and name.startswith(f"{_EVENT} "):
                self._event[name.partition(" ")[2]] = "".join(self._text)
            self._path.pop()
            return
        end, after = self._ends(start)
        if self._depth and depth == 0 and self.found.root is None:
            self.found.root = (start, end)
            self._depth = 0
        if not self._depth:
            self._path.pop()
            return
        if depth == 2 and name == _SOURCE_TYPE:
            self.found.source_types.append("".join(self._text).strip() or self._resource)
            self.found.cuts.append((start, after))
        elif depth == 2 and name == _HISTORY and self.found.container is None:
            self.found.empty_histories.append((start, after))
        elif depth == 3 and names[1] == _HISTORY and name in _CONTAINERS and self.found.container is None:
            self.found.container = (start, end)
        self._path.pop()

    def _ends(self, start: int) -> tuple[int, int]:
        """Return the first byte of the end tag of the element that ends, and the byte after it.

        An element of an empty-element tag ends where it starts; expat tells the byte after this tag.
        """
        end, tag = self.parser.CurrentByteIndex, _tag(self.data, start)
        if tag.endswith(b"/>") and end == start + len(tag):
            return start, end
        return end, end + len(_tag(self.data, end))


def upright(packet: bytes) -> bytes:
    """Return an XMP packet whose orientation, if it has one, is upright."""
    return re.sub(rb"(tiff:Orientation(?:=[\"']|>)\s*)[1-8]", rb"\g<1>1", packet)
