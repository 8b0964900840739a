"""Gain maps: read from every kind of metadata, refused when they lie."""

import re
import struct
from pathlib import Path

import gainmap_files as files
import numpy as np
import pytest

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import gainmap

SIZE = 10**8
PICTURE = np.full((64, 96, 3), 128, np.uint8)
CODES = np.full((16, 24), 153, np.uint8)  # 0.6
VALUES = {
    "GainMapMin": -0.5,
    "GainMapMax": 3,
    "Gamma": 2,
    "OffsetSDR": 0.03125,
    "OffsetHDR": 0.0625,
    "HDRCapacityMax": 3,
}
CHANNEL = (-0.5, 3, 2, 0.03125, 0.0625)
GAIN = 2 ** (0.6**0.5 * 3.5 - 0.5)


def at(jpeg, rows=(32,), columns=(48,)):
    found = gainmap.find(jpeg, SIZE)
    assert found is not None
    return found, found.gain(np.array(rows), np.array(columns), (64, 96))


@pytest.mark.parametrize(
    ("kind", "made"),
    [
        ("Ultra HDR (XMP)", {"values": VALUES}),
        (
            "Ultra HDR (XMP)",
            {
                "values": {name: [number] * 3 for name, number in VALUES.items() if "Cap" not in name}
                | {"HDRCapacityMax": 3}
            },
        ),
        ("Ultra HDR (XMP)", {"values": VALUES, "mpf": False}),
        ("Ultra HDR (XMP)", {"values": VALUES, "with_directory": False}),
        ("ISO 21496-1", {"channels": [CHANNEL]}),
        ("ISO 21496-1", {"channels": [CHANNEL], "common": 32}),
        ("ISO 21496-1", {"channels": [CHANNEL] * 3, "with_directory": False}),
        ("Ultra HDR (XMP, ISO 21496-1)", {"values": VALUES | {"GainMapMax": 1}, "channels": [CHANNEL]}),
    ],
)
def test_the_formula_of_every_kind(kind, made):
    found, gain = at(files.ultra_hdr(PICTURE, CODES, **made))
    assert found.kind == kind
    assert found.headroom == pytest.approx(3)
    assert found.channels == 1
    assert gain.shape == (1, 1)
    assert gain[0, 0] == pytest.approx(GAIN, rel=2e-3)
    light = found.light(np.full((1, 1, 3), 0.25, np.float32), np.array([32]), np.array([48]), (64, 96))
    assert light == pytest.approx(np.full((1, 1, 3), (0.25 + 0.03125) * GAIN - 0.0625), rel=2e-3)


def test_three_channels_apply_in_the_pictures_space():
    codes = np.tile(np.array([[[51, 153, 255]]], np.uint8), (64, 96, 1))
    found, gain = at(files.ultra_hdr(PICTURE, codes, VALUES | {"Gamma": 1, "GainMapMin": 0}))
    assert found.channels == 3
    assert np.log2(gain[0, 0]) == pytest.approx([0.6, 1.8, 3], abs=0.06)  # chroma of a JPEG
    linear = np.full((1, 1, 3), 0.5, np.float32)
    wide = gainmap.GainMap(
        found.kind, found.pixels, found.table, found.offsets * 0, found.headroom,
        np.array([[1.2249, -0.2249, 0], [-0.042, 1.042, 0], [-0.0197, -0.0786, 1.0983]]),  # Display P3
    )  # fmt: skip
    light = wide.light(linear, np.array([32]), np.array([48]), (64, 96))[0, 0]
    assert light == pytest.approx(np.maximum(wide.to_srgb @ (0.5 * gain[0, 0]), 0), rel=1e-3)


@pytest.mark.parametrize(
    ("headroom", "gain", "stops"), [(1.2, 0, 3), (1.2, 0.5, 2.303 - 0.1515), (0.5, 0.005, 1.7), (0.5, 1, 1.5)]
)
def test_apples_old_kind(headroom, gain, stops):
    found, value = at(files.apple(PICTURE, CODES, files.apple_note(headroom, gain)))
    assert found.kind == "Apple"
    assert found.headroom == pytest.approx(stops, abs=1e-4)
    decoded = ((0.6 + 0.099) / 1.099) ** (1 / 0.45)
    assert value[0, 0] == pytest.approx(1 + (2**stops - 1) * decoded, rel=2e-3)


def test_apples_new_kind():
    found, _ = at(files.apple(PICTURE, CODES, headroom=4.532783))
    assert 2**found.headroom == pytest.approx(4.532783)
    black = files.apple(PICTURE, np.zeros_like(CODES), headroom=4.5)
    assert at(black)[1][0, 0] == pytest.approx(1)


