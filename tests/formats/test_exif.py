import math
import struct
from contextlib import suppress
from dataclasses import replace

import numpy as np
import piexif
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from paramisp_cli.errors import FormatError
from paramisp_cli.formats import exif, jpeg
from paramisp_cli.formats import tiff as tiff_core
from paramisp_cli.formats.tiff import parse_ifds
from paramisp_cli.types import Camera, OpticalParams

FULL = {
    "0th": {271: b"NIKON CORPORATION ", 272: b"NIKON D90\0\0", 274: 6, 306: b"2011:05:03 10:11:12", 315: b"Someone"},
    "Exif": {
        0x829A: (1, 125),
        0x829D: (56, 10),
        0x8827: 200,
        0x920A: (50, 1),
        0x9003: b"2011:05:03 10:11:12",
        0xA001: 1,
        0xA434: b"50mm f/1.8",
    },
    "GPS": {1: b"N", 2: ((48, 1), (8, 1), (1234, 100)), 3: b"E", 4: ((11, 1), (34, 1), (0, 1))},
}


def block_of(tags):
    return piexif.dump(tags)[6:]


def tiff(entries, order="<", sub=None, pointer=0x8769):
    """A TIFF structure whose IFD0 holds (tag, type, count, data) and, behind ``pointer``, an IFD of ``sub``."""
    out = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)

    def ifd(items, at):
        table, values = struct.pack(order + "H", len(items)), b""
        for tag, kind, count, data in items:
            field = data.ljust(4, b"\0")
            if len(data) > 4:
                field = struct.pack(order + "I", at + 6 + 12 * len(items) + len(values))
                values += data + b"\0" * (len(data) % 2)
            table += struct.pack(order + "HHI", tag, kind, count) + field
        return table + b"\0\0\0\0" + values

    if sub is None:
        return out + ifd(entries, 8)
    entries = [*entries, (pointer, 4, 1, struct.pack(order + "I", 0))]
    at = 8 + len(ifd(entries, 8))
    entries[-1] = (pointer, 4, 1, struct.pack(order + "I", at))
    return out + ifd(entries, 8) + ifd(sub, at)


def test_parse_finds_every_ifd():
    block = exif.parse(block_of(FULL))
    assert block.byteorder == ">"  # piexif writes big-endian
    assert block.exif[0x829A].fractions() == ((1, 125),)
    assert block.exif[0x829A].values() == (1 / 125,)
    assert block.exif[0x829A].data == struct.pack("<II", 1, 125)
    assert block.ifd0[274].values() == (6,)
    assert block.gps[2].values() == (48.0, 8.0, 12.34)
    assert exif.parse(b"Exif\0\0" + block_of(FULL)).exif[0x8827].values() == (200,)
    assert exif.camera(block) == Camera("NIKON CORPORATION", "NIKON D90")
    assert exif.orientation(block) == 6
    assert exif.optical_params(block) == (OpticalParams(200, 1 / 125, 5.6, 50), [])


@pytest.mark.parametrize("order", ["<", ">"])
def test_every_type_becomes_little_endian(order):
    samples = [
        (1, "B", (1, 2, 3, 4, 5)), (3, "H", (1, 65535)), (4, "I", (1, 2**32 - 1)), (6, "b", (-1, 5)),
        (8, "h", (-2, 300)), (9, "i", (-70000,)), (11, "f", (0.5, -2.0)), (12, "d", (math.pi,)), (13, "I", (77,)),
    ]  # fmt: skip
    entries = [(1000 + kind, kind, len(v), struct.pack(f"{order}{len(v)}{c}", *v)) for kind, c, v in samples]
    entries.append((2000, 10, 2, struct.pack(order + "4i", -1, 2, 3, 0)))
    entries.append((2001, 2, 4, b"abc\0"))
    block = exif.parse(tiff(entries, order))
    for kind, _, values in samples:
        assert block.ifd0[1000 + kind].values() == values
    assert block.ifd0[2000].values()[0] == -0.5
    assert math.isnan(block.ifd0[2000].values()[1])
    assert block.ifd0[2001].values() == ()
    assert block.ifd0[2001].text() == "abc"
    assert block.ifd0[2000].data == struct.pack("<4i", -1, 2, 3, 0)


