"""Broken and hostile pictures are refused in one line, without the memory, the time or the black rows they ask for."""

from __future__ import annotations

import io
import logging
import os
import struct
import subprocess
import sys
import tracemalloc
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, features

from paramisp_cli import formats
from paramisp_cli.errors import FileAccessError, FormatError
from paramisp_cli.formats import WriteOptions, dng, icc, kinds, libraw, raster, tiff
from paramisp_cli.types import Camera, CanonicalParams, Crop, RawImage, SrgbImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
PIXELS = np.random.default_rng(3).integers(0, 256, (48, 64, 3), np.uint8)
PICTURE = SrgbImage(PIXELS)


def refusal(path: Path, **more: int) -> str:
    """The one line with which ``formats.read`` refuses a file, without the file's name."""
    with pytest.raises(FormatError) as raised:
        formats.read(path, **more)
    line = str(raised.value)
    assert line.startswith(f"{path}: ")
    assert "\n" not in line
    return line.removeprefix(f"{path}: ")


def peak(work) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def encoded(kind: str, **options) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(PIXELS).save(stream, kind, **options)
    return stream.getvalue()


# Size ----------------------------------------------------------------------------------------------------------------


def png_of(width: int, height: int) -> bytes:
    data = b"\x89PNG\r\n\x1a\n"
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    for kind, content in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")):
        data += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    return data


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (png_of(20000, 20000), "20000×20000 = 400 megapixels, more than the 250 megapixels allowed"),
        (jpeg_of(65000, 65000), "65000×65000 = 4225 megapixels, more than"),
    ],
    ids=["png", "jpeg"],
)
def test_a_header_that_claims_too_much(tmp_path, data, said):
    path = tmp_path / "a"
    path.write_bytes(data)
    assert peak(lambda: refusal(path)) < 20 << 20
    assert refusal(path).startswith(said)


def test_a_header_that_claims_more_than_there_is(tmp_path):
    (tmp_path / "a").write_bytes(png_of(600, 500))
    assert "damaged" in refusal(tmp_path / "a")
    assert "0.3 megapixels, more than" in refusal(tmp_path / "a", max_pixels=299_999)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp", ".avif", ".dng"])
def test_the_limit_is_the_callers(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    if suffix == ".dng":
        dng.write(a_raw(), path, WriteOptions())
    else:
        Image.fromarray(PIXELS).save(path)
    assert formats.read(path, max_pixels=48 * 64).size == (48, 64)
    assert refusal(path, max_pixels=48 * 64 - 1) == (
        "64×48 = 0.0031 megapixels, more than the 0.0031 megapixels allowed"
    )


def a_raw(height: int = 48, width: int = 64, black: object = 512, **more) -> RawImage:
    mosaic = np.random.default_rng(1).integers(600, 16000, (height, width)).astype(np.uint16)
    return RawImage(mosaic, CanonicalParams("RGGB", black, 16383, (0.45, 1, 0.7), MATRIX), **more)


# TIFF strips ---------------------------------------------------------------------------------------------------------


def tiff_of(strips: list[bytes], *, compression: int = 8, height: int = 48, change=lambda tags: None) -> bytes:
    """A TIFF of RGB pixels, 64 wide, 16 rows a strip; ``change`` may alter its tags before it is laid out."""
    tags = {
        256: tiff.long(64), 257: tiff.long(height), 258: tiff.short(8, 8, 8), 259: tiff.short(compression),
        262: tiff.short(2), 277: tiff.short(3), 278: tiff.long(16), 284: tiff.short(1),
        273: tiff.long(*np.cumsum([8, *map(len, strips[:-1])])), 279: tiff.long(*map(len, strips)),
    }  # fmt: skip
    change(tags)
    at = 8 + sum(map(len, strips))
    at += at % 2
    body = b"II*\0" + struct.pack("<I", at) + b"".join(strips)
    return body.ljust(at, b"\0") + tiff.directory(tags, at)


def strips(compression: int = 8) -> list[bytes]:
    rows = [PIXELS[top : top + 16].tobytes() for top in (0, 16, 32)]
    return [zlib.compress(each) for each in rows] if compression == 8 else rows


@pytest.mark.parametrize("compression", [1, 8])
def test_a_whole_tiff_is_read(tmp_path, compression):
    (tmp_path / "a.tif").write_bytes(tiff_of(strips(compression), compression=compression))
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif").pixels, PIXELS)


def without(*numbers):
    return lambda tags: [tags.pop(number) for number in numbers]


def with_tag(number, value):
    return lambda tags: tags.update({number: value})


@pytest.mark.parametrize("compression", [1, 8, 5, 32773])  # none, Deflate, LZW, PackBits: ours, and libtiff's
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without(273), "damaged"),
        (without(279), "damaged"),
        (with_tag(273, tiff.long(8, 9)), "has 2 of the 3 strips that its size needs; it is damaged"),
        (with_tag(279, tiff.long(900)), "has 1 of the 3 strips that its size needs; it is damaged"),
        (with_tag(273, tiff.long(8, 0, 8)), "strip 2 of 3 is missing; it is damaged"),
        (with_tag(279, tiff.long(1000, 1000, 0)), "strip 3 of 3 is missing; it is damaged"),
        (with_tag(273, tiff.long(8, 8, 1 << 30)), "strip 3 of 3 lies beyond the end of the file; it is damaged"),
        (with_tag(257, tiff.long(49)), "has 3 of the 4 strips that its size needs; it is damaged"),
        (with_tag(256, tiff.long(0)), "its size is 0×48; it is damaged"),
        (with_tag(278, tiff.long(0)), "its strips have no rows; it is damaged"),
    ],
)
def test_missing_strips_are_no_black_rows(tmp_path, compression, change, said):
    (tmp_path / "a.tif").write_bytes(tiff_of(strips(1), compression=compression, change=change))
    assert said in refusal(tmp_path / "a.tif")


