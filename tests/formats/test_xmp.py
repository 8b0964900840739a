"""A RAW that a model made says so in its XMP; the user's packet stays, byte for byte, around what is added."""

from __future__ import annotations

import itertools
import json
import random
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import weights
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import provenance, xmp
from paramisp_cli.types import Metadata, SrgbImage

RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
MM, EVENT = "http://ns.adobe.com/xap/1.0/mm/", "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
IPTC = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
CAPTURE = "http://cv.iptc.org/newscodes/digitalsourcetype/digitalCapture"
NEW = xmp.Event("converted", "paramisp 1", '{"a": "<&>"}')
NAMESPACES = f'xmlns:rdf="{RDF}" xmlns:xmpMM="{MM}" xmlns:stEvt="{EVENT}" xmlns:I="{IPTC}" xmlns:d="http://d/"'
START, END = '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>', '   \n<?xpacket end="w"?>'
OLD = '<rdf:li stEvt:action="saved" stEvt:softwareAgent="Old &lt;1&gt;" stEvt:parameters="p"/>'
NESTED = (
    "<rdf:li><rdf:Description><stEvt:action>saved</stEvt:action><stEvt:softwareAgent>Old &lt;1></stEvt:softwareAgent>"
    "<stEvt:parameters>p</stEvt:parameters></rdf:Description></rdf:li>"
)
HISTORY = f"<xmpMM:History><rdf:Seq>{OLD}</rdf:Seq></xmpMM:History>"


def packet(inside: str, about: str = "") -> bytes:
    rdf = f'<rdf:RDF><rdf:Description rdf:about="{about}" d:k="1>2">{inside}</rdf:Description></rdf:RDF>'
    return f"{START}<x:xmpmeta xmlns:x='adobe:ns:meta/' {NAMESPACES}>\n<!-- é -->{rdf}</x:xmpmeta>{END}".encode()


PACKETS = {
    "plain": packet("<d:a>é &amp; b</d:a>"),
    "about": packet("<d:a/>", about="uuid:a&amp;b"),
    "history": packet(HISTORY + "<d:a/>"),
    "nested": packet(f"<xmpMM:History><rdf:Seq>{NESTED}</rdf:Seq></xmpMM:History>"),
    "bag": packet(f"<xmpMM:History><rdf:Bag>{OLD}</rdf:Bag></xmpMM:History>"),
    "empty sequence": packet("<xmpMM:History>\n<rdf:Seq />\n</xmpMM:History>"),
    "empty history": packet("<xmpMM:History/><d:a/>"),
    "source type": packet(f"<I:DigitalSourceType>{CAPTURE}</I:DigitalSourceType><d:a/>"),
    "source resource": packet(f'<I:DigitalSourceType rdf:resource="{CAPTURE}"/>{HISTORY}'),
    "empty root": f'{START}<rdf:RDF {NAMESPACES} d:x=">" />{END}'.encode(),
    "attribute": (
        f'<rdf:RDF {NAMESPACES}><rdf:Description d:k=\' I:DigitalSourceType="no"\' \n I:DigitalSourceType = "{CAPTURE}"'
        f' rdf:about=""/></rdf:RDF>'
    ).encode(),
    "other prefixes": packet(HISTORY).replace(b"rdf:", b"r:").replace(b":rdf", b":r").replace(b"stEvt", b"e"),
    "padded": packet(HISTORY) + bytes(9),
    "with a mark": b"\xef\xbb\xbf" + packet(HISTORY),
}
BROKEN = {
    "empty": b" ",
    "no XML": b"\x00\xffnonsense",
    "cut short": packet(HISTORY)[:-60],
    "no RDF": b"<x:xmpmeta xmlns:x='adobe:ns:meta/'/>",
    "prefix unknown": b"<x:xmpmeta/>",
    "entities": b"<!DOCTYPE a [<!ENTITY b 'cccc'><!ENTITY d '&b;&b;'>]>" + packet("&d;"),
    "UTF-16": packet(HISTORY).decode().encode("utf-16"),
}


def facts(data: bytes) -> tuple[list[str], list[str]]:
    """(names of the programs in the history, DigitalSourceTypes), by another reader of XML."""
    root = ET.fromstring(data.rstrip(b"\0"))
    programs = []
    for entry in root.iterfind(f".//{{{MM}}}History/*/{{{RDF}}}li"):
        nodes = [entry, *entry.iterfind(f"{{{RDF}}}Description")]
        programs += [
            node.get(f"{{{EVENT}}}softwareAgent") or node.findtext(f"{{{EVENT}}}softwareAgent") for node in nodes
        ]
    found = [node.text or node.get(f"{{{RDF}}}resource") for node in root.iter(f"{{{IPTC}}}DigitalSourceType")]
    found += [v for node in root.iter(f"{{{RDF}}}Description") if (v := node.get(f"{{{IPTC}}}DigitalSourceType"))]
    assert len(list(root.iter(f"{{{MM}}}History"))) == 1  # a property may stand once
    return [name for name in programs if name], [text or "" for text in found]