def test_text_in_any_encoding():
    for data, text in ((b"caf\xc3\xa9\0junk", "café"), (b"caf\xe9 \0", "café"), (b"\0\0\0\0\0", "")):
        assert tiff_core.Entry(2, len(data), data).text() == text


def test_the_offset_tells_where_the_value_stood():
    data = block_of(FULL)
    entry = exif.parse(data).exif[0xA434]
    assert data[entry.offset : entry.offset + entry.count].startswith(b"50mm f/1.8")


def test_sub_ifds_of_a_dng():
    raw = tiff([(50706, 1, 4, bytes([1, 4, 0, 0]))], sub=[(262, 3, 1, struct.pack("<H", 32803))], pointer=0x014A)
    ifds = parse_ifds(raw)
    assert [sorted(ifd) for ifd in ifds] == [[330, 50706], [262]]
    for magic in (b"IIRO", b"IIRS", b"IIU\0"):
        assert len(parse_ifds(magic + raw[4:])) == 2


def test_sub_ifds_without_number():
    """One entry can hold millions of offsets; no file has a hundred."""
    many = tiff([(0x014A, 4, 1_000_000, struct.pack("<I", 8) * 1_000_000)])
    assert len(parse_ifds(many)) == 1
    assert tiff_core.pointers(tiff_core.parse_ifds(many)[0][0x014A]) == []


def test_no_tiff_header():
    for junk in (b"", b"II", b"II*\0", b"JFIF____________", b"II+\0\x08\0\0\0"):
        with pytest.raises(FormatError, match="TIFF header"):
            exif.parse(junk)


def test_damaged_entries_are_skipped():
    good = (272, 2, 5, b"X100\0")
    bad = [
        (271, 2, 1000, b"\xff\xff\xff\x7f"),  # beyond the end
        (274, 3, 2**31, b"\0\0\0\1"),  # absurd count
        (306, 99, 1, b"1234"),  # no such type
        (315, 2, 0, b""),  # nothing
    ]
    block = exif.parse(tiff([*bad, good]))
    assert list(block.ifd0) == [272]
    loop = bytearray(tiff([good, (0x8769, 4, 1, struct.pack("<I", 8)), (0x014A, 4, 1, struct.pack("<I", 8))]))
    assert list(exif.parse(bytes(loop)).exif) == []
    assert len(parse_ifds(bytes(loop))) == 1


def test_overlapping_values_cannot_fill_the_memory():
    """4000 entries that all point at the same 60 kB would copy 240 MB."""
    body = struct.pack("<H", 4000)
    body += b"".join(struct.pack("<HHII", tag, 7, 60000, 8) for tag in range(4000))
    block = exif.parse(b"II*\0" + struct.pack("<I", 8) + body + bytes(60000))
    assert sum(len(entry.data) for entry in block.ifd0.values()) < 500_000


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=400))
def test_parse_survives_random_bytes(junk):
    for head in (b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"):
        everything(head + junk)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(8, 700), st.integers(0, 255)), max_size=12), st.integers(8, 700))
@pytest.mark.slow
def test_parse_survives_mutation_and_truncation(changes, end):
    data = bytearray(CANON if end % 2 else block_of(FULL))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    everything(bytes(data[: max(8, end)]))
    everything(bytes(data))


def everything(data):
    """Whatever can be asked of a block."""
    block = exif.parse(data)
    parse_ifds(data)
    optical, notes = exif.optical_params(block)
    assert all("\n" not in note for note in notes)
    exif.camera(block)
    assert exif.orientation(block) in range(1, 9)
    exif.color_space(block)
    neutral, origin = exif.white_balance(block)
    assert (neutral is None) == (origin == "")
    for entry in (*block.ifd0.values(), *block.exif.values(), *block.makernote.values()):
        assert len(entry.values()) in (0, entry.count)
        entry.text()
        entry.shown()
    clean = exif.clean_exif(data, optical=optical, camera=exif.camera(block), software="t", width=4, height=2)
    assert exif.parse(clean).exif[0xA002].values() == (4,)
    rebuilt = exif.parse(exif.build(block.ifd0, block.exif, block.gps))
    assert rebuilt.gps.keys() == block.gps.keys()


