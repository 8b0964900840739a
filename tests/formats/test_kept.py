"""A JPEG that carries its RAW: round trips, edits by other programs, and hostile trailers."""

from __future__ import annotations

import hashlib
import io
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import WriteOptions, kept, raster
from paramisp_cli.formats.kept import codec, container, levels, rans, record
from paramisp_cli.types import Camera, CanonicalParams, Crop, Metadata, OpticalParams, RawImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
NOISE = np.array([[2e-4, 2e-7], [1e-4, 1e-7], [3e-4, 4e-7]])


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(height, width, 3) in [0, 1]: soft colours, edges, a clipped corner."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(y / rng.uniform(3, 30) + x / rng.uniform(3, 30) + k) for k in range(3)]
    light = 0.3 + 0.2 * np.stack(waves, -1) + 0.2 * ((x // 20 + y // 16) % 2)[..., None]
    light[: height // 8, : width // 8] = 2
    return light.clip(0, 1)


def shot(
    height: int = 96, width: int = 128, *, cfa: str = "RGGB", orientation: int = 1, crop: Crop | None = None,
    black: float = 256, white: float = 4095, sparse: int = 1, noisy: bool = True,
) -> tuple[RawImage, np.ndarray]:  # fmt: skip
    """A RAW with noise, and its picture: upright pixels of its crop."""
    light = scene(height, width)
    rng = np.random.default_rng(1)
    linear = light**2.2
    site = np.array(["RGB".index(c) for c in cfa]).reshape(2, 2)
    channel = np.tile(site, (height // 2, width // 2))
    signal = np.take_along_axis(linear, channel[..., None], 2)[..., 0]
    sigma = np.sqrt(NOISE[channel, 0] * signal + NOISE[channel, 1]) * noisy
    codes = np.rint((signal + sigma * rng.standard_normal(signal.shape)) * (white - black) / sparse) * sparse + black
    raw = RawImage(
        codes.clip(0, white).astype(np.uint16),
        CanonicalParams(cfa, np.full((2, 2), black), white, np.array([0.5, 1.0, 0.6]), MATRIX),
        OpticalParams(400, 1 / 125, 2.8, 50.0),
        Camera("Test", "Camera One"),
        orientation=orientation,
        crop=crop,
        noise_profile=NOISE,
        baseline_exposure=0.25,
        metadata=Metadata(xmp=b"<x:xmpmeta/>", source_name="shot.nef"),
    )
    area = raw.crop
    assert area is not None
    pixels = (light * 255).round().astype(np.uint8)
    pixels = pixels[area.top : area.top + area.height, area.left : area.left + area.width]
    return raw, np.ascontiguousarray(raster.apply_orientation(pixels, orientation))


def jpeg_of(pixels: np.ndarray, quality: int = 92, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, **options)
    return stream.getvalue()


@pytest.fixture(scope="module")
def carrier() -> tuple[RawImage, bytes, bytes]:
    """A RAW, its plain JPEG and the JPEG that carries it without loss."""
    raw, pixels = shot()
    jpeg = jpeg_of(pixels)
    return raw, jpeg, kept.keep(jpeg, raw)


def same(raw: RawImage, back: RawImage) -> None:
    """Everything but the mosaic is as it was."""
    for name in ("cfa", "white_level"):
        assert getattr(raw.canonical, name) == getattr(back.canonical, name)
    for name in ("black_level", "as_shot_neutral", "color_matrix"):
        np.testing.assert_array_equal(getattr(raw.canonical, name), getattr(back.canonical, name))
    for name in ("optical", "camera", "orientation", "crop", "baseline_exposure", "model"):
        assert getattr(raw, name) == getattr(back, name), name
    np.testing.assert_array_equal(raw.noise_profile, back.noise_profile)
    assert (raw.metadata.xmp, raw.metadata.source_name) == (back.metadata.xmp, back.metadata.source_name)


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfa", ["RGGB", "GRBG", "GBRG", "BGGR"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_lossless_in_every_orientation_and_cfa(cfa: str, orientation: int) -> None:
    raw, pixels = shot(64, 96, cfa=cfa, orientation=orientation, crop=Crop(3, 5, 55, 86))
    back = kept.restore(kept.keep(jpeg_of(pixels), raw, "lossless"))
    np.testing.assert_array_equal(raw.mosaic, back.mosaic)
    same(raw, back)


@pytest.mark.parametrize("size", [(2, 2), (4, 2), (6, 16), (24, 24), (30, 18), (130, 66), (34, 1200)])
@pytest.mark.parametrize("how", ["lossless", "near"])
def test_sizes(size: tuple[int, int], how: str) -> None:
    raw, pixels = shot(*size)
    check(raw, kept.restore(kept.keep(jpeg_of(pixels), raw, how)), how)


def check(raw: RawImage, back: RawImage, how: str) -> None:
    if how == "lossless":
        np.testing.assert_array_equal(raw.mosaic, back.mosaic)
    for site, sigma in enumerate(levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) < sigma[true]).all()


@pytest.mark.parametrize("quality", [5, 50, 85, 100])
@pytest.mark.parametrize("more", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}], ids=str)
def test_any_jpeg(quality: int, more: dict[str, object]) -> None:
    raw, pixels = shot()
    back = kept.restore(kept.keep(jpeg_of(pixels, quality, **more), raw))
    np.testing.assert_array_equal(raw.mosaic, back.mosaic)


def test_a_picture_of_something_else_costs_bytes_only() -> None:
    raw, pixels = shot()
    other = np.random.default_rng(5).integers(0, 256, pixels.shape, np.uint8)
    np.testing.assert_array_equal(raw.mosaic, kept.restore(kept.keep(jpeg_of(other), raw)).mosaic)


@pytest.mark.parametrize(
    "mosaic",
    [
        np.zeros((32, 32), np.uint16),
        np.full((32, 32), 65535, np.uint16),
        np.random.default_rng(2).integers(0, 65536, (64, 64)).astype(np.uint16),
        np.random.default_rng(2).choice([0, 7, 65535], (64, 64)).astype(np.uint16),
    ],
    ids=["black", "white", "noise", "three values"],
)
@pytest.mark.parametrize("how", ["lossless", "near"])
def test_extreme_samples(mosaic: np.ndarray, how: str) -> None:
    raw, pixels = shot(*mosaic.shape, black=0, white=65535)
    raw = replace(raw, mosaic=mosaic)
    check(raw, kept.restore(kept.keep(jpeg_of(pixels), raw, how)), how)


def test_sparse_values_are_listed() -> None:
    """A camera that uses every 8th value costs three bits less."""
    dense, pixels = shot(256, 256)
    sparse, _ = shot(256, 256, sparse=8)
    jpeg = jpeg_of(pixels)
    both = [kept.keep(jpeg, raw) for raw in (dense, sparse)]
    np.testing.assert_array_equal(sparse.mosaic, kept.restore(both[1]).mosaic)
    assert len(both[0]) - len(both[1]) > 2 * sparse.mosaic.size / 8


def test_near_stays_below_the_noise_and_keeps_clipped_samples() -> None:
    raw, pixels = shot(256, 256, white=16383)
    data = kept.keep(jpeg_of(pixels), raw, "near")
    back = kept.restore(data)
    found = kept.find(data)
    assert found is not None
    for site, bound in enumerate(levels.bounds(raw.canonical, NOISE, found.share)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) <= bound[true]).all()
    np.testing.assert_array_equal(raw.mosaic >= 16383, back.mosaic >= 16383)
    assert (found.kind, found.share, found.noise_origin) == ("near", 0.5, "the RAW file")
    assert "error at most" in str(found)
    assert "0.5 of the noise: the RAW file" in str(found)
    off = back.mosaic.astype(int) - raw.mosaic
    assert 0 < found.bound[0] <= np.abs(off).max() <= found.bound[1]


def test_near_is_smaller_and_a_size_is_met() -> None:
    raw, pixels = shot(256, 384, white=16383)
    jpeg = jpeg_of(pixels)
    lossless, near = len(kept.keep(jpeg, raw)), len(kept.keep(jpeg, raw, "near"))
    assert near - len(jpeg) < 0.6 * (lossless - len(jpeg))
    shares = []
    for size in (lossless + 100, (lossless + near) // 2, near, (2 * near + len(jpeg)) // 3):
        data = kept.keep(jpeg, raw, f"{size}B")
        assert len(data) <= size
        found = kept.find(data)
        assert found is not None
        shares.append(found.share)
        check_share(raw, kept.restore(data), found.share)
    assert shares[0] == 0
    assert shares == sorted(shares)
    with pytest.raises(FormatError, match=r"does not fit into 5000 bytes beside the picture: \d+ are needed"):
        kept.keep(jpeg, raw, "5kB")


def check_share(raw: RawImage, back: RawImage, share: float) -> None:
    for site, bound in enumerate(levels.bounds(raw.canonical, NOISE, share)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) <= bound[true]).all()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("lossless", None),
        ("near", None),
        ("2MB", 2_000_000),
        ("1.5MiB", 1 << 19 | 1 << 20),
        ("800k", 800_000),
        ("99", 99),
    ],
)
def test_ways(text: str, size: int | None) -> None:
    assert kept.check(text) == size