@pytest.mark.parametrize("name", PACKETS)
def test_an_event_joins_the_history(name: str) -> None:
    before = PACKETS[name]
    after = xmp.merged(before, NEW, provenance.ALTERED)
    had = ["Old <1>"] if b"Old" in before else []
    assert facts(after) == ([*had, "paramisp 1"], [provenance.ALTERED])
    read = xmp.read(after)
    assert read.events[-1] == NEW
    assert read.events[:-1] == [xmp.Event("saved", "Old <1>", "p")] * len(had)
    assert xmp.read(before).source_types == ([CAPTURE] if CAPTURE.encode() in before else [])
    twice = xmp.merged(after, NEW)
    assert facts(twice) == ([*had, "paramisp 1", "paramisp 1"], [provenance.ALTERED])


@pytest.mark.parametrize("name", ["plain", "about", "history", "nested", "padded", "with a mark"])
def test_the_packet_stays_byte_for_byte(name: str) -> None:
    """The packet is the result without the bytes at one or two places."""
    before = PACKETS[name].rstrip(b"\0")
    after = xmp.merged(before, NEW, provenance.ALTERED)
    sequence = [before.rindex(b"</rdf:Seq>")] if b"History" in before else []
    places = [0, *sequence, before.rindex(b"</rdf:RDF>"), len(before)]
    pieces = [before[a:b] for a, b in itertools.pairwise(places)]
    assert after.startswith(pieces[0])
    assert after.endswith(pieces[-1])
    assert re.fullmatch(b"(?s)" + b".+".join(map(re.escape, pieces)), after)
    if name == "about":
        abouts = [node.get(f"{{{RDF}}}about") for node in ET.fromstring(after).iter(f"{{{RDF}}}Description")]
        assert abouts == ["uuid:a&b"] * 2  # one subject, or readers see two resources


@pytest.mark.parametrize("name", BROKEN)
def test_broken_packets(name: str) -> None:
    with pytest.raises(FormatError, match="XMP"):
        xmp.merged(BROKEN[name], NEW)
    made, notices = provenance.unprocessed(BROKEN[name], "JPEG", {"model": "m"})
    assert len(notices) == 1
    assert "XMP" in notices[0]
    assert facts(made)[1] == [provenance.ALTERED]
    assert provenance.made_by(made) == provenance.Made(f"paramisp {paramisp.__version__}", "JPEG", "m")
    assert provenance.made_by(BROKEN[name] + b"paramisp") is None
    assert provenance.rendered(BROKEN[name], {}) == BROKEN[name]


def test_changed_packets_give_sound_ones_or_an_error() -> None:
    rng, sound = random.Random(1), 0
    for _ in range(1500):
        data = bytearray(rng.choice(list(PACKETS.values())))
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(data))
            data[at : at + rng.choice((0, 1, 1, 9))] = rng.choice((b"", b"<", b">", b"/", b'"', b"'", b" ", b"x", b"&"))
        try:
            after = xmp.merged(bytes(data), NEW, provenance.ALTERED)
        except FormatError:
            continue
        sound += 1
        assert xmp.read(after).events[-1] == NEW
        assert xmp.read(after).source_types == [provenance.ALTERED]
        ET.fromstring(after.rstrip(b"\0"))
    assert 150 < sound < 1400


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("digitalCapture", "algorithmicallyEnhanced"),
        ("computationalCapture", "algorithmicallyEnhanced"),
        ("trainedAlgorithmicMedia", "trainedAlgorithmicMedia"),
        ("compositeSynthetic", "compositeSynthetic"),
        ("aTermOfTheFuture", "aTermOfTheFuture"),
    ],
)
def test_a_generated_picture_does_not_become_a_photograph(before: str, after: str) -> None:
    for value in (CAPTURE.replace("digitalCapture", before), f"digsrctype:{before}"):
        source = packet(f"<I:DigitalSourceType>{value}</I:DigitalSourceType>")
        made, notices = provenance.unprocessed(source, "JPEG", {"model": "m"})
        assert notices == ()
        ((kind,), event) = xmp.read(made).source_types, xmp.read(made).events[-1]
        assert kind.rpartition("/")[2].rpartition(":")[2] == after
        assert json.loads(event.parameters).get("digital_source_type") == (value if kind != value else None)


def test_texts_of_strangers_stay_harmless() -> None:
    wild = json.dumps({"operation": "unprocess", "model": "\x1b[31m" + "m" * 900, "weights": 7, "source": ["JPEG"]})
    made = provenance.made_by(xmp.merged(None, xmp.Event("converted", "paramisp 9", wild)))
    assert made is not None
    assert made.model.startswith("?[31mm")
    assert len(made.model) == 200
    assert (made.weights, made.source) == (None, "picture")
    for parameters in ("", "[]", "{", "[" * 100000, '{"operation": "render"}'):
        assert provenance.made_by(xmp.merged(None, xmp.Event("converted", "paramisp 9", parameters))) is None
    assert provenance.made_by(xmp.merged(None, xmp.Event("converted", "paramispish 9", wild))) is None