# The two readers -----------------------------------------------------------------------------------------------------


def by_walker(block):
    """The same block as if piexif had refused it."""
    return replace(block, standard={})


def same_by_both(data):
    """Whether piexif read the block; its values must be those of the walker, tag by tag."""
    block = exif.parse(data)
    walked = by_walker(block)
    for name in ("ifd0", "exif"):
        entries = getattr(block, name)
        for tag in entries:
            one, two = block.numbers(tag, name), walked.numbers(tag, name)
            np.testing.assert_array_equal(one, two, err_msg=f"{name} {tag:#x}")
            assert name == "exif" or block.text(name, tag) == walked.text(name, tag) or entries[tag].type != 2, hex(tag)
    for work in (exif.optical_params, exif.camera, exif.orientation, exif.color_space, exif.white_balance):
        assert repr(work(block)) == repr(work(walked))
    return bool(block.standard)


def test_both_readers_agree_on_every_real_block(shared):
    """And piexif reads nearly all of them: those of the 13 JPEGs, all."""
    found = {}
    for path in sorted([*shared.rglob("*.JPG"), *shared.rglob("*.jpg")]):
        if data := jpeg.exif_block(path.read_bytes()):
            found[path] = same_by_both(data)
    assert sum(found.values()) >= 13
    assert all(found[path] for path in found if path.parent.name == "jpegs")


@pytest.mark.slow
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(8, 700), st.integers(0, 255)), max_size=4), st.booleans())
def test_both_readers_agree_on_mutated_blocks(changes, is_canon):
    data = bytearray(CANON if is_canon else block_of(FULL))
    for at, value in changes:
        if at < len(data):
            data[at] = value
    with suppress(FormatError):
        same_by_both(bytes(data))


def test_values_are_those_of_piexif(monkeypatch):
    """Of a sound block; the bytes to copy stay the file's own."""
    import piexif as library

    data = block_of(FULL)
    loaded = library.load(b"Exif\0\0" + data)
    loaded["0th"] |= {271: b"Other", 274: 3}
    loaded["Exif"] |= {0x829A: (1, 50), 0x8827: 800}
    monkeypatch.setattr(library, "load", lambda _: loaded)
    block = exif.parse(data)
    assert exif.camera(block) == Camera("Other", "NIKON D90")
    assert exif.orientation(block) == 3
    assert exif.optical_params(block)[0] == OpticalParams(800, 1 / 50, 5.6, 50)
    assert block.exif[0x829A].fractions() == ((1, 125),)


def unsound():
    text, iso = (272, 2, 5, b"X100\0"), (0x8827, 3, 1, struct.pack("<H", 200))
    huge = b"\xff\xff\xff\x7f"
    return {
        "beyond the end": tiff([(271, 2, 1000, huge), text], sub=[iso]),
        "no such type": tiff([(306, 99, 1, b"1234"), text], sub=[iso]),
        "count of billions": tiff([(271, 1, 4_000_000_000, huge), text], sub=[iso]),
        "the same tag twice": tiff([text, (272, 2, 5, b"X200\0")], sub=[iso]),
        "GPS nowhere": tiff([(0x8825, 4, 1, huge), text], sub=[iso]),
        "GPS by a signed number": tiff([(0x8825, 9, 1, struct.pack("<i", 8)), text], sub=[iso]),
        "a thumbnail nowhere": tiff([text], sub=[iso]).replace(b"\0\0\0\0X100", b"\x33\x33\0\0X100"),
        "a thumbnail of billions": with_thumbnail(tiff([text], sub=[iso]), (271, 1, 4_000_000_000, huge)),
    }


def with_thumbnail(data, entry):
    """The block with an IFD1 of one entry at its end."""
    count = struct.unpack("<H", data[8:10])[0]
    at = 10 + 12 * count
    tag, kind, number, value = entry
    return (
        data[:at] + struct.pack("<I", len(data)) + data[at + 4 :]
        + struct.pack("<HHHI", 1, tag, kind, number) + value + bytes(4)
    )  # fmt: skip