def test_codes_are_interpolated_between_the_centres():
    codes = np.zeros((16, 24), np.uint8)
    codes[:, 12:] = 160
    found = gainmap.find(files.ultra_hdr(PICTURE, codes, {"GainMapMax": 8, "HDRCapacityMax": 8}), SIZE)
    steps = np.log2(found.gain(np.array([30]), np.arange(96), (64, 96)))[0]
    # A map pixel is 4 wide; the centres beside the edge lie at 45.5 and 49.5.
    expected = 160 / 255 * 8 * np.clip((np.arange(96) - 45.5) / 4, 0, 1)
    assert steps == pytest.approx(expected, abs=0.2)  # ringing of the JPEG
    assert (found.gain(np.arange(64), np.array([95]), (64, 96)) > 30).all()


def test_no_gain_map():
    assert gainmap.find(files.jpeg_bytes(PICTURE), SIZE) is None
    assert gainmap.find(files.joined(files.jpeg_bytes(PICTURE), files.jpeg_bytes(CODES)), SIZE) is None  # a preview
    stereo = files.joined(files.jpeg_bytes(PICTURE), b"nothing", offset=2**31)
    assert gainmap.find(stereo, SIZE) is None


BROKEN = {
    "infinite": ({"values": VALUES | {"GainMapMax": "inf"}}, "greatest gain is inf"),
    "nan": ({"values": VALUES | {"HDRCapacityMax": "nan"}}, "headroom is nan"),
    "overflow": ({"values": VALUES | {"GainMapMax": "1e400"}}, "greatest gain is inf"),
    "huge": ({"values": VALUES | {"GainMapMax": 60}}, "gains reach 60 EV"),
    "negative": ({"values": VALUES | {"HDRCapacityMax": -1}}, "headroom is -1 EV"),
    "words": ({"values": VALUES | {"GainMapMax": "much"}}, "GainMapMax is 'much'"),
    "two": ({"values": VALUES | {"Gamma": [1, 2]}}, "Gamma has 2 numbers"),
    "no maximum": ({"values": {"HDRCapacityMax": 3}}, "no hdrgm:GainMapMax"),
    "order": ({"values": VALUES | {"GainMapMin": 4}}, "least gain, 4 EV, is above"),
    "gamma": ({"values": VALUES | {"Gamma": 0}}, "gamma is 0"),
    "offset": ({"values": VALUES | {"OffsetSDR": 2}}, "offsets are above 1"),
    "hdr base": ({"values": VALUES | {"BaseRenditionIsHDR": "True"}}, "itself is the HDR rendition"),
    "iso hdr base": ({"channels": [CHANNEL], "flags": 0x44}, "itself is the HDR rendition"),
    "iso version": ({"channels": [CHANNEL], "version": 1}, "version 1 of ISO"),
    "far": ({"values": VALUES, "size": 10**6, "with_directory": False}, "cut short"),
}


@pytest.mark.parametrize("name", [name for name, (_, message) in BROKEN.items() if message])
def test_lies_are_refused(name):
    made, message = BROKEN[name]
    with pytest.raises(FormatError, match=re.escape(message)) as error:
        gainmap.find(files.ultra_hdr(PICTURE, CODES, **made), SIZE)
    assert "\n" not in str(error.value)


def test_a_wrong_index_gives_way_to_the_directory():
    assert at(files.ultra_hdr(PICTURE, CODES, VALUES, offset=100))[1][0, 0] == pytest.approx(GAIN, rel=2e-3)
    assert at(files.ultra_hdr(PICTURE, CODES, VALUES, offset=2**31))[1][0, 0] == pytest.approx(GAIN, rel=2e-3)


def test_a_missing_map_is_told():
    whole = files.ultra_hdr(PICTURE, CODES, VALUES, mpf=False)
    primary = whole[: whole.index(b"\xff\xd9") + 2]
    with pytest.raises(FormatError, match=r"no JPEG|missing"):
        gainmap.find(primary, SIZE)


@pytest.mark.parametrize(
    ("common", "place", "message"), [(0, 4, "headroom of the picture is nan"), (32, 0, "denominator 0")]
)
def test_zero_denominators(common, place, message):
    whole = bytearray(files.ultra_hdr(PICTURE, CODES, channels=[CHANNEL], common=common))
    start = whole.rindex(files.ISO) + len(files.ISO) + 5 + place
    whole[start : start + 4] = bytes(4)
    with pytest.raises(FormatError, match=message):
        gainmap.find(bytes(whole), SIZE)