@pytest.mark.parametrize("text", ["", "best", "-1", "0", "2TB", "MB", "1e6", "nan", "9" * 400])
def test_wrong_ways(text: str) -> None:
    with pytest.raises(ConfigError, match="takes lossless, near, or a size such as 2MB"):
        kept.check(text)


def test_measured_noise_is_not_more_than_the_true() -> None:
    """The scene: soft slopes, with edges in a fifth of the blocks."""
    y, x = np.mgrid[:1024, :1024]
    signal = 0.45 + 0.3 * np.sin(x / 200) * np.cos(y / 300) + 0.05 * ((x // 80 + y // 90) % 2)
    sigma = np.sqrt(NOISE[1, 0] * signal + NOISE[1, 1])
    codes = np.rint((signal + sigma * np.random.default_rng(4).standard_normal(signal.shape)) * (16383 - 256) + 256)
    raw, _ = shot(1024, 1024, white=16383)
    flat = replace(raw, mosaic=codes.astype(np.uint16), noise_profile=None, camera=None)
    measured, origin = levels.noise(flat)
    assert origin == "measured in the shot"
    level = np.linspace(0.15, 0.75, 20)
    true, found = (profile[1, 0] * level + profile[1, 1] for profile in (NOISE, measured))
    assert (found < true).all()
    assert (found > 0.3 * true).all()


def test_rans_codes_near_the_entropy() -> None:
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.3, 100_000) - 1, 255)
    rows = rng.integers(0, 2, len(symbols))
    symbols[rows == 1] = 0
    counts = np.stack([np.bincount(symbols[rows == row], minlength=256) for row in (0, 1)])
    frequencies = np.stack([rans.normalised(each) for each in counts])
    starts = np.cumsum(frequencies, 1) - frequencies
    parts = [slice(0, 70_001), slice(70_001, 70_001), slice(70_001, 100_000)]
    coded = [(frequencies[rows[p], symbols[p]], starts[rows[p], symbols[p]]) for p in parts]
    states, words = rans.encode(coded, 33)
    share = counts[0] / counts[0].sum()
    entropy = -float((counts[0] * np.log2(share, where=share > 0, out=np.zeros(256))).sum()) / 16
    assert len(words) < 1.01 * entropy
    decoder = rans.Decoder(states, words)
    np.testing.assert_array_equal(np.concatenate([decoder.decode(rows[p], frequencies) for p in parts]), symbols)
    decoder.finish()


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