@pytest.mark.parametrize("kind", unsound())
def test_unsound_blocks_are_the_walkers(monkeypatch, kind):
    """piexif is not even asked: counts that it trusts would take all memory."""
    import piexif as library

    def load(_):
        raise AssertionError("piexif was asked")

    monkeypatch.setattr(library, "load", load)
    block = exif.parse(unsound()[kind])
    assert block.standard == {}
    assert exif.camera(block) == Camera("", "X100")
    assert exif.optical_params(block)[0].iso == 200


def test_where_piexif_refuses_or_errs_the_walker_serves():
    utf8 = exif.parse(tiff([(272, 129, 6, b"X\xc3\xa9-1\0")]))  # a type of Exif 3.0, of which it raises
    assert (utf8.standard, exif.camera(utf8)) == ({}, Camera("", "Xé-1"))
    unterminated = exif.parse(tiff([(272, 2, 4, b"X100")]))  # it drops the last byte
    assert unterminated.standard["ifd0"][272] == b"X10"
    assert exif.camera(unterminated) == Camera("", "X100")
    undefined = exif.parse(tiff([], sub=[(0x8827, 7, 1, bytes([200]))]))
    assert undefined.numbers(0x8827) == (200,)


def test_whole_files_are_the_walkers():
    assert exif.parse(block_of(FULL) + bytes(1 << 18)).standard == {}


# Makers' notes -------------------------------------------------------------------------------------------------------


def nikon(*entries, order=">"):
    note = b"Nikon\0\x02\x10\0\0" + tiff(list(entries), order)
    return tiff([(271, 2, 6, b"NIKON\0")], sub=[(0x927C, 7, len(note), note)])


def canon(*entries, order="<", moved=0):
    """A Canon block whose MakerNote stands ``moved`` bytes behind where its offsets think it is."""

    def note_at(at):
        table, values = struct.pack(order + "H", len(entries)), b""
        for tag, kind, count, data in entries:
            offset = at - moved + 6 + 12 * len(entries) + len(values)
            table += struct.pack(order + "HHII", tag, kind, count, offset)
            values += data + b"\0" * (len(data) % 2)
        end = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "I", at - moved)
        return table + b"\0\0\0\0" + values + end

    size = len(note_at(1000))
    draft = tiff([(271, 2, 6, b"Canon\0")], order, sub=[(0x927C, 7, size, bytes(size))])
    return draft[:-size] + note_at(len(draft) - size)


def color_data(count, index, levels):
    words = np.zeros(count, "<u2")
    words[index : index + 4] = levels
    return words


CANON = canon((0x4001, 3, 582, color_data(582, 0x19, (1946, 1016, 1022, 1725)).tobytes()))


@pytest.mark.parametrize("order", ["<", ">"])
def test_nikon_white_balance(order):
    rationals = struct.pack(order + "8I", 461, 256, 335, 256, 256, 256, 256, 256)
    neutral, origin = exif.white_balance(exif.parse(nikon((0x000C, 5, 4, rationals), order=order)))
    np.testing.assert_allclose(neutral, [256 / 461, 1, 256 / 335])
    assert origin == "MakerNote (Nikon 0x000C)"


@pytest.mark.parametrize(
    ("count", "index"),
    [
        (582, 25),
        (653, 34),
        (796, 63),
        (1346, 63),
        (1275, 63),
        (1312, 63),
        (1592, 63),
        (1816, 71),
        (2024, 85),
        (3973, 105),
    ],
)
@pytest.mark.parametrize("order", ["<", ">"])
def test_canon_white_balance(count, index, order):
    data = color_data(count, index, (2217, 1024, 1024, 1367)).astype(f"{order}u2").tobytes()
    neutral, origin = exif.white_balance(exif.parse(canon((0x4001, 3, count, data), order=order)))
    np.testing.assert_allclose(neutral, [1024 / 2217, 1, 1024 / 1367])
    assert origin == "MakerNote (Canon 0x4001)"


