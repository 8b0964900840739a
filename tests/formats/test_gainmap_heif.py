"""HEIC and AVIF: pictures, orientation, colours, and gain maps as items; files that lie."""

import importlib.util
import re
import struct

import gainmap_files
import heif_files as files
import numpy as np
import pytest
from PIL import features

import paramisp_cli as paramisp
from paramisp_cli import color, formats
from paramisp_cli.errors import FormatError
from paramisp_cli.formats import gainmap, items
from paramisp_cli.formats.pixels import apply_orientation
from paramisp_cli.types import Camera

pytest.importorskip("av", reason="x265 makes the HEIC files of these tests")
pytest.importorskip("pi_heif", reason="it reads HEIC")
if not features.check("avif"):
    pytest.skip("this Pillow has no AVIF", allow_module_level=True)

MOST = 10**8
Y, X = np.mgrid[:48, :64]
PICTURE = np.stack([X * 3 + 20, Y * 4 + 20, X + Y], -1).astype(np.uint8)
CODES = (np.mgrid[:24, :32][1] * 5 + np.mgrid[:24, :32][0] * 3).astype(np.uint8)
CHANNEL = (-0.5, 3, 2, 0.03125, 0.0625)
KINDS = ("heic", "avif")


def put(path, data):
    path.write_bytes(data)
    return path


# Pictures ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("turns", [(), (1,), (2,), (3,), ("m0",), ("m1",), (1, "m0"), (3, "m1"), ("m1", 1)])
def test_orientation_is_applied_once(tmp_path, kind, turns):
    """irot, then imir, or the other way round: upright, the picture is the same by numpy, by libheif and by libavif."""
    if kind == "avif" and turns == ("m1", 1):
        pytest.skip("libavif takes irot before imir")
    boxes, expected = [], PICTURE
    for turn in turns:
        if isinstance(turn, int):
            boxes.append(files.turned(turn))
            expected = np.rot90(expected, turn)
        else:
            boxes.append(files.mirrored(int(turn[1])))
            expected = expected[::-1] if turn == "m0" else expected[:, ::-1]
    item = files.CODERS[kind](PICTURE, more=boxes)
    image = formats.read(put(tmp_path / f"a.{kind}", files.written({1: item}, files.BRANDS[kind])))
    upright = apply_orientation(image.pixels, image.orientation)
    assert upright.shape == expected.shape
    assert np.abs(upright.astype(int) - expected).max() <= 3
    own = items.parse((tmp_path / f"a.{kind}").read_bytes()).items[1].orientation
    assert np.array_equal(apply_orientation(PICTURE, own), expected)
    assert image.orientation == (1 if kind == "heic" else own)


def test_a_heics_metadata(tmp_path):
    """The EXIF tells the same rotation as irot, as in every phone's file; it must not count a second time."""
    path = put(tmp_path / "IMG_1.HEIC", files.apple(PICTURE, CODES, headroom=4, turn=[files.turned(3)]))
    image = formats.read(path)
    assert image.pixels.shape == (64, 48, 3)
    assert np.abs(image.pixels.astype(int) - np.rot90(PICTURE, 3)).max() <= 3
    assert (image.camera, image.orientation, image.notes) == (Camera("Apple", "iPhone 13"), 1, ())
    assert (image.optical.iso, image.optical.exposure_time) == (64, 0.02)
    assert image.metadata.exif[:4] == b"MM\0*"
    assert image.metadata.jpeg is None
    assert image.metadata.xmp is None  # the packet of the map is not the picture's
    assert formats.identify(path).name == "HEIC"
    raw = paramisp.unprocess(path, paramisp.Settings(model="parametric", gain_map="off"))
    paramisp.write(raw, tmp_path / "a.dng")
    assert paramisp.read(tmp_path / "a.dng").orientation == 1