def test_other_trailers_stay(carrier: tuple[RawImage, bytes, bytes]) -> None:
    """Ultra HDR and MPF keep further pictures after the first; the RAW may stand before or behind them."""
    raw, jpeg, data = carrier
    for file in (data + jpeg, kept.keep(jpeg + jpeg, raw)):
        np.testing.assert_array_equal(kept.restore(file).mosaic, raw.mosaic)
        assert container.plain(file) == jpeg + jpeg


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


def test_every_cut_and_every_flipped_byte_of_the_head() -> None:
    raw, pixels = shot(16, 16)
    data = kept.keep(jpeg_of(pixels), raw)
    begin = data.index(container.MAGIC)
    for end in range(begin + len(container.MAGIC), len(data)):
        refused(data[:end])
    for at in range(begin + len(container.MAGIC), len(data)):
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


def test_a_bomb_in_the_record(carrier: tuple[RawImage, bytes, bytes]) -> None:
    import zlib

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
        ("exif", "%%%"), ("camera", ["a", "b", "c"]), ("optical", {"iso": -5}), ("optical", {"zoom": 5}),
        ("noise", [[1, 2, 3]]), ("tone_curve", [["x"]]), ("color_matrix", [[0] * 3] * 3),
        ("noise_profile", [[1, 2]] * 4),
    ]  # fmt: skip