def test_canon_makernote_moved_by_an_editor():
    data = color_data(796, 63, (2000, 1000, 1000, 1500)).tobytes()
    block = canon((0x4001, 3, 796, data), moved=6)
    np.testing.assert_allclose(exif.white_balance(exif.parse(block))[0], [0.5, 1, 1 / 1.5])


def test_absurd_white_balance_is_none():
    for levels in ((0, 1024, 1024, 1000), (2000, 0, 0, 1000), (65535, 1, 1, 65535)):
        data = color_data(796, 63, levels).tobytes()
        assert exif.white_balance(exif.parse(canon((0x4001, 3, 796, data)))) == (None, "")
    data = color_data(999, 63, (2000, 1000, 1000, 1500)).tobytes()  # a size that no known camera writes
    assert exif.white_balance(exif.parse(canon((0x4001, 3, 999, data)))) == (None, "")


def test_iso_of_the_makernote():
    assert exif.optical_params(exif.parse(nikon((0x0002, 3, 2, struct.pack(">HH", 0, 640)))))[0].iso == 640
    info = bytes([68]) + bytes(13)
    optical, notes = exif.optical_params(exif.parse(nikon((0x0025, 7, 14, info))))
    assert (optical.iso, notes) == (159, ["ISO 159 read from the MakerNote (Nikon 0x0025)"])
    shot = struct.pack("<10h", 68, 0, 224, *[0] * 7)  # auto 100 %, base 400
    assert exif.optical_params(exif.parse(canon((0x0004, 3, 10, shot))))[0].iso == 400


