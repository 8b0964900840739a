"""Arrays of RAW samples as OpenEXR: floats read back bit for bit, and damaged files refused."""

import importlib.util
import json

import numpy as np
import pytest
from test_arrays import raw_of

from paramisp_cli import formats, mosaic
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import WriteOptions, dng
from paramisp_cli.types import CFA_PATTERNS, Crop, LinearImage, RawImage

OpenEXR = pytest.importorskip("OpenEXR", reason="the extra exr")


def floats(cfa="RGGB", **more):
    return raw_of(cfa, np.float32, **more)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("layout", ["mosaic", "packed", "rgb"])
def test_round_trip(tmp_path, cfa, layout):
    raw = floats(cfa, linear=layout == "rgb")
    path = tmp_path / "x.exr"
    formats.write(raw, path, WriteOptions(layout=layout))
    back, stored = formats.read(path), dng.as_stored(raw)
    one, two = (raw.linear, back.linear) if layout == "rgb" else (raw.mosaic, back.mosaic)
    assert two.dtype == np.float32
    assert two.tobytes() == one.tobytes()
    for name in ("as_shot_neutral", "color_matrix", "white_level"):
        np.testing.assert_array_equal(getattr(back.canonical, name), getattr(stored.canonical, name))
    if layout != "rgb":
        assert back.canonical.cfa == cfa
        np.testing.assert_array_equal(back.canonical.black_level, raw.canonical.black_level)
    for name in ("optical", "camera", "orientation", "crop", "baseline_exposure", "model", "patch"):
        assert getattr(back, name) == getattr(raw, name), name
    assert formats.is_own(path)
    assert formats.is_array(path)
    assert formats.is_patch_of(path, "photo.jpg")
    assert formats.record_of(raw, WriteOptions(layout=layout)) == json.loads(
        OpenEXR.File(str(path)).header()["ParamispArray"]
    )


def test_other_programs_find_channels_and_levels(tmp_path):
    raw = floats("GBRG")
    formats.write(raw, tmp_path / "packed.exr", WriteOptions(layout="packed"))
    formats.write(raw, tmp_path / "mosaic.exr")
    with OpenEXR.File(str(tmp_path / "packed.exr"), separate_channels=True) as file:
        header, channels = dict(file.header()), {name: each.pixels for name, each in file.channels().items()}
    assert sorted(channels) == ["B", "G1", "G2", "R"]
    packed = mosaic.packed(raw.mosaic, "GBRG")
    for number, name in enumerate(("R", "G1", "G2", "B")):
        np.testing.assert_array_equal(channels[name], packed[..., number])
    np.testing.assert_array_equal(channels["R"], raw.mosaic[1::2, 0::2])
    assert header["blackLevel"] == [0, 0, 0, 0]
    assert header["whiteLevel"] == 1
    assert header["cfa"] == "GBRG"
    assert header["asShotNeutral"] == pytest.approx([0.51, 1, 0.63])
    assert (header["isoSpeed"], header["aperture"]) == (400, pytest.approx(2.8))
    with OpenEXR.File(str(tmp_path / "mosaic.exr"), separate_channels=True) as file:
        np.testing.assert_array_equal(file.channels()["Y"].pixels, raw.mosaic)


@pytest.mark.parametrize("layout", ["mosaic", "packed"])
def test_floats_of_sixteen_bits(tmp_path, layout):
    raw = floats(crop=Crop(2, 4, 10, 12))
    path = tmp_path / "x.exr"
    options = WriteOptions(layout=layout, half=True)
    formats.write(raw, path, options)
    back = formats.read(path)
    assert back.mosaic.dtype == np.float32
    np.testing.assert_array_equal(back.mosaic, raw.mosaic[2:12, 4:16].astype(np.float16).astype(np.float32))
    assert formats.record_of(raw, options)["dtype"] == "float16"
    assert path.stat().st_size < 24 * 32 * 4
    huge = RawImage(raw.mosaic * np.float32(1e6), raw.canonical)
    with pytest.raises(FormatError, match="reach beyond 65504"):
        formats.write(huge, tmp_path / "y.exr", options)
    with pytest.raises(FormatError, match=r"y\.npy: `half` is for OpenEXR"):
        formats.write(raw, tmp_path / "y.npy", options)
    assert [each.name for each in tmp_path.iterdir()] == ["x.exr"]


def test_equal_images_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        formats.write(floats(), tmp_path / f"{name}.exr")
    assert (tmp_path / "a.exr").read_bytes() == (tmp_path / "b.exr").read_bytes()


def test_whole_numbers_are_refused(tmp_path):
    with pytest.raises(FormatError, match=r"x\.exr: OpenEXR holds floats, .* `bit_depth` 32"):
        formats.write(raw_of(), tmp_path / "x.exr")


def test_a_picture_is_no_array(tmp_path):
    formats.write(LinearImage(np.zeros((4, 6, 3), np.float32)), tmp_path / "x.exr")
    assert not formats.is_array(tmp_path / "x.exr")
    with pytest.raises(FormatError, match="is OpenEXR, which paramisp cannot read"):
        formats.read(tmp_path / "x.exr")