def test_short_strips_are_no_black_rows(tmp_path):
    """Of what the second strip needs, half is there."""
    cut = strips(1)
    cut[1] = cut[1][:1536]
    (tmp_path / "a.tif").write_bytes(tiff_of(cut, compression=1))
    assert refusal(tmp_path / "a.tif") == "strip 2 of 3 has 1536 of 3072 bytes; it is damaged"
    (tmp_path / "a.tif").write_bytes(tiff_of([zlib.compress(each) for each in cut]))
    assert refusal(tmp_path / "a.tif") == "strip 2 of 3 has 1536 of 3072 bytes; it is damaged"


@pytest.mark.slow
@pytest.mark.parametrize("surplus", [True, False])
def test_a_strip_is_inflated_to_its_size_only(tmp_path, surplus):
    """256 MB of zeros in a strip of 3 kB: the surplus is left alone; alone they are no picture."""
    packer = zlib.compressobj()
    bomb = packer.compress(strips(1)[0] if surplus else b"")
    bomb += b"".join(packer.compress(bytes(1 << 20)) for _ in range(256)) + packer.flush()
    (tmp_path / "a.tif").write_bytes(tiff_of([bomb, *strips()[1:]]))
    assert peak(lambda: formats.read(tmp_path / "a.tif")) < 3 << 20
    expected = PIXELS if surplus else np.concatenate([np.zeros_like(PIXELS[:16]), PIXELS[16:]])
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif").pixels, expected)


def test_damage_that_only_libtiff_tells(tmp_path, capfd):
    """A marker amid the JPEG data of a strip: libtiff prints the error, and Pillow gives grey blocks."""
    data = bytearray(encoded("TIFF", compression="jpeg"))
    offset = int(tifffile.TiffFile(io.BytesIO(data)).pages[0].dataoffsets[0])
    data[offset + 400 : offset + 402] = b"\xff\x9a"
    (tmp_path / "a.tif").write_bytes(data)
    assert formats.read(tmp_path / "a.tif").notes == (
        "the picture is damaged (Unsupported marker type 0x9a): a part of it may be wrong",
    )
    assert capfd.readouterr() == ("", "")