def test_an_ultra_hdr_jpeg_of_a_turned_heic_is_upright(paramisp, tmp_path):
    """The new JPEG has the EXIF of the HEIC, whose orientation counted already."""
    shown = np.full((64, 96, 3), 100, np.uint8)
    shown[:, 48:] = 255
    codes = np.zeros((32, 48), np.uint8)
    codes[:, 24:] = 200
    note = gainmap_files.apple_note(1.2, 0)
    path = put(tmp_path / "a.heic", files.apple(shown, codes, note=note, turn=[files.turned(3)]))
    code, _, err = paramisp("hdr", path, "--ultra-hdr", "-o", tmp_path / "a.jpg", "--model", "parametric")
    assert code == 0, err
    image = formats.read(tmp_path / "a.jpg")
    assert (image.pixels.shape, image.orientation) == ((96, 64, 3), 1)
    assert image.optical.iso == 64
    assert image.pixels[80, 32].min() > 240  # the bright half lies below
    assert gainmap.find(image.metadata.jpeg, MOST) is not None


def test_an_orientation_in_the_xmp_of_a_heic_counts_no_second_time(tmp_path):
    packet = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:Description tiff:Orientation='6'/></x:xmpmeta>"
    xmp = files.Item("mime", packet, references={"cdsc": [1]}, mime="application/rdf+xml", hidden=True)
    data = files.written({1: files.hevc_item(PICTURE, more=[files.turned(3)]), 2: xmp}, files.BRANDS["heic"])
    image = formats.read(put(tmp_path / "a.heic", data))
    assert image.orientation == 1
    assert image.metadata.xmp == packet.replace(b"'6'", b"'1'")


def test_ten_bits_reach_white(tmp_path):
    deep = np.rint(np.linspace(0, 65535, 48 * 64 * 3).reshape(48, 64, 3)).astype(np.uint16)
    item = files.hevc_item(deep, bits=10)
    image = formats.read(put(tmp_path / "a.heic", files.written({1: item}, files.BRANDS["heic"])))
    assert image.pixels.dtype == np.uint16
    assert np.abs(image.pixels.astype(int) - deep).max() <= 5 * 64
    assert image.pixels.max() > 65535 - 64
    white = files.hevc_item(np.full((48, 64), 65535, np.uint16), bits=10)
    image = formats.read(put(tmp_path / "b.heic", files.written({1: white}, files.BRANDS["heic"])))
    assert image.pixels.min() == 65535


@pytest.mark.parametrize("kind", KINDS)
def test_colours_by_number_are_those_of_a_profile(tmp_path, kind):
    """Display P3 by codes and by an ICC profile give the same sRGB."""
    from test_raster import profile

    by_codes = files.CODERS[kind](PICTURE, colour=files.codes(12, 13))
    # A profile counts before codes, which tell the decoder the matrix of YCbCr alone.
    by_icc = files.CODERS[kind](PICTURE, colour=files.profile(profile("Display P3")), more=[files.codes(9, 16)])
    one, two = (
        formats.read(put(tmp_path / f"{number}.{kind}", files.written({1: item}, files.BRANDS[kind])))
        for number, item in enumerate((by_codes, by_icc))
    )
    assert "converted from Display P3 to sRGB" in one.notes[0]
    assert two.metadata.icc is not None
    difference = np.abs(one.pixels.astype(int) - two.pixels)
    assert np.percentile(difference, 99) <= 3 * 257
    assert np.abs(one.pixels.astype(int) - PICTURE.astype(int) * 257).mean() > 500


def test_a_grid_of_tiles(tmp_path):
    """Phones code a picture in tiles; the map may be one, too."""
    tiles = {
        2 + i: files.hevc_item(np.ascontiguousarray(PICTURE[:, 32 * i : 32 * i + 32]), hidden=True) for i in (0, 1)
    }
    grid = struct.pack(">BBBBHH", 0, 0, 0, 1, 64, 48)
    joined = files.Item("grid", grid, [files.size(PICTURE), files.codes()], {"dimg": [2, 3]})
    small = {5 + i: files.hevc_item(np.ascontiguousarray(CODES[:, 16 * i : 16 * i + 16]), hidden=True) for i in (0, 1)}
    map_grid = struct.pack(">BBBBHH", 0, 0, 0, 1, 32, 24)
    second = files.Item("grid", map_grid, [files.size(CODES), files.depths(CODES)], {"dimg": [5, 6]}, hidden=True)
    tone_map = files.Item("tmap", files.iso_metadata([CHANNEL]), [files.size(PICTURE)], {"dimg": [1, 4]})
    data = files.written({1: joined, **tiles, 4: second, **small, 7: tone_map}, files.BRANDS["heic"])
    image = formats.read(put(tmp_path / "a.heic", data))
    assert np.abs(image.pixels.astype(int) - PICTURE).max() <= 3
    found = gainmap.find(data, MOST)
    assert found is not None
    assert np.array_equal(found.pixels, CODES)