# Absurd values -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tag", "kind", "data", "note"),
    [
        (0x829A, 5, struct.pack("<II", 0, 0), "ExposureTime 0/0 is not usable"),
        (0x829A, 5, struct.pack("<II", 1, 0), "ExposureTime 1/0 is not usable"),
        (0x829A, 5, struct.pack("<II", 0, 10), "ExposureTime 0/10 is not usable"),
        (0x829A, 10, struct.pack("<ii", -1, 10), "ExposureTime -1/10 is not usable"),
        (0x829A, 5, struct.pack("<II", 2**32 - 1, 1), "ExposureTime 4294967295/1 is not usable"),
        (0x829A, 5, struct.pack("<II", 1, 2**32 - 1), "ExposureTime 1/4294967295 is not usable"),
        (0x829A, 2, b"1/60\0", "ExposureTime '1/60' is not usable"),
        (0x829A, 12, struct.pack("<d", math.inf), "ExposureTime inf is not usable"),
        (0x829A, 12, struct.pack("<d", math.nan), "ExposureTime nan is not usable"),
        (0x829D, 5, struct.pack("<II", 0, 1), "FNumber 0/1 is not usable"),
        (0x829D, 5, struct.pack("<II", 1, 10), "FNumber 1/10 is not usable"),
        (0x829D, 5, struct.pack("<II", 5000, 1), "FNumber 5000/1 is not usable"),
        (0x920A, 5, struct.pack("<II", 0, 1), "FocalLength 0/1 is not usable"),
        (0x920A, 5, struct.pack("<II", 20000, 1), "FocalLength 20000/1 is not usable"),
        (0x8827, 3, struct.pack("<H", 0), "ISO 0 is not usable"),
        (0x8827, 3, struct.pack("<H", 65535), "ISO 65535 is not usable"),
        (0x8827, 4, struct.pack("<I", 20_000_000), "ISO 2e+07 is not usable"),
    ],
)
def test_absurd_values_are_unknown_and_said(tag, kind, data, note):
    size = {2: 1, 3: 2, 4: 4, 5: 8, 10: 8, 12: 8}[kind]
    optical, notes = exif.optical_params(exif.parse(tiff([], sub=[(tag, kind, len(data) // size, data)])))
    assert optical == OpticalParams()
    assert notes == [note]


def test_iso_family():
    def iso(*entries):
        return exif.optical_params(exif.parse(tiff([], sub=list(entries))))[0].iso

    assert iso((0x8827, 3, 2, struct.pack("<HH", 0, 400))) == 400
    assert iso((0x8827, 3, 1, struct.pack("<H", 65535)), (0x8832, 4, 1, struct.pack("<I", 102400))) == 102400
    assert iso((0x8833, 4, 1, struct.pack("<I", 80))) == 80
    assert iso() is None


def test_apex_values_stand_in():
    block = tiff([], sub=[(37377, 10, 1, struct.pack("<ii", 7, 1)), (37378, 5, 1, struct.pack("<II", 4, 1))])
    optical, notes = exif.optical_params(exif.parse(block))
    assert (optical.exposure_time, optical.f_number) == (1 / 128, 4.0)
    assert notes == ["exposure_time 0.007812 derived from ShutterSpeedValue", "f_number 4 derived from ApertureValue"]


def test_orientation_and_camera_when_absurd():
    for value in (0, 9, 65535):
        assert exif.orientation(exif.parse(tiff([(274, 3, 1, struct.pack("<H", value))]))) == 1
    assert exif.orientation(exif.parse(tiff([(274, 2, 5, b"Left\0")]))) == 1
    assert exif.camera(exif.parse(tiff([(271, 2, 5, b"    \0")]))) is None
    assert exif.camera(exif.parse(tiff([(272, 2, 5, b"X100\0")]))) == Camera("", "X100")


@pytest.mark.parametrize(
    ("code", "index", "expected"),
    [(1, b"R98", "sRGB"), (2, b"R98", "Adobe RGB"), (65535, b"R03", "Adobe RGB"), (65535, b"R98", None),
     (None, b"R98", "sRGB"), (65535, None, None), (None, None, None), (0, b"R98", "sRGB")],
)  # fmt: skip
def test_color_space(code, index, expected):
    tags = {"0th": {}, "Exif": {} if code is None else {0xA001: code}, "Interop": {} if index is None else {1: index}}
    assert exif.color_space(exif.parse(block_of(tags))) == expected


# Writing -------------------------------------------------------------------------------------------------------------


def test_clean_exif_keeps_what_matters():
    optical = OpticalParams(200, 1 / 125, 5.6, 50)
    made = exif.clean_exif(
        block_of(FULL), optical=optical, camera=Camera("NIKON", "D90"), software="s 1", width=6, height=4
    )
    assert made[:2] in (b"II", b"MM")
    block = exif.parse(made)
    assert exif.optical_params(block) == (optical, [])
    assert exif.camera(block) == Camera("NIKON", "D90")
    assert exif.orientation(block) == 1
    assert exif.color_space(block) == "sRGB"
    assert block.exif[0x829A].fractions() == ((1, 125),)
    assert block.exif[0xA434].text() == "50mm f/1.8"
    assert block.ifd0[306].text() == block.exif[0x9003].text() == "2011:05:03 10:11:12"
    assert block.ifd0[315].text() == "Someone"
    assert block.ifd0[305].text() == "s 1"
    assert block.gps[2].values() == (48.0, 8.0, 12.34)
    assert (block.exif[0xA002].values(), block.exif[0xA003].values()) == ((6,), (4,))
    assert len(made) < 1000


@pytest.mark.parametrize("iso", [50.0, 65534.0, 65535.0, 409600.0])
def test_clean_exif_iso_comes_back(iso):
    made = exif.clean_exif(None, optical=OpticalParams(iso), camera=None, software="s", width=6, height=4)
    assert exif.optical_params(exif.parse(made))[0].iso == iso


@settings(max_examples=200, deadline=None)
@given(st.floats(1e-6, 80000), st.floats(0.4, 1000), st.floats(0.2, 9000))
def test_clean_exif_values_come_back(exposure_time, f_number, focal_length):
    optical = OpticalParams(100, exposure_time, f_number, focal_length)
    made = exif.clean_exif(None, optical=optical, camera=None, software="s", width=6, height=4)
    back = exif.optical_params(exif.parse(made))[0]
    assert back.exposure_time == pytest.approx(exposure_time, rel=0.01, abs=1e-6)
    assert back.f_number == pytest.approx(f_number, rel=1e-4)
    assert back.focal_length == pytest.approx(focal_length, rel=1e-4)


def test_clean_exif_drops_what_cannot_be_written():
    bad = tiff(
        [(306, 3, 1, b"\1\0"), (315, 2, 3, b"Me\0")],
        sub=[(0x9003, 5, 1, struct.pack("<II", 1, 2)), (0xA434, 2, 4, b"Len\0")],
    )
    for source in (bad, b"", b"junk", None):
        made = exif.clean_exif(source, optical=OpticalParams(), camera=None, software="s", width=6, height=4)
        block = exif.parse(made)
        assert 0x9003 not in block.exif
        assert block.exif[0xA002].values() == (6,)
        assert (0xA434 in block.exif) == (source is bad)


def test_build_keeps_entries_and_drops_what_points_elsewhere():
    source = exif.parse(block_of(FULL))
    again = exif.parse(exif.build(source.ifd0, source.exif, source.gps))
    for one, two in ((source.gps, again.gps), (source.exif, again.exif)):
        assert {t: (e.type, e.count, e.data) for t, e in one.items()} == {
            t: (e.type, e.count, e.data) for t, e in two.items()
        }
    assert 0x927C not in exif.parse(exif.build({}, exif.parse(CANON).exif, {})).exif


# Real files ----------------------------------------------------------------------------------------------------------

REAL_NEUTRALS = {
    "Canon_EOS5D-MIII__K6A7945.JPG": (2217, 1024, 1024, 1367),
    "Canon_EOS_RP__MG_0635.JPG": (1900, 1024, 1024, 1817),
    "Canon_Rebel_XT_350D__MG_9382.JPG": (1946, 1016, 1022, 1725),
    "Nikon_D90_DSC_0003.JPG": (1.80078125, 1, 1, 1.30859375),
    "Nikon_D3100_DSC_0008.JPG": (2.08984375, 1, 1, 1.34765625),
    "IMG_0848.CR2": (2009, 1024, 1024, 1713),
    "canon_eos_60d.CR2": (1993, 1024, 1024, 1544),
    "canon_eos_5d_mark_iv.CR2": (2320, 1024, 1024, 1293),
    "canon_powershot_g10.CR2": (1495, 978, 978, 1668),
}


def test_real_white_balance(shared, real_raws):
    """Against exiftool's WB_RGGBLevelsAsShot and WB_RBLevels."""
    for name, (red, green_r, green_b, blue) in REAL_NEUTRALS.items():
        path = real_raws.get(name, shared / "jpegs" / name)
        if not path.exists():
            continue
        data = path.read_bytes()
        start = data.find(b"Exif\0\0") if data[:2] == b"\xff\xd8" else 0
        neutral, _ = exif.white_balance(exif.parse(data[start:]))
        green = (green_r + green_b) / 2
        np.testing.assert_allclose(neutral, [green / red, 1, green / blue], err_msg=name)


def test_real_raw_files_can_be_walked(real_raws):
    if not real_raws:
        pytest.skip("no real RAW files here")
    for path in real_raws.values():
        if path.suffix == ".CRW":  # CIFF, no TIFF
            continue
        data = path.read_bytes()
        ifds = parse_ifds(data)
        assert len(ifds) >= 1
        assert exif.camera(exif.parse(data)) is not None
        optical, _ = exif.optical_params(exif.parse(data))
        assert None not in (optical.iso, optical.exposure_time, optical.focal_length)


@pytest.mark.parametrize("order", ["<", ">"])
def test_an_upright_block_differs_in_its_orientation_alone(order):
    ifd0 = [(0x010F, 2, 4, b"Mak\0"), (0x0112, 3, 1, struct.pack(f"{order}H", 6) + b"\0\0"), (0x0128, 3, 1, bytes(4))]
    block = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(ifd0))
    block += b"".join(struct.pack(f"{order}HHI", *entry[:3]) + entry[3] for entry in ifd0) + bytes(4) + b"note"
    turned = exif.upright(block)
    assert exif.orientation(exif.parse(block)) == 6
    assert exif.orientation(exif.parse(turned)) == 1
    assert [at for at in range(len(block)) if block[at] != turned[at]] == [30 if order == "<" else 31]
    for damaged in (b"", b"II", b"II*\0\xff\xff\xff\xff\0\0", block[:20], b"no EXIF at all"):
        assert exif.upright(damaged) == damaged