def test_absurd_tiles(tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS, photometric="rgb", tile=(32, 32))
    np.testing.assert_array_equal(formats.read(tmp_path / "a.tif").pixels, PIXELS)
    data = bytearray((tmp_path / "a.tif").read_bytes())
    for tag in (322, 323):
        at = data.index(struct.pack("<HHI", tag, 4, 1)) + 8 if struct.pack("<HHI", tag, 4, 1) in data else None
        at = at or data.index(struct.pack("<HHI", tag, 3, 1)) + 8
        data[at : at + 2] = struct.pack("<H", 65520)
    (tmp_path / "a.tif").write_bytes(data)
    assert peak(lambda: refusal(tmp_path / "a.tif")) < 3 << 20
    assert "tiles are 65520×65520 pixels; it is damaged" in refusal(tmp_path / "a.tif")


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.uint32])
def test_depths_that_are_not_read(tmp_path, dtype):
    tifffile.imwrite(tmp_path / "a.tif", PIXELS.astype(dtype), photometric="rgb")
    assert refusal(tmp_path / "a.tif").endswith("save it with 8 or 16 bits, in RGB")


# WebP and AVIF -------------------------------------------------------------------------------------------------------

EXACT = {"WEBP": {"lossless": True}, "AVIF": {"quality": 100, "subsampling": "4:4:4"}}


def exif_of(make: str) -> bytes:
    block = Image.Exif()
    block[271], block[272], block[274] = make, "X1", 6
    return block.tobytes()


@pytest.mark.parametrize("kind", EXACT)
def test_webp_and_avif(tmp_path, kind):
    if not features.check(kind.lower()):
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / f"a.{kind.lower()}"
    xmp = b"<x:xmpmeta/>"
    path.write_bytes(encoded(kind, **EXACT[kind], exif=exif_of("Maker"), xmp=xmp, icc_profile=raster.srgb_profile()))
    image = formats.read(path)
    assert np.abs(image.pixels.astype(int) - PIXELS).max() <= (0 if kind == "WEBP" else 3)
    assert (image.camera, image.orientation, image.notes) == (Camera("Maker", "X1"), 6, ())
    assert (image.metadata.xmp, image.metadata.icc) == (xmp, raster.srgb_profile())
    assert image.metadata.jpeg is None
    assert formats.identify(path).name.upper() == kind
    assert formats.identify(path).write is None
    others = [Image.new("RGB", (64, 48), colour) for colour in ("red", "blue")]
    path.write_bytes(encoded(kind, **EXACT[kind], save_all=True, append_images=others))
    image = formats.read(path)
    assert image.notes == ("the file has 3 pictures: the first one was read",)
    assert np.abs(image.pixels.astype(int) - PIXELS).max() <= (0 if kind == "WEBP" else 3)


def test_colours_that_an_avif_names_by_number(tmp_path):
    if not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    data = encoded("AVIF")
    at = data.index(b"colrnclx") + 8
    path = tmp_path / "a.avif"
    for primaries, transfer, space in (
        (1, 13, None),
        (12, 16, "Display P3, PQ (HDR)"),
        (9, 18, "Rec. 2020, HLG (HDR)"),
    ):
        path.write_bytes(data[:at] + struct.pack(">HH", primaries, transfer) + data[at + 4 :])
        notes = formats.read(path).notes
        assert notes == (() if space is None else (f"its colours are {space}, which paramisp does not convert; "
                                                  "the pixels count as sRGB",))  # fmt: skip
    path.write_bytes(data[:at] + struct.pack(">HH", 12, 13) + data[at + 4 :])
    assert str(formats.read(path).notes[0]).startswith("converted from Display P3 to sRGB")