def test_without_the_package(tmp_path, monkeypatch):
    path = put(tmp_path / "a.heic", files.apple(PICTURE, CODES, headroom=4))
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pi_heif" else there(name))
    with pytest.raises(FormatError) as error:
        formats.read(path)
    assert str(error.value) == (
        f"{path}: is HEIC, which needs the package pi-heif: `pip install 'paramisp[heic]'`, or convert it to JPEG first"
    )


# Gain maps -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{}, {"long_ids": True}, {"in_idat": (3,)}, {"turn": [files.turned(1)]}])
def test_a_tone_mapping_item(tmp_path, kind, how):
    data = files.tone_mapped(kind, PICTURE, CODES, [CHANNEL], **how)
    image = formats.read(put(tmp_path / f"a.{kind}", data))
    assert image.metadata.heif == data
    found = gainmap.find(data, MOST)
    assert found is not None
    assert str(found) == f"ISO 21496-1, {found.pixels.shape[1]} × {found.pixels.shape[0]}, 1 channel, 3 EV"
    # The map lies as the pixels do, whoever turned them.
    expected = np.rot90(CODES, 1) if how.get("turn") and kind == "heic" else CODES
    assert found.pixels.shape == expected.shape
    assert np.abs(found.pixels.astype(int) - expected).max() <= 1
    rows, columns = np.array([10]), np.array([20])
    same = gainmap_files.ultra_hdr(PICTURE, np.full((24, 32), 100, np.uint8), channels=[CHANNEL])
    flat = files.tone_mapped(kind, PICTURE, np.full((24, 32), 100, np.uint8), [CHANNEL])
    gains = [gainmap.find(each, MOST).gain(rows, columns, (48, 64)) for each in (same, flat)]
    assert gains[0] == pytest.approx(gains[1], rel=5e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_three_channels_of_an_item_apply_in_the_space_it_names(kind):
    colours = np.tile(np.array([[[51, 153, 230]]], np.uint8), (24, 32, 1))
    channels = [(0, 2, 1, 0, 0)] * 3
    p3, wide = files.codes(12, 13), files.codes(9, 16, 9)
    of_picture = gainmap.find(files.tone_mapped(kind, PICTURE, colours, channels, colour=p3, hdr_colour=wide), MOST)
    own = gainmap.find(files.tone_mapped(kind, PICTURE, colours, channels, colour=p3, hdr_colour=wide, flags=0), MOST)
    assert of_picture.channels == own.channels == 3
    # Published matrices (Lindbloom; Rec. ITU-R BT.2087) of linear light to sRGB.
    display_p3 = [[1.2249, -0.2247, 0], [-0.0420, 1.0419, 0], [-0.0197, -0.0786, 1.0979]]
    rec_2020 = [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]]
    assert of_picture.to_srgb == pytest.approx(np.array(display_p3), abs=1e-3)
    assert own.to_srgb == pytest.approx(np.array(rec_2020), abs=1e-3)


