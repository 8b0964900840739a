"""RAW files as LibRaw gives them: phase, levels, crop, orientation, a DNG's own colour; our own files and real ones."""

from __future__ import annotations

import io
import struct
import threading
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from paramisp_cli.errors import FormatError, MetadataError
from paramisp_cli.formats import WriteOptions, dng, libraw, raster
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, Crop, OpticalParams, RawImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
NEUTRAL = np.array([0.45, 1, 0.7])


def make(cfa="RGGB", black=512, height=48, width=64, **more) -> RawImage:
    mosaic = np.random.default_rng(1).integers(600, 16000, (height, width)).astype(np.uint16)
    defaults = {"camera": Camera("Maker", "M1"), "optical": OpticalParams(400, 1 / 125, 2.8, 50)}
    return RawImage(mosaic, CanonicalParams(cfa, black, 16383, NEUTRAL, MATRIX), **{**defaults, **more})


def back(raw: RawImage, folder: Path, options: WriteOptions = WriteOptions()) -> RawImage:
    dng.write(raw, folder / "a.dng", options)
    return libraw.read(folder / "a.dng")


# Files of our own ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("compression", ["lossless", "none"])
def test_everything_comes_back(cfa, compression, tmp_path):
    raw = make(cfa, baseline_exposure=0.7, noise_profile=np.array([[1e-4, 1e-6], [2e-4, 2e-6], [3e-4, 3e-6]]))
    read = back(raw, tmp_path, WriteOptions(compression=compression))
    np.testing.assert_array_equal(read.mosaic, raw.mosaic)
    assert read.mosaic.dtype == np.uint16
    assert read.canonical.cfa == cfa
    assert read.canonical.white_level == 16383
    np.testing.assert_array_equal(read.canonical.black_level, raw.canonical.black_level)
    np.testing.assert_allclose(read.canonical.as_shot_neutral, NEUTRAL, atol=1e-6)
    np.testing.assert_allclose(read.canonical.color_matrix, MATRIX, atol=5e-5)
    np.testing.assert_allclose(read.noise_profile, raw.noise_profile)
    assert read.baseline_exposure == pytest.approx(0.7)
    assert read.optical.iso == 400
    assert read.optical.exposure_time == pytest.approx(1 / 125)
    assert (read.optical.f_number, read.optical.focal_length) == pytest.approx((2.8, 50))
    assert read.camera == raw.camera
    assert read.crop == Crop(0, 0, 48, 64)
    assert read.notes == ()
    assert read.metadata.source_name == "a.dng"
    assert read.origin == {
        "cfa": "the RAW file",
        "black_level": "the RAW file",
        "white_level": "the RAW file",
        "color_matrix": "the DNG's ColorMatrix1",
        "wb": "the DNG's AsShotNeutral",
    }


@pytest.mark.parametrize("compression", ["lossless", "none"])
def test_damage_that_libraw_does_not_notice(compression, tmp_path):
    raw = make(height=512, width=768)
    assert back(raw, tmp_path, WriteOptions(compression=compression)).notes == ()
    content = bytearray((tmp_path / "a.dng").read_bytes())
    content[-5000] ^= 0x10
    (tmp_path / "b.dng").write_bytes(content)
    with suppress(FormatError):  # or it did notice
        assert any("damaged" in note for note in libraw.read(tmp_path / "b.dng").notes)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_black_levels_by_site(cfa, tmp_path):
    """LibRaw keeps black by colour, the two greens apart; each must come back to its own site, whatever the CFA."""
    black = np.array([[500, 510], [520, 530]])
    np.testing.assert_array_equal(back(make(cfa, black), tmp_path).canonical.black_level, black)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientations(orientation, tmp_path):
    """LibRaw turns by its own numbers, which are not EXIF's; mirrored ones too."""
    assert back(make(orientation=orientation), tmp_path).orientation == orientation