@pytest.mark.parametrize(("kind", "remedy"), [("webp", "Pillow with libwebp"), ("avif", "Pillow 11.3 or later")])
def test_a_pillow_without_the_decoder(tmp_path, monkeypatch, kind, remedy):
    heads = {"webp": b"RIFF\x24\0\0\0WEBPVP8 ", "avif": b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"}
    (tmp_path / "a").write_bytes(heads[kind] + bytes(64))
    monkeypatch.setattr(features, "get_supported_modules", list)
    assert refusal(tmp_path / "a").endswith(f"this Pillow cannot decode; install {remedy}, or convert it to JPEG")


# Other kinds ---------------------------------------------------------------------------------------------------------


def ftyp(major: bytes, *others: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(others)
    return struct.pack(">I", 8 + len(brands)) + b"ftyp" + brands


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (
            ftyp(b"mp42", b"isom", b"mp42"),
            "is a video, which paramisp cannot read; save a picture of it as JPEG or PNG",
        ),
        (ftyp(b"qt  "), "is a video"),
        (b"RIFF\0\0\0\0AVI LIST", "is a video"),
        (b"\x1a\x45\xdf\xa3\x01", "is a video"),
        (ftyp(b"jxl "), "is JPEG XL"),
        (b"\xff\x0a\xfa\x1f", "is JPEG XL"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "is JPEG XL"),
        (b"\0\0\0\x0cjP  \r\n\x87\n", "is JPEG 2000"),
        (b"GIF89a\1\0\1\0", "is GIF, which paramisp cannot read; convert it to JPEG, PNG or TIFF first"),
        (b"BM\x8a\0\0\0", "is BMP"),
        (b"8BPS\0\1", "is PSD (Photoshop)"),
        (b"II+\0\x08\0\0\0", "is BigTIFF"),
        (b"RIFF\0\0\0\0WAVEfmt ", "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW file"),
        (b"hello", "not a JPEG, PNG, TIFF, WebP, AVIF, HEIC or camera RAW file"),
    ],
)
def test_a_kind_that_is_not_read_is_named(tmp_path, data, said):
    (tmp_path / "a.jpg").write_bytes(data + bytes(100))
    assert refusal(tmp_path / "a.jpg").startswith(said)


def test_real_avifs_are_no_heics():
    for head in (ftyp(b"avif", b"mif1", b"miaf"), ftyp(b"mif1", b"avif", b"miaf"), ftyp(b"avis", b"avif")):
        assert kinds.is_avif(head)
        assert not kinds.is_heic(head)
    for head in (ftyp(b"heic", b"mif1", b"heic"), ftyp(b"mif1", b"mif1", b"heix"), ftyp(b"msf1", b"hevc")):
        assert kinds.is_heic(head)
        assert not kinds.is_avif(head)


# Anything cut short --------------------------------------------------------------------------------------------------


def samples() -> dict[str, bytes]:
    found = {
        kind: encoded(kind)
        for kind in ("PNG", "WEBP", "AVIF", "GIF", "BMP")
        if features.check("avif") or kind != "AVIF"
    }
    found["JPEG"] = encoded("JPEG", exif=exif_of("Maker"), icc_profile=raster.srgb_profile(), quality=20)
    found["TIFF none"], found["TIFF deflate"] = tiff_of(strips(1), compression=1), tiff_of(strips())
    found["TIFF LZW"] = encoded("TIFF", compression="tiff_lzw")
    return found


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "TIFF none", "TIFF deflate", "TIFF LZW"])
def test_every_prefix_is_refused_in_one_line(tmp_path, capfd, kind):
    """Headers at every byte, the pixels at fifty places."""
    data = samples().get(kind)
    if data is None:
        pytest.skip(f"this Pillow has no {kind}")
    path = tmp_path / "a"
    for cut in [*range(min(700, len(data))), *np.linspace(0, len(data) - 60, 50).astype(int)]:
        path.write_bytes(data[:cut])
        with pytest.raises(FormatError, match=rf"^{path}: [^\n]*$"):
            formats.read(path)
    assert capfd.readouterr() == ("", "")


def test_every_prefix_of_a_dng(tmp_path, capfd):
    dng.write(a_raw(), tmp_path / "a.dng", WriteOptions(compression="none"))
    data = (tmp_path / "a.dng").read_bytes()
    for cut in range(0, 1500, 7):
        (tmp_path / "b.dng").write_bytes(data[:cut])
        with pytest.raises(FormatError, match=r"b\.dng: [^\n]*$"):
            formats.read(tmp_path / "b.dng")
    assert capfd.readouterr() == ("", "")


def test_every_prefix_of_a_colour_profile():
    profile = raster.srgb_profile()
    for cut in range(len(profile)):
        pixels, notes = icc.to_srgb(PIXELS[:2], profile[:cut], None)
        assert pixels.shape == (2, 64, 3)
        assert all("\n" not in note for note in notes)