@pytest.mark.parametrize("turn", [(), (files.turned(3),)])
def test_apples_auxiliary_picture(tmp_path, turn):
    new = gainmap.find(files.apple(PICTURE, CODES, headroom=4.532783, turn=turn), MOST)
    assert new.kind == "Apple"
    assert 2**new.headroom == pytest.approx(4.532783)
    assert np.array_equal(new.pixels, np.rot90(CODES, 3) if turn else CODES)
    old = gainmap.find(files.apple(PICTURE, CODES, note=gainmap_files.apple_note(1.519, 0)), MOST)
    assert old.headroom == pytest.approx(3)
    jpeg = gainmap.find(gainmap_files.apple(PICTURE, CODES, headroom=4.532783), MOST)
    assert np.allclose(new.table, jpeg.table)
    assert gainmap.find(files.apple(PICTURE, CODES, headroom=4, aux="urn:mpeg:hevc:2015:auxid:2"), MOST) is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_highlights_reach_the_dng(paramisp, tmp_path, kind):
    """The picture is grey in bars; where it is white, the map tells 0 to 2 EV of light above."""
    shown = np.full((64, 64, 3), 100, np.uint8)
    shown[:, 32:] = 255
    stops = np.zeros((64, 64))
    stops[:, 32:] = np.linspace(0, 2, 32)
    codes = np.rint(stops / 2 * 255).astype(np.uint8)
    path = put(tmp_path / f"a.{kind}", files.tone_mapped(kind, shown, codes, [(0, 2, 1, 0, 0)], headrooms=(0, 2)))
    code, out, err = paramisp("unprocess", path, "--gain-map", "linear", "--camera", "Canon EOS 60D")
    assert code == 0, err
    from paramisp_cli import look

    raw = formats.read(tmp_path / "a.dng")
    light = look.linear_srgb(raw)[:, :, 1] * 2**raw.baseline_exposure
    middle = light[16]
    assert middle[4:12] == pytest.approx(np.full(8, color.srgb_decode(100 / 255)), rel=0.03)
    assert np.log2(middle[18:30]) == pytest.approx(stops[0].reshape(-1, 2).mean(1)[18:30], abs=0.06)
    code, out, err = paramisp("inspect", path, "--camera", "Canon EOS 60D")
    assert any("ISO 21496-1, 64 × 64, 1 channel, 2 EV" in line for line in out)
    code, out, err = paramisp("hdr", path, "--linear", "-o", tmp_path / "a.tif", "--camera", "Canon EOS 60D",
                              "--model", "parametric")  # fmt: skip
    assert code == 0, err


# Files that lie ------------------------------------------------------------------------------------------------------

TINY = np.full((32, 32, 3), 90, np.uint8)
TINY_CODES = np.full((32, 16), 90, np.uint8)


def lying(**how):
    return files.tone_mapped("avif", TINY, TINY_CODES, [CHANNEL], **how)


def patched(pattern, change, data=None):
    data = lying() if data is None else data
    at = data.index(pattern)
    return change(data, at)


def over(offset, value):
    """Overwrite bytes at an offset from the pattern."""
    return lambda data, at: data[: at + offset] + value + data[at + offset + len(value) :]


