"""A JPEG that carries its RAW as a file: edits by other programs, damage, hostile trailers, and the command line."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
import tifffile
from kept_shots import MATRIX, jpeg_of, shot
from PIL import Image

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import WriteOptions, kept
from paramisp_cli.formats.jpeg import end_of_picture
from paramisp_cli.formats.kept import codec, container, record
from paramisp_cli.formats.pixels import apply_orientation
from paramisp_cli.types import Metadata, RawImage

XMP = (
    b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
    b'<rdf:Description xmlns:dc="http://purl.org/dc/elements/1.1/" dc:source="?"/></rdf:RDF></x:xmpmeta>'
)


@pytest.fixture(scope="module")
def carrier() -> tuple[RawImage, bytes, bytes]:
    """A RAW, its plain JPEG and the JPEG that carries it without loss."""
    raw, pixels = shot()
    jpeg = jpeg_of(pixels)
    return raw, jpeg, kept.keep(jpeg, raw)


# --- the file ---------------------------------------------------------------------------------------------------------


def test_it_is_still_the_same_picture(carrier: tuple[RawImage, bytes, bytes]) -> None:
    _, jpeg, data = carrier
    with Image.open(io.BytesIO(jpeg)) as plain, Image.open(io.BytesIO(data)) as carrying:
        np.testing.assert_array_equal(np.asarray(plain), np.asarray(carrying))
        assert b"paramisp unprocess" in carrying.info["comment"]
    assert container.plain(data) == jpeg
    assert kept.find(jpeg) is None
    assert not kept.lost(jpeg)
    assert kept.restore(data).metadata.jpeg == jpeg


def through_skia(data: bytes, _: Path) -> np.ndarray:
    """Decode by Skia's codec, which Chrome decodes pictures with; it must report no error."""
    skia = pytest.importorskip("skia", reason="needs skia-python")
    codec = skia.Codec.MakeFromData(data)
    assert codec is not None
    info = codec.getInfo().makeColorType(skia.kRGBA_8888_ColorType)
    pixels = np.empty((info.height(), info.width(), 4), np.uint8)
    assert codec.getPixels(info, pixels, pixels.strides[0]) == skia.Codec.Result.kSuccess
    return pixels[..., :3]


def through_darktable(data: bytes, folder: Path) -> np.ndarray:
    """Export by darktable, which gets no other file: its result does not depend on an earlier one."""
    if not shutil.which("darktable-cli"):
        pytest.skip("darktable-cli is not installed")
    folder.mkdir()
    (folder / "shot.jpg").write_bytes(data)
    core = ["--configdir", folder / "config", "--library", ":memory:", "--conf", "plugins/darkroom/workflow=none"]
    words = ["darktable-cli", folder / "shot.jpg", folder / "out.tif", "--core", *core]
    subprocess.run(list(map(str, words)), check=True, capture_output=True, timeout=120)
    return tifffile.imread(folder / "out.tif")


@pytest.mark.parametrize("decode", [through_skia, pytest.param(through_darktable, marks=pytest.mark.slow)])
def test_other_programs_show_the_same_picture(
    carrier: tuple[RawImage, bytes, bytes], tmp_path: Path, decode: Callable[[bytes, Path], np.ndarray]
) -> None:
    """The same pixels as of the JPEG without its RAW, and about Pillow's."""
    _, jpeg, data = carrier
    shown = decode(data, tmp_path / "carrier")
    np.testing.assert_array_equal(shown, decode(jpeg, tmp_path / "plain"))
    with Image.open(io.BytesIO(jpeg)) as plain:
        expected = np.asarray(plain.convert("RGB")).astype(int)
    assert shown.shape == expected.shape
    assert np.abs(shown - expected).mean() < 1