@pytest.mark.parametrize("damaged", [b"\xff\xd8\xff", b"\xff\xd8\xff\xe1\0", b"\xff\xd8\xff\xff"])
def test_a_damaged_preview_does_not_cost_the_raw(damaged):
    assert libraw._exif_of(Path("a.nef"), [], damaged) == (None, None)


# Voices of libraries -------------------------------------------------------------------------------------------------


def mutated(data: bytes, seed: int) -> bytes:
    rng, copy = np.random.default_rng(seed), bytearray(data)
    for at in rng.integers(0, len(copy), 4):
        copy[at] = rng.integers(0, 256)
    return bytes(copy)


@pytest.mark.slow
def test_no_library_speaks_to_the_user(tmp_path):
    """libtiff prints from C; tifffile logs, Pillow and numpy warn, and Python prints that if no one else does."""
    code = f"""
from pathlib import Path
from paramisp_cli import formats
from paramisp_cli.errors import ParamispError
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    try:
        formats.read(path)
    except ParamispError as error:
        assert "\\n" not in str(error)
"""
    for kind in ("TIFF none", "TIFF deflate", "TIFF LZW"):
        for seed in range(60):
            (tmp_path / f"{kind}{seed}").write_bytes(mutated(samples()[kind], seed))
    for name, change in (
        ("tag", with_tag(60000, tiff.Entry(77, 5, b"12345"))),
        ("short", with_tag(258, tiff.short(8))),
    ):
        (tmp_path / name).write_bytes(tiff_of(strips(1), compression=1, change=change))
    photo = samples()["JPEG"]
    at = photo.index(b"Exif") + 6
    for cut in range(10, 80, 3):  # the block ends early: Pillow warns of it
        head = photo[: at + cut]
        short = head[: at - 8] + struct.pack(">H", cut + 8) + head[at - 6 :]
        (tmp_path / f"cut{cut}").write_bytes(short + photo[at + int.from_bytes(photo[at - 8 : at - 6], "big") - 8 :])
    profile = bytearray(raster.srgb_profile())
    curve = profile.index(b"para\0\0\0\0\0\x03") + 12
    profile[curve : curve + 8] = struct.pack(">ii", 0x7FFFFFFF, 0x7FFFFFFF)  # (2^15 x)^(2^15): numpy warns
    (tmp_path / "curve").write_bytes(encoded("PNG", icc_profile=bytes(profile)))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_curves_that_make_no_sense(tmp_path):
    profile = raster.srgb_profile()
    at = profile.index(b"para\0\0\0\0\0\x03") + 12
    flat = profile[:at] + bytes(4) + profile[at + 4 : at + 16] + bytes(4) + profile[at + 20 :]  # the power 0, from 0 on
    (tmp_path / "a.png").write_bytes(encoded("PNG", icc_profile=flat))
    image = formats.read(tmp_path / "a.png")
    np.testing.assert_array_equal(image.pixels, PIXELS)
    assert image.notes == (
        "the embedded colour profile cannot be used (its tone curves make no sense); the pixels count as sRGB",
    )


def test_tifffile_may_speak_to_others(caplog):
    """Only lines about files that paramisp reads are dropped."""
    logging.getLogger("tifffile").warning("mine")
    assert caplog.messages == ["mine"]


# Names ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 300 + ".png", "b" * 5000, "c/" * 3000 + "d.png", "nul\0.png"])
def test_names_that_no_system_takes(tmp_path, name):
    path = tmp_path / name
    for work in (formats.identify, formats.read, lambda p: formats.write(PICTURE, p.with_suffix(".png"))):
        with pytest.raises(FileAccessError, match=r"cannot (read|write) it: "):
            work(path)


# Large DNGs, and files that are read again ---------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["lossless", "none"])
@pytest.mark.parametrize("shape", [(24, 64000), (64000, 24)])
@pytest.mark.slow
def test_the_longest_sides_are_opened(tmp_path, shape, compression):
    formats.write(a_raw(*shape), tmp_path / "a.dng", WriteOptions(compression=compression, verify=True))