@pytest.mark.parametrize(("name", "value"), hostile_records(), ids=str)
def test_hostile_records(carrier: tuple[RawImage, bytes, bytes], name: str, value: object) -> None:
    import json
    import zlib

    _, jpeg, data = carrier
    trailer = container.find(data)
    assert trailer is not None
    fields = json.loads(zlib.decompress(trailer.record)) | {name: value}
    with pytest.raises(FormatError):
        kept.restore(signed(jpeg, zlib.compress(json.dumps(fields).encode()), trailer.body))


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
    path.write_bytes(container.plain(path.read_bytes()))
    with pytest.raises(FormatError, match="carries no RAW"):
        paramisp.unprocess(path, paramisp.Settings(kept_raw=True))


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


Runs = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def program(tmp_path: Path) -> Runs:
    import sys

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "paramisp_cli", *words], cwd=tmp_path, capture_output=True, text=True, check=False
        )

    return run


@pytest.mark.slow
def test_the_program(tmp_path: Path, program: Runs) -> None:
    raw, _ = shot(orientation=6)
    paramisp.write(raw, tmp_path / "shot.dng")
    done = program("render", "shot.dng", "--keep-raw", "lossless", "--model", "parametric")
    assert done.returncode == 0, done.stderr
    jpeg = (tmp_path / "shot.jpg").read_bytes()

    shown = program("inspect", "shot.jpg")
    assert "lossless" in shown.stdout
    assert "exact" in shown.stdout
    assert program("unprocess", "shot.jpg", "-o", "back.dng").returncode == 0
    back = paramisp.read(tmp_path / "back.dng")
    assert isinstance(back, RawImage)
    np.testing.assert_array_equal(back.mosaic, raw.mosaic)
    assert back.orientation == 6

    (tmp_path / "cut.jpg").write_bytes(jpeg[:-100])
    done = program("unprocess", "cut.jpg")
    assert done.returncode == 7
    assert "cut.jpg: the file is cut short: 100 bytes" in done.stderr
    assert "--no-kept-raw" in done.stderr
    assert program("unprocess", "cut.jpg", "--no-kept-raw", "--model", "parametric").returncode == 0

    shutil.copy(tmp_path / "shot.jpg", tmp_path / "bare.jpg")
    edit(tmp_path / "bare.jpg", "-trailer:all=")
    done = program("unprocess", "bare.jpg", "--model", "parametric")
    assert done.returncode == 0
    assert "was removed by a program" in done.stderr
    edit(tmp_path / "bare.jpg", "-all=")
    assert "none inside" in program("inspect", "bare.jpg").stdout
    done = program("unprocess", "bare.jpg", "-o", "bare2.dng", "--model", "parametric")
    assert done.returncode == 0
    assert program("unprocess", "bare.jpg", "-o", "bare3.dng", "--kept-raw").returncode == 7

    assert program("render", "shot.dng", "--keep-raw", "best").returncode == 2
    assert program("render", "shot.dng", "--keep-raw", "near", "-o", "shot.png").returncode == 2