def test_a_browser_shows_it_before_the_raw_arrives(carrier: tuple[RawImage, bytes, bytes], tmp_path: Path) -> None:
    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    for end in (trailer.begin, (trailer.begin + len(data)) // 2):
        np.testing.assert_array_equal(through_skia(data[:end], tmp_path), through_skia(jpeg, tmp_path))


def test_other_trailers_stay(carrier: tuple[RawImage, bytes, bytes]) -> None:
    """Ultra HDR and MPF keep further pictures after the first; the RAW may stand before or behind them."""
    raw, jpeg, data = carrier
    for file in (data + jpeg, kept.keep(jpeg + jpeg, raw)):
        np.testing.assert_array_equal(kept.restore(file).mosaic, raw.mosaic)
        assert container.plain(file) == jpeg + jpeg


@pytest.mark.slow
@pytest.mark.parametrize("tool", ["exiftool", "Pillow", "piexif"])
def test_edited_metadata(carrier: tuple[RawImage, bytes, bytes], tmp_path: Path, tool: str) -> None:
    """The RAW survives new EXIF; saving the picture again loses it, and its comment tells so."""
    raw, _, data = carrier
    path = tmp_path / "shot.jpg"
    path.write_bytes(data)
    if tool == "exiftool":
        edit(path, "-Artist=Somebody", "-XMP:Rating=3")
    elif tool == "piexif":
        import piexif

        piexif.insert(piexif.dump({"0th": {315: b"Somebody"}}), str(path))
    else:
        with Image.open(path) as picture:
            picture.load()
            picture.save(path, quality=90)
        assert kept.find(path.read_bytes()) is None
        assert kept.lost(path.read_bytes())
        return
    assert path.read_bytes() != data
    np.testing.assert_array_equal(kept.restore(path.read_bytes()).mosaic, raw.mosaic)


def edit(path: Path, *words: str) -> None:
    if not shutil.which("exiftool"):
        pytest.skip("exiftool is not installed")
    subprocess.run(["exiftool", "-q", "-overwrite_original", *words, str(path)], check=True, capture_output=True)


def refused(data: bytes) -> str:
    with pytest.raises(FormatError) as raised:
        kept.find(data)
    with pytest.raises(FormatError):
        kept.restore(data)
    assert "\n" not in str(raised.value)
    return str(raised.value)


def test_alterations_are_refused(carrier: tuple[RawImage, bytes, bytes]) -> None:
    _, _, data = carrier
    begin, scan = data.index(container.MAGIC), data.index(b"\xff\xda") + 40
    changed = bytearray(data)
    changed[scan], changed[scan + 9] = changed[scan] ^ 1 or 1, changed[scan + 9] ^ 1 or 1
    assert "the picture was altered" in refused(bytes(changed))
    for at in (begin + 130, len(data) - 3):
        changed = bytearray(data)
        changed[at] ^= 1
        changed[at + 1] ^= 1
        assert "damaged: its digest differs" in refused(bytes(changed))
    assert "version 258" in refused(data.replace(container.MAGIC + b"\1\0", container.MAGIC + b"\2\1"))
    for cut in (1, 1000, len(data) - begin - 20):
        assert "cut short" in refused(data[:-cut])
    assert "cut short" in refused(data[: begin - 200])
    assert "a part of the picture" in refused(data[: begin - 200])
    assert kept.find(data[:begin]) is None
    assert kept.lost(data[:begin])


@pytest.mark.slow
def test_every_cut_and_every_flipped_byte_of_the_head() -> None:
    raw, pixels = shot(16, 16)
    data = kept.keep(jpeg_of(pixels), raw)
    begin = data.index(container.MAGIC)
    for end in range(begin + 1, len(data)):
        refused(data[:end])
    for at in range(begin, len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x80
        refused(bytes(changed))


# --- hostile trailers: digests that fit -------------------------------------------------------------------------------


def signed(jpeg: bytes, record_bytes: bytes, body: bytes) -> bytes:
    return container.attach(jpeg, record_bytes, body, "test")


@pytest.mark.parametrize("lengths", [(1 << 31, 5), (5, 1 << 40), ((1 << 32) - 1, (1 << 64) - 1), (0, 0)])
def test_hostile_lengths(carrier: tuple[RawImage, bytes, bytes], lengths: tuple[int, int]) -> None:
    _, _, data = carrier
    at = data.index(container.MAGIC) + 20
    refused(data[:at] + struct.pack("<IQ", *lengths) + data[at + 12 :])


def test_hostile_sections(carrier: tuple[RawImage, bytes, bytes]) -> None:
    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    for number in range(5):
        for value in (0, 1, (1 << 64) - 1, 1 << 40):
            body = bytearray(trailer.body)
            struct.pack_into("<Q", body, 8 * number, value)
            if bytes(body) != trailer.body:
                with pytest.raises(FormatError):
                    kept.restore(signed(jpeg, trailer.record, bytes(body)))


@pytest.mark.slow
def test_a_bomb_in_the_record(carrier: tuple[RawImage, bytes, bytes]) -> None:
    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    bomb = zlib.compress(b" " * (64 << 20), 9)
    with pytest.raises(FormatError, match="too long"):
        kept.find(signed(jpeg, bomb, trailer.body))


def hostile_records() -> list[tuple[str, object]]:
    return [
        ("size", [1 << 16, 1 << 16]), ("size", [96, 127]), ("size", [-2, -2]), ("size", "no"), ("size", [96]),
        ("crop", [0, 0, 97, 128]), ("crop", [0, 0, 1 << 60, 1]), ("crop", None), ("cfa", "RGBW"), ("orientation", 9),
        ("values", [[0]] * 3), ("values", [[0, 1]] * 4), ("values", [[0, 0, 5]] * 4), ("values", [[70000]] * 4),
        ("values", [[0, 1, 65537]] * 4), ("values", [[]] * 4), ("values", None), ("kind", "best"), ("share", -1),
        ("share", 1e300), ("white_level", 0), ("white_level", None), ("black_level", [[1, 2, 3]]), ("pixels", "zz"),
        ("camera", ["a", "b", "c"]), ("optical", {"iso": -5}), ("optical", {"zoom": 5}),
        ("noise", [[1, 2, 3]]), ("noise", [[1, 2]]), ("noise", [[-1, 0]] * 3), ("noise", [[float("nan"), 0]] * 3),
        ("noise", [[1e300, 0]] * 3), ("color_matrix", [[0] * 3] * 3), ("noise_profile", [[1, 2]] * 4),
        ("noise_profile", [[float("inf"), 0]] * 3), ("baseline_exposure", float("nan")), ("white_level", 1e300),
        ("profile_exposure", float("nan")), ("other", [[]] * 2000), ("other", [{}] * 2000),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), hostile_records(), ids=str)
def test_hostile_records(carrier: tuple[RawImage, bytes, bytes], name: str, value: object) -> None:
    import json

    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    fields = json.loads(zlib.decompress(trailer.record)) | {name: value}
    with pytest.raises(FormatError):
        kept.restore(signed(jpeg, zlib.compress(json.dumps(fields).encode()), trailer.body))


def test_a_run_of_ff_is_read_once() -> None:
    """A pattern that searched on from each of its bytes would take hours."""
    _, pixels = shot(16, 16)
    jpeg = jpeg_of(pixels)
    run = b"\xff" * 1_000_000
    for end in (b"\0", b"\xd0", b""):
        data = jpeg[:-2] + run + end
        assert container.layout(data).end is None
        assert end_of_picture(data) is None
        assert container.layout(data + b"\xff\xd9").end == len(data) + 2
        assert end_of_picture(data + b"\xff\xd9") == len(data) + 2


def test_another_decoder_is_told(carrier: tuple[RawImage, bytes, bytes]) -> None:
    """A JPEG library that rounds otherwise would give a wrong RAW."""
    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    found = record.unpack(trailer.record)
    other = record.pack(replace(found, pixels=hashlib.sha256(b"other").digest()))
    with pytest.raises(FormatError, match="decodes the picture to other pixels"):
        kept.restore(signed(jpeg, other, trailer.body))


@pytest.mark.slow
def test_mutated_bodies_never_escape() -> None:
    """Bytes of all sections changed, signed again: a FormatError, or by luck the RAW."""
    raw, pixels = shot(48, 64)
    jpeg = jpeg_of(pixels)
    trailer = container.find(kept.keep(jpeg, raw))
    assert trailer is not None
    sections = codec._split(trailer.body)
    model = codec._unpacked(sections[0], 1 << 24)
    import lzma

    for number in range(150):
        rng = Random(number)
        parts = list(sections)
        which = rng.randrange(6)
        if which == 5:  # inside the compressed model
            inside = bytearray(model)
            for _ in range(rng.choice((1, 1, 3))):
                at = 4 * rng.randrange(len(inside) // 4)
                value = rng.choice((0, 1, -1, (1 << 31) - 1, -(1 << 31), rng.randrange(-5000, 5000)))
                struct.pack_into("<i", inside, at, value)
            parts[0] = lzma.compress(bytes(inside), lzma.FORMAT_RAW, filters=codec._LZMA)
        elif parts[which]:
            changed = bytearray(parts[which])
            for _ in range(rng.choice((1, 2, 8))):
                changed[rng.randrange(len(changed))] = rng.randrange(256)
            parts[which] = bytes(changed[: rng.choice((len(changed), rng.randrange(len(changed) + 1)))])
        body = struct.pack("<5Q", *map(len, parts)) + b"".join(parts)
        try:
            back = kept.restore(signed(jpeg, trailer.record, body))
        except FormatError:
            continue
        np.testing.assert_array_equal(back.mosaic, raw.mosaic)


# --- the library's and the program's way ------------------------------------------------------------------------------


def written(path: Path, how: str = "lossless", **more: object) -> RawImage:
    raw, pixels = shot(**more)  # type: ignore[arg-type]
    picture = paramisp.SrgbImage(pixels, metadata=Metadata(source_name="shot.nef"))
    formats.write(picture, path, WriteOptions(keep_raw=how), raw=raw)
    return raw


@pytest.mark.slow
def test_unprocess_gives_it_back(tmp_path: Path) -> None:
    raw = written(tmp_path / "shot.jpg")
    back = paramisp.unprocess(tmp_path / "shot.jpg")
    np.testing.assert_array_equal(raw.mosaic, back.mosaic)
    assert any("gave back the RAW that it carries: lossless" in note for note in back.notes)
    paramisp.write(back, tmp_path / "shot.dng")
    dng = paramisp.read(tmp_path / "shot.dng")
    assert isinstance(dng, RawImage)
    np.testing.assert_array_equal(raw.mosaic, dng.mosaic)
    np.testing.assert_allclose(dng.canonical.color_matrix, MATRIX, rtol=1e-6)
    assert dng.metadata.jpeg is not None  # LibRaw adds EXIF to it
    picture = container.layout((tmp_path / "shot.jpg").read_bytes())
    assert container.layout(dng.metadata.jpeg).digest == picture.digest
    assert b"paramisp RAW" not in (tmp_path / "shot.dng").read_bytes()


def test_settings_choose(tmp_path: Path) -> None:
    path = tmp_path / "shot.jpg"
    raw = written(path)
    parametric = paramisp.Settings(model="parametric")
    assert any("not used because of `model`" in note for note in paramisp.unprocess(path, parametric).notes)
    both = replace(parametric, kept_raw=True)
    np.testing.assert_array_equal(paramisp.unprocess(path, both).mosaic, raw.mosaic)
    ignoring = paramisp.unprocess(path, replace(parametric, kept_raw=False))
    assert not any("carries" in note for note in ignoring.notes)
    assert ignoring.metadata.jpeg == container.plain(path.read_bytes())  # the preview has no RAW in it
    settings: list[dict[str, Any]] = [{"cfa": "GRBG"}, {"levels": (0, 1023)}, {"linear": True}, {"exposure": 1.0}]
    for setting in settings:
        (name,) = setting
        made = paramisp.unprocess(
            path, paramisp.Settings(**setting, model="parametric" if name == "exposure" else None)
        )
        assert any("carries its RAW, which was not used because of" in note for note in made.notes)
        with pytest.raises(ConfigError, match=f"`{name}`: .*leave out `kept_raw`"):
            paramisp.unprocess(path, paramisp.Settings(kept_raw=True, **setting))
    floats = paramisp.unprocess(path, paramisp.Settings(bit_depth=32)).mosaic
    np.testing.assert_array_equal(floats, (raw.mosaic.astype(np.float32) - 256) / np.float32(4095 - 256))
    image = paramisp.read(path)
    assert isinstance(image, paramisp.SrgbImage)
    changed = paramisp.unprocess(replace(image, pixels=image.pixels[:50]))
    assert any("its pixels were changed" in note for note in changed.notes)
    data = path.read_bytes()
    path.write_bytes(data[:-9])
    with pytest.raises(FormatError, match="cut short"):
        paramisp.unprocess(path)
    made = paramisp.unprocess(path, parametric)  # no RAW is wanted
    assert any("carries a RAW, which was not used because of `model`, and is damaged" in note for note in made.notes)
    assert b"paramisp RAW" not in (made.metadata.jpeg or b"")
    path.write_bytes(data)
    path.write_bytes(container.plain(path.read_bytes()))
    with pytest.raises(FormatError, match="carries no RAW"):
        paramisp.unprocess(path, paramisp.Settings(kept_raw=True))


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_look_is_that_of_the_jpeg(tmp_path: Path, orientation: int) -> None:
    """Also of a RAW on its side; a turn by another program joins that of the RAW."""
    from piexif import dump, insert

    raw = written(tmp_path / "shot.jpg", orientation=orientation)
    plain = written(tmp_path / "plain.jpg")
    back, upright = (paramisp.unprocess(tmp_path / name) for name in ("shot.jpg", "plain.jpg"))
    assert (back.orientation, plain.orientation) == (orientation, 1)
    assert back.tone_curve is not None
    assert upright.tone_curve is not None
    np.testing.assert_allclose(back.tone_curve, upright.tone_curve, atol=0.05)
    for turn in range(1, 9):
        insert(dump({"0th": {274: turn}}), str(tmp_path / "shot.jpg"))
        turned = paramisp.unprocess(tmp_path / "shot.jpg")
        np.testing.assert_array_equal(turned.mosaic, raw.mosaic)
        np.testing.assert_array_equal(turned.tone_curve, back.tone_curve)
        for shape in ((4, 6), (6, 4)):
            numbers = np.arange(24).reshape(shape)
            shown = apply_orientation(apply_orientation(numbers, orientation), turn)
            np.testing.assert_array_equal(apply_orientation(numbers, turned.orientation), shown)


@pytest.mark.slow
def test_metadata_are_those_of_the_jpeg(tmp_path: Path) -> None:
    """A position that somebody removes from the JPEG is gone from the RAW, and a new author is there."""
    import piexif

    raw, pixels = shot()
    place = {1: b"N", 2: ((48, 1), (6, 1), (0, 1))}
    block = piexif.dump({"0th": {315: b"Secretive"}, "GPS": place})[6:]
    packet = XMP.replace(b"?", b"secretive")
    metadata = Metadata(exif=block, xmp=packet)
    raw = replace(raw, metadata=metadata)
    path = tmp_path / "shot.jpg"
    formats.write(paramisp.SrgbImage(pixels, metadata=metadata), path, WriteOptions(keep_raw="lossless"), raw=raw)
    back = paramisp.unprocess(path)
    assert back.metadata.xmp == packet
    assert "GPS" in piexif.load(b"Exif\0\0" + (back.metadata.exif or b""))
    assert piexif.load(b"Exif\0\0" + (back.metadata.exif or b""))["GPS"][1] == b"N"
    piexif.insert(piexif.dump({"0th": {315: b"Somebody"}}), str(path))
    path.write_bytes(path.read_bytes().replace(b"secretive", b"overtness"))
    paramisp.write(paramisp.unprocess(path), tmp_path / "back.dng")
    for data in (path.read_bytes(), (tmp_path / "back.dng").read_bytes()):
        assert b"Somebody" in data
        assert b"overtness" in data
        assert b"ecretive" not in data
    trailer = container.find(path.read_bytes())
    assert trailer is not None
    assert b"ecretive" not in zlib.decompress(trailer.record)
    again = paramisp.read(tmp_path / "back.dng")
    assert piexif.load(b"Exif\0\0" + (again.metadata.exif or b""))["GPS"] == {}


def test_only_a_jpeg_of_a_raw(tmp_path: Path) -> None:
    raw, pixels = shot()
    picture = paramisp.SrgbImage(pixels)
    with pytest.raises(ConfigError, match="only a JPEG carries a RAW"):
        formats.write(picture, tmp_path / "shot.png", WriteOptions(keep_raw="near"), raw=raw)
    with pytest.raises(ConfigError, match="only the RAW it was rendered from"):
        formats.write(picture, tmp_path / "shot.jpg", WriteOptions(keep_raw="near"))
    other = paramisp.SrgbImage(pixels[:50])
    with pytest.raises(FormatError, match="the picture has 128×50 pixels, its RAW 128×96"):
        formats.write(other, tmp_path / "shot.jpg", WriteOptions(keep_raw="near"), raw=raw)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, completed: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    monkeypatch.chdir(tmp_path)
    raw, _ = shot(orientation=6)
    paramisp.write(raw, tmp_path / "shot.dng")
    done = completed("render", "shot.dng", "--keep-raw", "lossless", "--model", "parametric")
    assert done.returncode == 0, done.stderr
    jpeg = (tmp_path / "shot.jpg").read_bytes()

    shown = completed("inspect", "shot.jpg")
    assert "lossless" in shown.stdout
    assert "exact" in shown.stdout
    assert completed("unprocess", "shot.jpg", "-o", "back.dng").returncode == 0
    back = paramisp.read(tmp_path / "back.dng")
    assert isinstance(back, RawImage)
    np.testing.assert_array_equal(back.mosaic, raw.mosaic)
    assert back.orientation == 6

    (tmp_path / "cut.jpg").write_bytes(jpeg[:-100])
    done = completed("unprocess", "cut.jpg")
    assert done.returncode == 7
    assert "cut.jpg: the file is cut short: 100 bytes" in done.stderr
    assert "--no-kept-raw" in done.stderr
    assert completed("unprocess", "cut.jpg", "--no-kept-raw", "--model", "parametric").returncode == 0

    shutil.copy(tmp_path / "shot.jpg", tmp_path / "bare.jpg")
    edit(tmp_path / "bare.jpg", "-trailer:all=")
    done = completed("unprocess", "bare.jpg", "--model", "parametric")
    assert done.returncode == 0
    assert "was removed by a program" in done.stderr
    edit(tmp_path / "bare.jpg", "-all=")
    assert "none inside" in completed("inspect", "bare.jpg").stdout
    done = completed("unprocess", "bare.jpg", "-o", "bare2.dng", "--model", "parametric")
    assert done.returncode == 0
    assert completed("unprocess", "bare.jpg", "-o", "bare3.dng", "--kept-raw").returncode == 7

    assert completed("render", "shot.dng", "--keep-raw", "best").returncode == 2
    assert completed("render", "shot.dng", "--keep-raw", "near", "-o", "shot.png").returncode == 2