@pytest.mark.parametrize("crop", [Crop(0, 0, 47, 63), Crop(1, 1, 46, 62), Crop(3, 2, 41, 55), Crop(4, 8, 40, 50)])
def test_crop(crop, tmp_path):
    read = back(make("GRBG", [[1, 2], [3, 4]], crop=crop), tmp_path)
    assert read.crop == crop
    assert read.size == (crop.height, crop.width)
    np.testing.assert_array_equal(read.mosaic, make().mosaic)


def dng_by_tifffile(path: Path, mosaic: np.ndarray, *extra: tuple, pattern: bytes = b"\0\1\1\2") -> Path:
    """A DNG not by our own writer: single IFD, uncompressed, with further tags."""
    tags = {
        50706: (50706, 1, 4, bytes((1, 4, 0, 0)), True),
        50708: (50708, 2, 7, b"Test 1", True),
        50717: (50717, 4, 1, 16383, True),
        33421: (33421, 3, 2, (2, 2), True),
        33422: (33422, 1, 4, pattern, True),
        50721: (50721, 10, 9, rationals(MATRIX), True),
        50728: (50728, 5, 3, rationals(NEUTRAL), True),
        50778: (50778, 3, 1, 21, True),
    } | {tag[0]: tag for tag in extra}
    tifffile.imwrite(path, mosaic, photometric="cfa", extratags=list(tags.values()), metadata=None)
    return path


def rationals(values: np.ndarray) -> tuple[int, ...]:
    return tuple(int(n) for value in np.ravel(values) for n in (round(value * 10000), 10000))


@pytest.mark.parametrize("top", range(3))
@pytest.mark.parametrize("left", range(3))
def test_active_area_moves_the_phase(top, left, tmp_path):
    """The CFA of a DNG begins at its active area, black levels and crop with it; LibRaw rounds odd origins up."""
    mosaic = make(height=40, width=50).mosaic
    area = (50829, 4, 4, (top, left, 38, 48), True)
    black = ((50713, 3, 2, (2, 2), True), (50714, 3, 4, (10, 20, 30, 40), True))
    crop = ((50719, 4, 2, (5, 3), True), (50720, 4, 2, (30, 20), True))
    read = libraw.read(dng_by_tifffile(tmp_path / "a.dng", mosaic, area, *black, *crop))
    down, right = top % 2, left % 2
    np.testing.assert_array_equal(read.mosaic, mosaic[top + down : 38, left + right : 48])
    expected = CanonicalParams("RGGB", [[10, 20], [30, 40]], 16383, NEUTRAL, MATRIX).shifted(down, right)
    assert read.canonical.cfa == expected.cfa
    np.testing.assert_array_equal(read.canonical.black_level, expected.black_level)
    assert read.crop == Crop(3 - down, 5 - right, 20, 30)


def test_odd_sizes_lose_their_last_row_and_column(tmp_path):
    mosaic = np.random.default_rng(0).integers(0, 16000, (41, 51)).astype(np.uint16)
    read = libraw.read(dng_by_tifffile(tmp_path / "a.dng", mosaic))
    np.testing.assert_array_equal(read.mosaic, mosaic[:40, :50])


def test_matrix_of_the_illuminant_nearest_to_daylight(tmp_path):
    """Of A and D65, D65, whichever comes first; calibrated and balanced as the DNG specification multiplies them."""
    mosaic = make().mosaic
    other = (50722, 10, 9, rationals(MATRIX * 0.9), True)
    for first, second, index in ((17, 21, 2), (21, 17, 1)):
        lights = ((50778, 3, 1, first, True), (50779, 3, 1, second, True))
        read = libraw.read(dng_by_tifffile(tmp_path / "a.dng", mosaic, other, *lights))
        np.testing.assert_allclose(read.canonical.color_matrix, MATRIX * (0.9 if index == 2 else 1), atol=1e-4)
        assert read.origin["color_matrix"] == f"the DNG's ColorMatrix{index}"
    calibration = np.array([[1.1, 0, 0], [0, 1, 0.1], [0, 0, 0.9]])
    balance = np.array([1, 2, 0.5])
    more = ((50723, 10, 9, rationals(calibration), True), (50727, 5, 3, rationals(balance), True))
    read = libraw.read(dng_by_tifffile(tmp_path / "a.dng", mosaic, *more))
    np.testing.assert_allclose(read.canonical.color_matrix, np.diag(balance) @ calibration @ MATRIX, atol=2e-4)