def test_zero_headroom_is_no_damage():
    found = gainmap.find(files.ultra_hdr(PICTURE, CODES, {"GainMapMax": 0, "HDRCapacityMax": 0}), SIZE)
    assert found is not None
    assert not found.has_highlights


def test_bombs_are_refused_before_decoding():
    whole = bytearray(files.ultra_hdr(PICTURE, CODES, VALUES))
    frame = whole.index(b"\xff\xc0", whole.rindex(b"\xff\xd8\xff")) + 5
    whole[frame : frame + 4] = struct.pack(">HH", 65500, 65500)
    with pytest.raises(FormatError, match="65500×65500 pixels, more than the picture"):
        gainmap.find(bytes(whole), SIZE)
    entities = files.xmp("&b;").replace(b"<x:xmpmeta", b'<!DOCTYPE x [<!ENTITY b "boom">]><x:xmpmeta')
    entities = files.segment(0xE1, entities[4:].replace(b"&b;", b'<a xmlns="http://ns.adobe.com/hdr-gain-map/1.0/"/>'))
    second = files.inserted(files.jpeg_bytes(CODES), entities)
    with pytest.raises(FormatError, match="document type"):
        gainmap.find(files.joined(files.jpeg_bytes(PICTURE), second), SIZE)


@pytest.mark.parametrize("note", [None, b"Apple iOS\0\0\1MM", files.apple_note(1.2, 0)[:40], b"Nikon\0" + bytes(40)])
def test_apples_headroom_is_needed(note):
    with pytest.raises(FormatError, match="headroom is unknown"):
        gainmap.find(files.apple(PICTURE, CODES, note), SIZE)
    for headroom in ("nan", "inf", 0, -3, "x", 1e9):
        with pytest.raises(FormatError, match="eadroom"):
            gainmap.find(files.apple(PICTURE, CODES, headroom=headroom), SIZE)


def test_damage_is_a_format_error_or_harmless():
    """Whatever bytes are hit: a map, no map, or a FormatError of one line."""
    rng = np.random.default_rng(3)
    small = np.full((16, 16, 3), 90, np.uint8)
    whole = files.ultra_hdr(small, CODES[:8, :8], VALUES, [CHANNEL])
    old = files.apple(small, CODES[:8, :8], files.apple_note(1.2, 0))
    messages = []
    for turn in range(600):
        data = bytearray((whole, old)[turn % 2])
        if turn % 3 == 0:
            data = data[: rng.integers(4, len(data))]
        for place in rng.integers(0, len(data), 1 + turn % 8):
            data[place] = rng.integers(256)
        try:
            found = gainmap.find(bytes(data), SIZE)
        except FormatError as error:
            messages.append(str(error))
            continue
        if found is not None:
            assert 0 <= found.headroom <= 8
            assert np.isfinite(found.gain(np.arange(16), np.arange(16), (16, 16))).all()
    assert len(messages) > 50
    assert not any("\n" in message for message in messages)


def test_a_photo_of_an_iphone(shared):
    found = gainmap.find((shared / "jpegs" / "Apple_iPhone_13_Pro_IMG_8568.JPG").read_bytes(), SIZE)
    assert str(found) == "Apple, 2016 × 1512, 1 channel, 3 EV"
    assert found.to_srgb == pytest.approx(
        np.array([[1.225, -0.225, 0], [-0.042, 1.042, 0], [-0.02, -0.079, 1.098]]), abs=2e-3
    )


def test_an_independent_encoder():
    """Google's libultrahdr writes; the HDR rendition is read back to a twentieth of a stop."""
    codecs = pytest.importorskip("imagecodecs")
    from paramisp_cli import color
    from paramisp_cli.formats import raster

    y, x = np.mgrid[:256, :256] / 255
    scene = np.stack([0.05 * 2 ** (8 * x), 0.05 * 2 ** (6 * x + 2 * y), 0.04 * 2 ** (7 * x)], -1).astype(np.float32)
    kinds = codecs.ULTRAHDR
    data = codecs.ultrahdr_encode(
        np.concatenate([scene, np.ones_like(scene[..., :1])], -1).astype(np.float16),
        gamut=kinds.CG.BT_709, transfer=kinds.CT.LINEAR, level=95,
    )  # fmt: skip
    found = gainmap.find(data, SIZE)
    picture = raster.read_bytes(data, Path("x.jpg")).pixels
    linear = color.srgb_decode(picture / np.iinfo(picture.dtype).max).astype(np.float32)
    light = found.light(linear, np.arange(256), np.arange(256), (256, 256))
    bright = scene.max(-1) > 1
    assert np.median(np.abs(np.log2(light.max(-1)[bright] / scene.max(-1)[bright]))) < 0.05