LIES = {
    "base is the HDR one": (lambda: lying(headrooms=(3, 0)), "the picture itself is the HDR rendition"),
    "infinite headroom": (lambda: lying(headrooms=(0, (1, 0))), "headroom is nan EV"),
    "headroom of 2^32": (lambda: lying(headrooms=(0, 2**32 - 1)), "not between 0 and 8"),
    "gain of 0/0": (lambda: lying(metadata=files.iso_metadata([((0, 0), 3, 1, 0, 0)])), "least gain is nan"),
    "metadata cut": (lambda: lying(metadata=files.iso_metadata([CHANNEL])[:20]), "is cut short"),
    "metadata empty": (lambda: lying(metadata=b""), "version none"),
    "metadata of a later version": (lambda: lying(first=1), "version 1, not 0"),
    "a block of a later version": (lambda: lying(version=1), "needs a reader of version 1"),
    "metadata of 2 MB": (lambda: lying(metadata=bytes(2 << 20)), "more than 1048576 bytes"),
    "joined with itself": (lambda: lying(inputs=(1, 1)), "joins the items 1, 1"),
    "one input": (lambda: lying(inputs=(1,)), "joins the items 1, not two"),
    "a loop": (lambda: lying(inputs=(1, 3)), "item 3 of the map is no coded picture"),
    "a missing map": (lambda: lying(inputs=(1, 77)), "it is item 77, which is missing"),
    "a map larger than the picture": (
        lambda: files.tone_mapped("avif", TINY, np.zeros((64, 64), np.uint8), [CHANNEL]),
        "claims 64×64 pixels, more than the picture has",
    ),
    "a grid of grids": (
        lambda: lying(inputs=(1, 4), more={4: files.Item("grid", bytes(8), [files.size(TINY_CODES)], {"dimg": [4]})}),
        "item 4 of the map is no coded picture",
    ),
    "a map of 0 pixels": (
        lambda: patched(files.size(TINY_CODES), over(12, bytes(8))), "claims 0×0 pixels",
    ),
    "a map's bytes outside the file": (
        lambda: (data := lying(in_idat=(3,)))[: data.index(b"mdat") + 10], "cannot be read",
    ),
    "a damaged map": (
        lambda: patched(files.av1_item(TINY_CODES).data, over(2, b"\xff" * 8)), "its pixels cannot be read",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", LIES)
def test_a_map_that_lies_costs_one_line(name):
    make, message = LIES[name]
    with pytest.raises(FormatError, match=re.escape(message)) as error:
        gainmap.find(make(), MOST)
    assert "\n" not in str(error.value)


BOXES = {
    "no meta": (lambda: patched(b"meta", over(0, b"metb")), "no box meta"),
    "no pitm": (lambda: patched(b"pitm", over(0, b"pitx")), "no box pitm"),
    "no iloc": (lambda: patched(b"iloc", over(0, b"ilox")), "no box iloc"),
    "a box of 2 bytes": (lambda: patched(b"iprp", over(-4, struct.pack(">I", 2))), "has 2 bytes"),
    "a box of 4 GB": (lambda: patched(b"ipco", over(-4, b"\xff" * 4)), "has 4294967295 bytes"),
    "a long box": (lambda: patched(b"iprp", over(-4, struct.pack(">I4sQ", 1, b"iprp", 2**63))), "bytes, of which"),
    "65535 items": (lambda: patched(b"iloc", over(10, b"\xff\xff")), "65535 items, more than any picture"),
    "65535 pieces": (lambda: patched(b"iloc", over(18, b"\xff\xff")), "has 65535 pieces"),
    "odd numbers": (lambda: patched(b"iloc", over(8, b"\x35")), "numbers of odd sizes"),
    "version 9": (lambda: patched(b"iloc", over(4, b"\x09")), "version 9"),
    "4 billion associations": (lambda: patched(b"ipma", over(8, b"\xff" * 4)), "4294967295 items with properties"),
    "65535 references": (lambda: patched(b"dimg", over(6, b"\xff\xff")), "too many references"),
    "a missing picture": (lambda: patched(b"pitm", over(8, b"\x00\x63")), "item 99, which is missing"),
    "the end within iref": (lambda: (data := lying())[: data.index(b"dimg") + 2], "bytes, of which"),
}


@pytest.mark.parametrize("name", BOXES)
def test_boxes_that_lie(name):
    make, message = BOXES[name]
    with pytest.raises(FormatError, match=re.escape(message)):
        items.parse(make())


def test_many_boxes_end(monkeypatch):
    many = files.box("ftyp", b"heic") + files.box("free") * (items._MOST_BOXES + 5)
    with pytest.raises(FormatError, match="more than 10000 boxes"):
        items.parse(many)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["apple", *KINDS])
def test_every_prefix_and_many_changes_are_refused_or_read(tmp_path, kind, capfd):
    """Whatever is changed, there is a picture or one FormatError, and no other error, crash or hang."""
    data = (
        files.apple(TINY, TINY_CODES, headroom=4)
        if kind == "apple"
        else files.tone_mapped(kind, TINY, TINY_CODES, [CHANNEL])
    )
    generator = np.random.default_rng(1)
    cases = [data[:cut] for cut in range(8, len(data), 7)]
    for _ in range(600):
        changed = bytearray(data)
        for place in generator.integers(0, min(len(data), 1200), generator.integers(1, 4)):
            changed[place] = generator.choice([0, 1, 2, 3, 127, 128, 255, generator.integers(256)])
        cases.append(bytes(changed))
    found = refused = lines = 0
    for case in cases:
        try:
            image = formats.read(put(tmp_path / "a", case), max_pixels=10**6)
            if image.metadata.heif is not None:
                found += gainmap.find(image.metadata.heif, 10**6) is not None
        except FormatError as error:
            lines += str(error).count("\n")
            refused += 1
    assert found > 20
    assert refused > 100
    assert lines == 0
    assert capfd.readouterr() == ("", "")


def test_a_damaged_map_costs_a_notice(paramisp, tmp_path):
    path = put(tmp_path / "a.avif", lying(headrooms=(0, (1, 0))))
    code, _, err = paramisp("unprocess", path, "--model", "parametric", "--camera", "Canon EOS 60D")
    assert code == 0
    assert any("its gain map cannot be used: its headroom is nan EV" in line for line in err)
    code, _, err = paramisp("unprocess", path, "--gain-map", "linear", "-o", tmp_path / "b.dng")
    assert code == 7
    assert len([line for line in err if "headroom is nan" in line]) == 1