PARAMETRIC = paramisp.Settings(model="parametric")


def picture(xmp_packet: bytes | None) -> SrgbImage:
    ramp = np.linspace(20, 230, 48 * 64 * 3).astype(np.uint8).reshape(48, 64, 3)
    return SrgbImage(ramp, metadata=Metadata(xmp=xmp_packet))


def test_there_and_back(tmp_path: Path) -> None:
    """JPEG → DNG → JPEG: the DNG tells of its model, the JPEG of both steps, and the user's rating is in both."""
    user = packet(HISTORY + "<d:rating>3</d:rating>")
    paths = [tmp_path / name for name in ("a.dng", "b.dng")]
    for path in paths:
        paramisp.write(paramisp.unprocess(picture(user), PARAMETRIC), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    raw = paramisp.read(paths[0])
    assert isinstance(raw, paramisp.RawImage)
    assert raw.model == "parametric"
    assert raw.metadata.xmp is not None
    assert b"<d:rating>3</d:rating>" in raw.metadata.xmp
    assert facts(raw.metadata.xmp) == (["Old <1>", f"paramisp {paramisp.__version__}"], [provenance.ALTERED])
    paramisp.write(raw, tmp_path / "again.dng")  # a copy is no new making
    again = paramisp.read(tmp_path / "again.dng")
    assert again.metadata.xmp == raw.metadata.xmp
    paramisp.write(paramisp.render(raw, PARAMETRIC), tmp_path / "a.jpg")
    jpeg = paramisp.read(tmp_path / "a.jpg")
    assert jpeg.metadata.xmp is not None
    assert [json.loads(e.parameters)["operation"] for e in xmp.read(jpeg.metadata.xmp).events[1:]] == [
        "unprocess", "render",
    ]  # fmt: skip
    assert facts(jpeg.metadata.xmp)[1] == [provenance.ALTERED]
    assert b"<d:rating>3</d:rating>" in jpeg.metadata.xmp


def test_the_raw_of_a_camera_claims_nothing(tmp_path: Path) -> None:
    """A RAW that no model made is written and rendered without a history of ours."""
    made = paramisp.unprocess(picture(None), PARAMETRIC)
    user = packet(HISTORY)
    raw = paramisp.RawImage(made.mosaic, made.canonical, metadata=Metadata(xmp=user))
    paramisp.write(raw, tmp_path / "camera.dng")
    assert paramisp.read(tmp_path / "camera.dng").metadata.xmp == user
    assert paramisp.render(raw, PARAMETRIC).metadata.xmp == user
    assert paramisp.render(paramisp.RawImage(made.mosaic, made.canonical), PARAMETRIC).metadata.xmp is None


@pytest.mark.slow
def test_inspect_answers(tmp_path: Path, make_jpeg: Callable[..., Path]) -> None:
    """With the weights' name and digest, from the command line; exiftool reads the same."""
    from typer.testing import CliRunner

    from paramisp_cli.cli.app import app

    source = make_jpeg(tmp_path / "a.jpg", np.full((48, 64, 3), 90, np.uint8), xmp=BROKEN["cut short"])
    chosen = weights.find(None, "unprocess", "fast")
    assert chosen is not None
    program = CliRunner()
    done = program.invoke(app, ["unprocess", str(source), "--model", "fast", "--camera", "GoPro HERO7 Black"])
    assert done.exit_code == 0, done.output
    assert done.output.count("its XMP is not well-formed") == 1
    shown = program.invoke(app, ["inspect", "--json", str(tmp_path / "a.dng")])
    made = json.loads(shown.stdout)["made_by"]
    named = weights.find("GoPro HERO7 Black", "unprocess", "fast")
    assert named is not None
    digest = subprocess.run(["sha256sum", named.path], capture_output=True, text=True, check=True).stdout.split()[0]
    assert made == {
        "software": f"paramisp {paramisp.__version__}", "source": "JPEG", "model": "fast",
        "weights": "gopro-hero7-black.unprocess.safetensors", "weights_sha256": digest,
    }  # fmt: skip
    told = program.invoke(app, ["inspect", str(tmp_path / "a.dng")]).stdout
    assert f"made_by         paramisp {paramisp.__version__} from a JPEG, model fast, weights gopro-hero7-bl" in told
    assert '"made_by"' not in program.invoke(app, ["inspect", "--json", str(source)]).stdout
    if exiftool := shutil.which("exiftool"):
        tags = ["-XMP-iptcExt:DigitalSourceType", "-XMP-xmpMM:HistorySoftwareAgent", "-validate", "-warning"]
        said = subprocess.run([exiftool, "-T", *tags, tmp_path / "a.dng"], capture_output=True, text=True, check=True)
        assert said.stdout.rstrip("\n").split("\t")[:2] == [provenance.ALTERED, f"paramisp {paramisp.__version__}"]
        assert "RDF" not in said.stdout
        assert "XMP" not in said.stdout
