"""Arrays of RAW samples: .npy, .npz and TIFF, in three layouts, read back bit for bit; damaged ones are refused."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tifffile

from paramisp_cli import formats, mosaic
from paramisp_cli.errors import ConfigError, FormatError, OutputExistsError
from paramisp_cli.formats import WriteOptions, array_record, dng
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Crop,
    Metadata,
    OpticalParams,
    Patch,
    RawImage,
    SrgbImage,
)

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
SUFFIXES = (".npy", ".npz", ".tif")


def raw_of(cfa="RGGB", dtype=np.uint16, *, linear=False, crop=None, height=24, width=32):
    """A RAW with every fact that a record holds; black levels differ from site to site."""
    rng = np.random.default_rng(1)
    shape = (height, width, 3) if linear else (height, width)
    samples = rng.integers(0, 65536, shape).astype(np.uint16)
    if dtype == np.float32:
        samples = rng.normal(0.4, 0.5, shape).astype(np.float32)  # below 0 and above 1, too
    canonical = CanonicalParams(cfa, [[510, 511], [512, 513]], 16383, (0.51, 1, 0.63), MATRIX)
    facts = {
        "optical": OpticalParams(400, 1 / 125, 2.8, 35),
        "camera": Camera("NIKON CORPORATION", "NIKON D90"),
        "orientation": 6,
        "crop": crop,
        "noise_profile": np.array([[1e-5, 1e-7], [2e-5, 3e-7], [3e-5, 1e-7]]),
        "baseline_exposure": 0.3,
        "metadata": Metadata(source_name="photo.jpg", source_sha256="ab" * 32),
        "model": "parametric",
        "patch": Patch(2, 9, 0, 64, 300, 400),
    }
    return RawImage.of_linear(samples, canonical, **facts) if linear else RawImage(samples, canonical, **facts)


def rewritten(path: Path, **changes):
    """Change values of the record of a .npy."""
    beside = formats.beside(path)
    record = json.loads(beside.read_text()) | changes
    beside.write_text(json.dumps({key: value for key, value in record.items() if value is not ...}))


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.uint16, np.float32])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("layout", ["mosaic", "packed", "rgb"])
def test_round_trip(tmp_path, suffix, dtype, cfa, layout):
    raw = raw_of(cfa, dtype, linear=layout == "rgb")
    path = tmp_path / f"x{suffix}"
    formats.write(raw, path, WriteOptions(layout=layout))
    back = formats.read(path)
    stored = dng.as_stored(raw)
    if layout == "rgb":
        assert back.linear.tobytes() == raw.linear.tobytes()
        assert back.canonical.cfa == "RGGB"
        np.testing.assert_array_equal(back.mosaic, mosaic.sampled(raw.linear, "RGGB"))
        colours = [mosaic.by_color(each.canonical.black_level, each.canonical.cfa) for each in (back, stored)]
        np.testing.assert_array_equal(*colours)
    else:
        assert back.mosaic.tobytes() == raw.mosaic.tobytes()
        assert back.canonical.cfa == cfa
        np.testing.assert_array_equal(back.canonical.black_level, raw.canonical.black_level)
    assert back.mosaic.dtype == dtype
    assert back.canonical.white_level == 16383
    np.testing.assert_array_equal(back.canonical.as_shot_neutral, stored.canonical.as_shot_neutral)
    np.testing.assert_allclose(back.canonical.as_shot_neutral, raw.canonical.as_shot_neutral, rtol=2e-8)
    np.testing.assert_array_equal(back.canonical.color_matrix, MATRIX)
    np.testing.assert_array_equal(back.noise_profile, raw.noise_profile)
    for name in ("optical", "camera", "orientation", "crop", "baseline_exposure", "model", "patch"):
        assert getattr(back, name) == getattr(raw, name), name
    assert back.metadata.source_name == "photo.jpg"
    assert back.metadata.source_sha256 == "ab" * 32
    assert formats.is_own(path)


def test_channels_of_a_packed_array_are_those_of_the_four_colours(tmp_path):
    """R, Gr (in the row of red), Gb, B for every CFA; black levels in the same order."""
    for cfa in CFA_PATTERNS:
        raw = raw_of(cfa)
        formats.write(raw, tmp_path / f"{cfa}.npy", WriteOptions(layout="packed"))
        array = np.load(tmp_path / f"{cfa}.npy")
        record = json.loads((tmp_path / f"{cfa}.npy.json").read_text())
        assert array.shape == (12, 16, 4)
        assert record["channels"] == ["R", "Gr", "Gb", "B"]
        red, blue = divmod(cfa.index("R"), 2), divmod(cfa.index("B"), 2)
        for channel, (row, column) in enumerate([red, (red[0], 1 - red[1]), (blue[0], 1 - blue[1]), blue]):
            np.testing.assert_array_equal(array[..., channel], raw.mosaic[row::2, column::2])
            assert record["black_level"][channel] == raw.canonical.black_level[row, column]


def test_a_record_tells_every_parameter(tmp_path):
    raw = raw_of("GBRG")
    formats.write(raw, tmp_path / "x.npy")
    text = (tmp_path / "x.npy.json").read_text()
    assert text.count("\n") == 1  # so that `cat *.json` is an index
    record = json.loads(text)
    assert record["file"] == "x.npy"
    assert record["channels"] == ["Gb", "B", "R", "Gr"]
    assert record["black_level"] == [510, 511, 512, 513]
    assert (record["white_level"], record["iso"], record["exposure_time"]) == (16383, 400, 0.008)
    assert record["camera"] == {"make": "NIKON CORPORATION", "model": "NIKON D90"}
    assert record["patch"] == {"number": 2, "count": 9, "top": 0, "left": 64, "height": 300, "width": 400}
    assert record["sha256"] == hashlib.sha256(np.load(tmp_path / "x.npy").tobytes()).hexdigest()
    assert record["source_sha256"] == "ab" * 32
    np.testing.assert_allclose(record["wb_gains"], raw.canonical.wb_gains, rtol=2e-8)


def test_levels_of_a_float_array_are_those_of_its_numbers(tmp_path):
    formats.write(raw_of(dtype=np.float32), tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as found:
        assert found["max_val"] == 1
        assert found["black_level"].tolist() == [0, 0, 0, 0]
        record = json.loads(str(found["record"]))
    assert record["camera_levels"] == {"black_level": [510, 511, 512, 513], "white_level": 16383}


def test_other_programs_read_them(tmp_path):
    for layout in ("mosaic", "packed", "rgb"):
        raw = raw_of("GRBG", linear=layout == "rgb")
        samples = array_record.samples_of(raw, layout)
        for dtype in (np.uint16, np.float32):
            image = replace(
                raw, mosaic=raw.mosaic.astype(dtype), linear=samples.astype(dtype) if layout == "rgb" else None
            )
            for suffix in SUFFIXES:
                formats.write(image, tmp_path / f"{layout}{suffix}", WriteOptions(layout=layout), overwrite=True)
            with np.load(tmp_path / f"{layout}.npz") as found:  # names of the sets of NTIRE
                arrays = [
                    found["raw"],
                    np.load(tmp_path / f"{layout}.npy"),
                    tifffile.imread(tmp_path / f"{layout}.tif"),
                ]
            arrays.append(tifffile.memmap(tmp_path / f"{layout}.tif", mode="r"))
            for array in arrays:
                assert array.dtype == dtype
                np.testing.assert_array_equal(array, samples)


def test_the_crop_is_written_and_not_the_padding(tmp_path):
    raw = raw_of("RGGB", crop=Crop(3, 5, 9, 11))
    formats.write(raw, tmp_path / "x.npy")
    back = formats.read(tmp_path / "x.npy")
    assert back.mosaic.shape == (10, 12)
    assert back.size == (9, 11)
    assert back.canonical.cfa == "BGGR"
    np.testing.assert_array_equal(back.mosaic, raw.mosaic[3:13, 5:17])
    one = RawImage(raw.mosaic, raw.canonical, crop=Crop(0, 0, 1, 1))
    formats.write(one, tmp_path / "one.npz", WriteOptions(layout="packed"))
    assert formats.read(tmp_path / "one.npz").size == (1, 1)


def test_equal_images_give_equal_bytes(tmp_path):
    for suffix in SUFFIXES:
        for name in ("a", "b"):
            formats.write(raw_of(), tmp_path / f"{name}{suffix}")
        assert (tmp_path / f"a{suffix}").read_bytes() == (tmp_path / f"b{suffix}").read_bytes()


def test_an_array_saved_again_in_another_order_is_read(tmp_path):
    """NumPy writes Fortran's order and foreign byte order, too; the samples are the same."""
    raw = raw_of()
    path = tmp_path / "x.npy"
    formats.write(raw, path)
    for array in (np.asfortranarray(raw.mosaic), raw.mosaic.astype(">u2")):
        np.save(path, array)
        np.testing.assert_array_equal(formats.read(path).mosaic, raw.mosaic)


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_layouts_that_a_raw_cannot_have(tmp_path):
    with pytest.raises(FormatError, match=r"x\.npy: this RAW has one colour a pixel"):
        formats.write(raw_of(), tmp_path / "x.npy", WriteOptions(layout="rgb"))
    with pytest.raises(FormatError, match=r"x\.npy: this RAW has three colours a pixel"):
        formats.write(raw_of(linear=True), tmp_path / "x.npy", WriteOptions(layout="packed"))
    with pytest.raises(ConfigError, match=r"x\.npy: `layout` must be one of mosaic, packed, rgb, got 'planar'"):
        formats.write(raw_of(), tmp_path / "x.npy", WriteOptions(layout="planar"))
    with pytest.raises(FormatError, match="an sRGB picture is written as"):
        formats.write(SrgbImage(np.zeros((4, 4, 3), np.uint8)), tmp_path / "x.npy")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_cut_file_is_refused(tmp_path, suffix):
    """At every length: no cut file is read, and each has one line with its name."""
    path = tmp_path / f"x{suffix}"
    formats.write(raw_of(height=4, width=6), path)
    data = path.read_bytes()
    needed = len(data) - 17 if suffix == ".tif" else len(data)  # its last value is the name of the software
    for length in [*range(0, needed, 37), needed - 1]:
        path.write_bytes(data[:length])
        with pytest.raises(FormatError) as raised:
            formats.read(path)
        assert str(raised.value).startswith(f"{path}: ")
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_changed_samples_are_noticed(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    raw = raw_of(height=4, width=6)
    formats.write(raw, path)
    data = bytearray(path.read_bytes())
    at = data.index(raw.mosaic.tobytes())
    data[at + 7] ^= 4
    path.write_bytes(data)
    with pytest.raises(FormatError, match=r"SHA-256 differs|CRC"):
        formats.read(path)


def test_a_npy_without_its_record(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((4, 6), np.uint16))
    with pytest.raises(FormatError, match=r"x\.npy: has no x\.npy\.json beside it"):
        formats.read(path)
    assert not formats.is_own(path)
    for content, reason in (
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "not one of paramisp"),
        (b"[" * 10**5, "not JSON"),
    ):
        formats.beside(path).write_bytes(content)
        with pytest.raises(FormatError, match=rf"x\.npy\.json: its record is {reason}"):
            formats.read(path)
    formats.beside(path).write_bytes(b" " * (array_record.LONGEST + 1))
    with pytest.raises(FormatError, match=r"x\.npy\.json: its record has \d+ bytes"):
        formats.read(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"layout": "packed"}, r"the layout packed is \(H, W, 4\), its record says \(4, 6\)"),
        ({"layout": "planar"}, "layout 'planar'"),
        ({"layout": ...}, "layout None"),
        ({"shape": [6, 4]}, r"the array is \(4, 6\), its record says \(6, 4\)"),
        ({"shape": "4x6"}, "shape '4x6'"),
        ({"dtype": "float32"}, "the array is of uint16, its record says float32"),
        ({"version": 2}, "has the version 2"),
        ({"format": "other"}, "not one of paramisp"),
        ({"sha256": ...}, "SHA-256 differs"),
        ({"cfa": "RGBG"}, "the CFA is 'RGBG'"),
        ({"cfa": ...}, "it has no 'cfa'"),
        ({"channels": ["R"]}, "makes no RAW"),
        ({"channels": ["R", "R", "R", "B"]}, "the channels are"),
        ({"white_level": 1}, "white_level 1.0 must be above black_level"),
        ({"white_level": "high"}, "could not convert string"),
        ({"black_level": [1, 2]}, "makes no RAW"),
        ({"black_level": None}, "makes no RAW"),
        ({"as_shot_neutral": [1, 0, 1]}, "as_shot_neutral must be positive"),
        ({"color_matrix": [[0] * 3] * 3}, "color_matrix cannot be inverted"),
        ({"color_matrix": [1e400] * 3}, "not finite"),
        ({"camera": "Nikon"}, "makes no RAW"),
        ({"camera": {"make": "Nikon"}}, "it has no 'model'"),
        ({"iso": -1}, "iso must be a positive number"),
        ({"orientation": 9}, "orientation must be 1 to 8"),
        ({"crop": {"top": 0, "left": 0, "height": 9, "width": 9}}, "lies outside"),
        ({"crop": {"top": 0.5, "left": 0, "height": 1, "width": 1}}, "not a whole number"),
        ({"patch": {"number": 1}}, "makes no RAW"),
        ({"made_by": {"software": "other 1", "operation": "unprocess"}}, "its origin is not an event of paramisp"),
        ({"made_by": "me"}, "makes no RAW"),
        ({"origin": [1]}, "makes no RAW"),
        ({"noise_profile": [1, 2, 3, 4]}, "noise_profile must have shape"),
        ({"baseline_exposure": ...}, "it has no 'baseline_exposure'"),
    ],
)  # fmt: skip
def test_a_wrong_record_is_refused(tmp_path, changes, reason):
    path = tmp_path / "x.npy"
    formats.write(raw_of(height=4, width=6), path)
    rewritten(path, **changes)
    with pytest.raises(FormatError, match=reason) as raised:
        formats.read(path)
    assert raised.value.exit_code == 7
    assert str(raised.value).startswith(str(path))