def test_neutral_from_white_xy(tmp_path):
    path = dng_by_tifffile(tmp_path / "a.dng", make().mosaic, (50728, 5, 3, (0, 1, 0, 1, 0, 1), True))
    assert (libraw.read(path).canonical.as_shot_neutral > 0).all()  # absurd: LibRaw's daylight instead
    assert "AsShotNeutral" not in libraw.read(path).origin["wb"]
    x, y = 0.3457, 0.3585  # D50
    path = dng_by_tifffile(tmp_path / "b.dng", make().mosaic, (50729, 5, 2, rationals(np.array([x, y])), True))
    data = path.read_bytes()
    at = data.index(struct.pack("<HHI", 50728, 5, 3))  # AsShotNeutral under another number: a DNG has one of the two
    path.write_bytes(data[:at] + struct.pack("<H", 50709) + data[at + 2 :])
    expected = MATRIX @ np.array([x / y, 1, (1 - x - y) / y])
    np.testing.assert_allclose(libraw.read(path).canonical.as_shot_neutral, expected, atol=2e-4)


def test_an_absurd_exposure_is_held(tmp_path):
    path = dng_by_tifffile(tmp_path / "a.dng", make().mosaic, (50730, 10, 1, (1000, 1), True))
    assert libraw.read(path).baseline_exposure == 10


def test_an_absurd_crop_is_ignored(tmp_path):
    extra = ((50719, 4, 2, (40, 40), True), (50720, 4, 2, (4000, 3000), True))
    read = libraw.read(dng_by_tifffile(tmp_path / "a.dng", make().mosaic, *extra))
    assert read.crop == Crop(0, 0, *read.mosaic.shape)


def test_the_jpeg_inside(make_jpeg, tmp_path):
    jpeg = make_jpeg(tmp_path / "a.jpg").read_bytes()
    raw = make()
    raw = replace(raw, metadata=replace(raw.metadata, jpeg=jpeg))
    found = back(raw, tmp_path).metadata.jpeg
    assert found[:2] + found[found.index(b"\xff\xe0") :] == jpeg  # LibRaw puts a small EXIF before JFIF
    assert back(raw, tmp_path, WriteOptions(embed_jpeg=False)).metadata.jpeg is None