def test_too_many_pixels(tmp_path):
    formats.write(floats(), tmp_path / "x.exr", WriteOptions(layout="packed"))
    assert formats.read(tmp_path / "x.exr", max_pixels=24 * 32).size == (24, 32)
    with pytest.raises(FormatError, match="32×24"):
        formats.read(tmp_path / "x.exr", max_pixels=24 * 32 - 1)


def rewritten(path, planes=None, **changes):
    """Write the file again with another record or other channels, as a program that knows OpenEXR could."""
    with OpenEXR.File(str(path), separate_channels=True) as file:
        header, channels = dict(file.header()), {name: each.pixels.copy() for name, each in file.channels().items()}
    record = json.loads(header["ParamispArray"]) | changes
    plain = {name: header[name] for name in ("compression", "type", "blackLevel")}
    with OpenEXR.File(plain | {"ParamispArray": json.dumps(record)}, planes or channels) as file:
        file.write(str(path))


@pytest.mark.parametrize(
    ("planes", "changes", "reason"),
    [
        (None, {"shape": [10**6, 10**6]}, "its channels are not those of its record"),
        (None, {"shape": [24, 32, 4], "layout": "packed"}, "its channels are not those of its record"),
        (None, {"dtype": "uint16"}, "its record says uint16; paramisp reads float32 and float16"),
        (None, {"dtype": "float16"}, "its samples are not those of its record"),
        (None, {"sha256": "00" * 32}, "SHA-256 differs"),
        (None, {"format": "other"}, "not one of paramisp"),
        ({"Z": np.zeros((24, 32), np.float32)}, {}, "its channels are not those of its record"),
        ({"Y": np.zeros((2, 2), np.float32)}, {}, "its channels are not those of its record"),
        ({"Y": np.zeros((24, 32), np.uint32)}, {}, "its samples are not those of its record"),
        ({"Y": np.zeros((24, 32), np.float32)}, {}, "SHA-256 differs"),
        ({"Y": np.full((24, 32), np.nan, np.float32)}, {}, "not finite"),
    ],
)
def test_a_file_that_lies_is_refused(tmp_path, planes, changes, reason):
    path = tmp_path / "x.exr"
    formats.write(floats(), path)
    rewritten(path, planes, **changes)
    with pytest.raises(FormatError) as error:
        formats.read(path)
    assert reason in str(error.value)
    assert str(error.value).startswith(f"{path}: ")


def test_damage_anywhere(tmp_path, capfd):
    """Bytes changed, cut out or put in, and cut ends: a FormatError with the file's name, or the image as it was."""
    rng = np.random.default_rng(7)
    path = tmp_path / "x.exr"
    raw = floats(height=4, width=6)
    formats.write(raw, path)
    sound = path.read_bytes()
    cases = [sound[:cut] for cut in (*range(32, len(sound), 61), len(sound) - 1)]
    for _ in range(300):
        data = bytearray(sound)
        at, length, change = int(rng.integers(24, len(data))), int(rng.integers(1, 9)), rng.integers(3)
        data[at : at + (0 if change == 1 else length)] = b"" if change == 2 else rng.bytes(length)
        cases.append(bytes(data))
    refused = 0
    for case in cases:
        path.write_bytes(case)
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
    assert refused > 200
    assert capfd.readouterr() == ("", "")


def test_without_the_package(tmp_path, monkeypatch):
    formats.write(floats(), tmp_path / "x.exr")
    there = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "OpenEXR" else there(name))
    with pytest.raises(ConfigError, match=r"pip install 'paramisp\[exr\]'`, or choose another format"):
        formats.write(floats(), tmp_path / "y.exr")
    with pytest.raises(
        FormatError, match=r"x\.exr: OpenEXR needs the package openexr: `pip install 'paramisp\[exr\]'`"
    ):
        formats.read(tmp_path / "x.exr")


@pytest.mark.slow
@pytest.mark.parametrize("bits", [None, "16"])
def test_the_command_line(paramisp, make_jpeg, tmp_path, bits):
    """The EXR renders as the float .npy of the same photo, bit for bit, and folders tell arrays from pictures."""
    make_jpeg(tmp_path / "photo.jpg")
    known = ("--model", "parametric", "--camera", "Nikon D90", "--layout", "packed")
    more = ("--bits", bits) if bits else ()
    code, out, err = paramisp("unprocess", tmp_path / "photo.jpg", "--format", "exr", "--json", *known, *more)
    assert code == 0, err
    facts = json.loads(out[0])
    assert facts["files"][0]["dtype"] == ("float16" if bits else "float32")
    paramisp("unprocess", tmp_path / "photo.jpg", "--format", "npy", "--bits", "32", *known)
    for name in ("exr", "npy"):
        assert paramisp("render", tmp_path / f"photo.{name}", "-o", tmp_path / f"{name}.png")[0] == 0
    one, two = (formats.read(tmp_path / f"{name}.png").pixels.astype(int) for name in ("exr", "npy"))
    assert np.abs(one - two).max() <= (1 if bits else 0)
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "photo.exr").rename(folder / "photo.exr")
    formats.write(LinearImage(np.zeros((4, 6, 3), np.float32)), folder / "light.exr")
    code, out, err = paramisp("render", folder, "--format", "png")
    assert code == 0, err
    assert sorted(each.name for each in folder.iterdir()) == ["light.exr", "photo.exr", "photo.png"]
    assert any("1 OpenEXR (cannot be read)" in line for line in err)