def test_wrong_arrays_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    formats.write(raw_of(height=4, width=6), path)
    for array, reason in (
        (np.zeros((4, 6), np.int32), "of int32"),
        (np.zeros((4, 6), np.float64), "of float64"),
        (np.zeros((2, 3, 4), np.uint16), r"the array is \(2, 3, 4\)"),
        (np.zeros((0, 6), np.uint16), "empty"),
        (np.zeros((4, 6), [("a", "<u2")]), "holds objects"),
        (np.array(5, np.uint16), r"the array is \(\)"),
    ):
        np.save(path, array)
        with pytest.raises(FormatError, match=reason):
            formats.read(path)
    np.save(path, np.array([[{}]]), allow_pickle=True)
    with pytest.raises(FormatError, match="holds objects"):
        formats.read(path)
    formats.write(raw_of(dtype=np.float32, height=4, width=6), path, overwrite=True)
    np.save(path, np.full((4, 6), np.nan, np.float32))
    with pytest.raises(FormatError, match="not finite"):
        formats.read(path)


def test_odd_sides_are_refused(tmp_path):
    path = tmp_path / "x.npy"
    formats.write(raw_of(height=4, width=6), path)
    odd = np.zeros((3, 6), np.uint16)
    np.save(path, odd)
    rewritten(path, shape=[3, 6], sha256=array_record.digest(odd), crop=None)
    with pytest.raises(FormatError, match="even H and W"):
        formats.read(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_too_many_pixels(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    formats.write(raw_of(), path, WriteOptions(layout="packed"))
    assert formats.read(path, max_pixels=24 * 32).size == (24, 32)
    with pytest.raises(FormatError, match="32×24"):
        formats.read(path, max_pixels=24 * 32 - 1)


def test_a_claim_of_terabytes_takes_no_memory(tmp_path):
    """The header and the record agree, and the file has a few bytes."""
    path = tmp_path / "x.npy"
    formats.write(raw_of(), path)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<u2", "fortran_order": False, "shape": (10**6, 10**6)})
    rewritten(path, shape=[10**6, 10**6])
    with pytest.raises(FormatError, match="megapixels"):
        formats.read(path)
    with pytest.raises(FormatError, match="bytes; it is damaged"):
        formats.read(path, max_pixels=10**13)


def test_other_archives_are_refused(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, raw=np.zeros((4, 6), np.uint16))
    with pytest.raises(FormatError, match=r"x\.npz: has no array 'record'"):
        formats.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.txt", "hello")
    with pytest.raises(FormatError, match="not a JPEG"):
        formats.read(path)


def test_a_compressed_archive_is_read(tmp_path):
    """As numpy.savez_compressed writes it."""
    path = tmp_path / "x.npz"
    raw = raw_of()
    formats.write(raw, path)
    with np.load(path) as found:
        np.savez_compressed(path, **found)
    np.testing.assert_array_equal(formats.read(path).mosaic, raw.mosaic)


def test_an_array_tiff_is_no_picture_and_a_picture_is_no_array(tmp_path):
    formats.write(raw_of(), tmp_path / "array.tif")
    formats.write(SrgbImage(np.zeros((8, 8, 3), np.uint8)), tmp_path / "picture.tif")
    assert isinstance(formats.read(tmp_path / "array.tif"), RawImage)
    assert isinstance(formats.read(tmp_path / "picture.tif"), SrgbImage)
    assert [formats.is_array(tmp_path / name) for name in ("array.tif", "picture.tif", "missing.tif")] == [
        True,
        False,
        False,
    ]
    tifffile.imwrite(tmp_path / "array.tif", raw_of().mosaic)  # saved again by another program: not ours any more
    assert isinstance(formats.read(tmp_path / "array.tif"), SrgbImage)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_damage_anywhere(tmp_path, suffix):
    """Bytes changed, cut out or put in: a FormatError with the file's name, or the image as it was."""
    rng = np.random.default_rng(7)
    path = tmp_path / f"x{suffix}"
    raw = dng.as_stored(raw_of(height=4, width=6))
    formats.write(raw, path)
    files = [path] if suffix != ".npy" else [path, formats.beside(path)]
    sound = [file.read_bytes() for file in files]
    first = 24 if suffix == ".tif" else 0  # without the mark at its beginning a TIFF is a picture
    refused = 0
    for number in range(300):
        chosen = number % len(files)
        data = bytearray(sound[chosen])
        for _ in range(rng.integers(1, 4)):
            at, length = int(rng.integers(first, len(data))), int(rng.integers(1, 9))
            change = rng.integers(3)
            data[at : at + (0 if change == 1 else length)] = b"" if change == 2 else rng.bytes(length)
        files[chosen].write_bytes(data)
        message = ""
        try:
            back = formats.read(path)
        except FormatError as error:
            message = str(error)
        if message:
            refused += 1
            assert message.startswith(str(path))
            assert "\n" not in message
        else:
            np.testing.assert_array_equal(back.mosaic, raw.mosaic)
        files[chosen].write_bytes(sound[chosen])
    assert refused > 200


# --- writing ----------------------------------------------------------------------------------------------------------


def test_a_foreign_file_in_the_place_of_the_record_stays(tmp_path):
    (tmp_path / "x.npy.json").write_text("mine")
    with pytest.raises(OutputExistsError, match=r"x\.npy\.json: exists already"):
        formats.write(raw_of(), tmp_path / "x.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy.json"]
    assert (tmp_path / "x.npy.json").read_text() == "mine"


def test_a_record_without_its_array_is_replaced(tmp_path):
    """An interrupt between the two leaves it."""
    formats.write(raw_of(), tmp_path / "x.npy")
    (tmp_path / "x.npy").unlink()
    formats.write(raw_of("BGGR"), tmp_path / "x.npy")
    assert formats.read(tmp_path / "x.npy").canonical.cfa == "BGGR"


def test_verification_compares_samples_and_parameters(tmp_path):
    raw = dng.as_stored(raw_of())
    for suffix in SUFFIXES:
        form = next(form for form in formats.FORMATS if RawImage in form.holds and suffix in form.suffixes)
        path = tmp_path / f"x{suffix}"
        form.write(raw, path, WriteOptions())
        form.verify(raw, path, WriteOptions())
        with pytest.raises(FormatError, match=r"other samples|SHA-256 differs"):
            form.verify(replace(raw, mosaic=raw.mosaic ^ 1), path, WriteOptions())
        if suffix != ".npy":  # its record is not in the file
            with pytest.raises(FormatError, match="other orientation, patch"):
                form.verify(replace(raw, orientation=1, patch=None), path, WriteOptions())