def test_truncated_and_odd_data(tmp_path, capfd):
    """An error or a note, always, and nothing on stderr from LibRaw itself."""
    for compression in ("lossless", "none"):
        dng.write(make(), tmp_path / "a.dng", WriteOptions(compression=compression))
        whole = (tmp_path / "a.dng").read_bytes()
        for length in (400, 1200, len(whole) // 2, len(whole) - 1000, len(whole) - 200, len(whole) - 3):
            (tmp_path / "b.dng").write_bytes(whole[:length])
            with pytest.raises(FormatError, match=r"b\.dng: .*damaged"):
                libraw.read(tmp_path / "b.dng")
    rng = np.random.default_rng(0)
    dng.write(make(), tmp_path / "a.dng", WriteOptions())
    whole = (tmp_path / "a.dng").read_bytes()
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(0, len(whole), 8):
            damaged[at] = rng.integers(0, 256)
        (tmp_path / "b.dng").write_bytes(damaged)
        with suppress(MetadataError, FormatError):
            libraw.read(tmp_path / "b.dng")
    assert capfd.readouterr() == ("", "")


def test_reading_in_threads(tmp_path, capfd):
    """What LibRaw says of a damaged file is not said of a good one read at the same time."""
    dng.write(make(), tmp_path / "good.dng", WriteOptions())
    (tmp_path / "bad.dng").write_bytes((tmp_path / "good.dng").read_bytes()[:-1000])
    results: list[object] = []

    def good():
        results.append(libraw.read(tmp_path / "good.dng").notes)

    def bad():
        with pytest.raises(FormatError, match="damaged"):
            libraw.read(tmp_path / "bad.dng")
        results.append(())

    threads = [threading.Thread(target=work) for work in (good, bad) * 10]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [()] * 20
    assert capfd.readouterr().err == ""


def test_plain_tiffs_are_no_raws(tmp_path, make_tiff):
    for name in ("a.tif", "a.nef", "a.dng"):
        path = make_tiff(tmp_path / name)
        assert not libraw.is_raw(path, path.read_bytes()[:64])
    path = dng_by_tifffile(tmp_path / "raw.tif", make().mosaic)
    assert libraw.is_raw(path, path.read_bytes()[:64])


# Real files ----------------------------------------------------------------------------------------------------------


def upright_size(raw: RawImage) -> tuple[int, int]:
    return raw.size if raw.orientation < 5 else raw.size[::-1]


@pytest.mark.slow
def test_gopro(shared):
    """Mirrored in the file (Orientation 2), upright in the camera's JPEG; DATA.md tells how the two are aligned."""
    for name in ("GOPR8508", "GOPR8513"):
        raw = libraw.read(shared / "gopro_hero7_black" / f"{name}.DNG")
        jpeg = raster.read(shared / "gopro_hero7_black" / f"{name}.JPG")
        assert raw.orientation == 2
        assert jpeg.orientation == 1
        assert upright_size(raw) == jpeg.size == (3000, 4000)
        green = raster.apply_orientation(
            raw.cropped().mosaic[: 2992 // 8 * 8, :3992].reshape(374, 8, 499, 8).mean((1, 3)), 2
        )
        seen = jpeg.pixels[: 374 * 8, : 499 * 8, 1].reshape(374, 8, 499, 8).mean((1, 3))
        score = np.corrcoef(np.log(green - green.min() + 50).ravel(), seen.ravel())[0, 1]
        flipped = np.corrcoef(np.log(green - green.min() + 50)[:, ::-1].ravel(), seen.ravel())[0, 1]
        assert score > 0.85 > flipped + 0.2


@pytest.mark.slow
def test_real_raws(real_raws):
    """Every one we have: read whole, with levels that bracket its data, upright like its own preview."""
    if not real_raws:
        pytest.skip("no real RAW files")
    for name, path in real_raws.items():
        raw = libraw.read(path)
        assert raw.notes == () or all("damaged" not in note for note in raw.notes), name
        assert raw.camera is not None, name
        assert raw.canonical.cfa in CFA_PATTERNS, name
        low = np.percentile(raw.mosaic[::8, ::8], 0.5)
        assert raw.canonical.black_level.max() <= low + 64, (name, low)
        assert np.percentile(raw.mosaic, 99.99) <= raw.canonical.white_level * 1.1, name
        gains = raw.canonical.wb_gains
        assert 0.8 < gains[0] < 4, name
        assert 0.8 < gains[2] < 4, name
        if raw.metadata.jpeg is None:
            continue
        small = raster.decode_small(raw.metadata.jpeg, 256)
        with Image.open(io.BytesIO(raw.metadata.jpeg)) as shown:
            turn = shown.getexif().get(0x0112, raw.orientation)
        small = raster.apply_orientation(small, turn)
        height, width = upright_size(raw)
        # most previews have the picture's shape; those of compact cameras are 4:3 all the same
        assert small.shape[1] / small.shape[0] == pytest.approx(width / height, rel=0.02), name