@pytest.mark.parametrize("shape", [(24, 64002), (64002, 24), (30000, 40000)])
def test_larger_mosaics_are_refused_before_any_work(tmp_path, shape):
    mosaic = np.broadcast_to(np.uint16(700), shape)  # takes no memory
    said = "64000 a side" if 24 in shape else "1200 megapixels are more than most programs open as a DNG"
    with pytest.raises(FormatError, match=said):
        dng.check_size(*shape)
    with pytest.raises(FormatError, match=said):
        formats.write(a_raw_of(mosaic), tmp_path / "a.dng")
    assert list(tmp_path.iterdir()) == []


def a_raw_of(mosaic: np.ndarray) -> RawImage:
    return RawImage(mosaic, CanonicalParams("RGGB", 512, 16383, (0.45, 1, 0.7), MATRIX))


@pytest.fixture(params=["option", "environment", "neither"])
def asked(request, monkeypatch):
    """(options, whether verification was asked for)."""
    monkeypatch.setenv("PARAMISP_VERIFY", "1" if request.param == "environment" else "0")
    return WriteOptions(verify=request.param == "option"), request.param != "neither"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda raw: {"mosaic": raw.mosaic ^ np.uint16(raw.mosaic == raw.mosaic.max())}, "mosaic"),
        (lambda raw: {"orientation": 3}, "orientation"),
        (lambda raw: {"crop": Crop(0, 0, 46, 64)}, "crop"),
        (lambda raw: {"canonical": changed(raw, cfa="BGGR")}, "CFA"),
        (lambda raw: {"canonical": changed(raw, black_level=513)}, "black level"),
        (lambda raw: {"canonical": changed(raw, white_level=16382)}, "white level"),
        (lambda raw: {"canonical": changed(raw, color_matrix=MATRIX + 1e-6)}, "colour matrix"),
        (lambda raw: {"canonical": changed(raw, as_shot_neutral=(0.450001, 1, 0.7))}, "as-shot neutral"),
    ],
)
def test_a_dng_that_reads_back_otherwise_is_not_left(tmp_path, monkeypatch, asked, change, said):
    options, verified = asked
    raw = a_raw()
    form = formats.writer(".dng")
    assert form is not None

    def write(image, path, how):
        form.write(replace(image, **change(image)), path, how)

    monkeypatch.setattr(formats, "writer", lambda suffix: replace(form, write=write))
    if not verified:
        formats.write(raw, tmp_path / "a.dng", options)
        return
    with pytest.raises(FormatError, match=rf"a\.dng: the file did not read back as it was written \(other {said}\)"):
        formats.write(raw, tmp_path / "a.dng", options)
    assert list(tmp_path.iterdir()) == []


def changed(raw: RawImage, **more: object) -> CanonicalParams:
    return replace(raw.canonical, **more)


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif"])
def test_a_picture_that_reads_back_otherwise_is_not_left(tmp_path, monkeypatch, asked, suffix):
    options, verified = asked
    form = formats.writer(suffix)
    assert form is not None
    for other, said in ((PIXELS[:40], "size"), (PIXELS ^ 1, "" if suffix == ".jpg" else "pixels"), (None, "damaged")):

        def write(image, path, how, other=other):
            form.write(image if other is None else replace(image, pixels=other), path, how)
            if other is None:
                os.truncate(path, 300)

        monkeypatch.setattr(formats, "writer", lambda suffix, write=write: replace(form, write=write))
        if verified and said:
            with pytest.raises(FormatError, match=said) as raised:
                formats.write(PICTURE, tmp_path / f"a{suffix}", options)
            assert ".part" not in str(raised.value)
            assert list(tmp_path.iterdir()) == []
        else:
            formats.write(PICTURE, tmp_path / f"a{suffix}", options, overwrite=True)
            (tmp_path / f"a{suffix}").unlink()


@pytest.mark.parametrize("black", [512.5, [[500, 501.25], [502.75, 503]]])
def test_levels_that_are_fractions_pass(tmp_path, black):
    formats.write(a_raw(black=black), tmp_path / "a.dng", WriteOptions(verify=True))
