"""The RAW files of `like`: one, several or a folder; the file that stands for a shot; files that cannot be used."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import piexif
import pytest
from typer.testing import CliRunner

import paramisp_cli as paramisp
from paramisp_cli import convert, formats, parameters, sources, weights
from paramisp_cli.cli.app import app
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import raster
from paramisp_cli.types import Camera, CanonicalParams, Metadata, OpticalParams, RawImage, SrgbImage

MATRIX = np.array([[0.6722, -0.0635, -0.0963], [-0.4287, 1.2460, 0.2028], [-0.0908, 0.2162, 0.5668]])
CAMERA = Camera("Like", "L1")
PARAMETRIC = paramisp.Settings(model="parametric")


def _exif(tags: dict) -> bytes:
    """Return an EXIF block, TIFF structure."""
    return piexif.dump(tags).removeprefix(b"Exif\0\0")


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])
    sources._references.cache_clear()


def store(
    path: Path, red: float, *, taken: str = "", ours: bool = False, camera: Camera = CAMERA, **optical: float
) -> Path:
    """Write a DNG as by a camera (or by paramisp) with this red gain, time and exposure."""
    canonical = CanonicalParams("GBRG", np.full((2, 2), 100), 4000, np.array([1 / red, 1, 0.8]), MATRIX)
    block = _exif({"Exif": {0x9003: taken.encode()}}) if taken else None
    raw = RawImage(
        np.full((24, 24), 700, np.uint16), canonical, OpticalParams(**optical), camera, metadata=Metadata(exif=block)
    )
    formats.write(raw, path)
    if not ours:
        path.write_bytes(path.read_bytes().replace(b"paramisp", b"firmware", 1))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three RAW files; beside them a hidden one, one by paramisp, a subfolder and other files."""
    raws = tmp_path / "raws"
    (raws / "below").mkdir(parents=True)
    store(raws / "b.dng", 2.0, taken="2020:05:01 10:00:00", iso=100, exposure_time=1 / 1000, f_number=8)
    store(raws / "a.DNG", 1.5, taken="2020:05:01 12:00:00", iso=100, exposure_time=1 / 100, f_number=4)
    store(raws / "c.dng", 1.2, iso=800, exposure_time=1 / 15, f_number=2)
    store(raws / ".hidden.dng", 9.0)
    store(raws / "ours.dng", 9.0, ours=True)
    store(raws / "below" / "d.dng", 9.0)
    (raws / "notes.txt").write_text("no RAW")
    return raws


def picture(name: str = "x.jpg", taken: str = "", **optical: float) -> SrgbImage:
    block = _exif({"Exif": {0x9003: taken.encode()}}) if taken else None
    pixels = np.full((8, 8, 3), 90, np.uint8)
    return SrgbImage(pixels, None, OpticalParams(**optical), metadata=Metadata(exif=block, source_name=name))


def test_settings_take_one_path_or_several(folder: Path) -> None:
    a, b = folder / "a.DNG", folder / "b.dng"
    assert paramisp.Settings(like=str(a)).like == a
    assert paramisp.Settings(like=a).like_paths == (a,)
    assert paramisp.Settings(like=[str(a), b]).like_paths == (a, b)
    assert paramisp.Settings(like=[]).like is None
    assert paramisp.Settings().like_paths == ()
    assert hash(paramisp.Settings(like=[a, b])) == hash(paramisp.Settings(like=(a, b)))
    for wrong in (3, [3], b"a.dng"):
        with pytest.raises(ConfigError, match="`like` must be a path") as caught:
            paramisp.Settings(like=wrong)  # type: ignore[arg-type]
        assert caught.value.field == "like"


def test_a_folder_stands_for_its_raw_files(folder: Path) -> None:
    files = sources.like_files(paramisp.Settings(like=[folder / "c.dng", folder]))
    assert [path.name for path in files] == ["c.dng", "a.DNG", "b.dng"]


@pytest.mark.parametrize(
    ("image", "name", "how"),
    [
        (picture("C.JPG", taken="2020:05:01 10:00:01"), "c.dng", "same name"),
        (picture(taken="2020:05:01 10:30:00", iso=100, exposure_time=1, f_number=4), "b.dng", "nearest in time of 3"),
        (picture(taken="2020:05:01 11:30:00"), "a.DNG", "nearest in time of 3"),
        (
            picture(taken="2021:05:01 11:30:00", iso=800, exposure_time=1 / 30, f_number=2),
            "c.dng", "nearest in brightness of 3",
        ),
        (picture(iso=200, exposure_time=1 / 1000, f_number=11), "b.dng", "nearest in brightness of 3"),
        (picture(taken="garbage"), "a.DNG", "median white balance of 3"),
    ],
)  # fmt: skip
def test_the_nearest_file_stands_for_a_shot(folder: Path, image: SrgbImage, name: str, how: str) -> None:
    plan = parameters.complete(image, replace(PARAMETRIC, like=folder))
    red = {"b.dng": 2.0, "a.DNG": 1.5, "c.dng": 1.2}[name]
    np.testing.assert_allclose(plan.canonical.wb_gains, [red, 1, 1.25], rtol=1e-5)
    for key in ("wb", "cfa", "black_level", "white_level", "color_matrix"):
        assert plan.origin[key] == f"--like {name} ({how})"
    assert plan.camera == CAMERA


def test_files_of_two_cameras(folder: Path) -> None:
    store(folder / "z.dng", 2.0, camera=Camera("Nikon", "NIKON D90"))
    settings = replace(PARAMETRIC, like=folder)
    for ask in (lambda: parameters.complete(picture(), settings), lambda: convert.check(settings, Direction.UNPROCESS)):
        with pytest.raises(ConfigError, match=r"`like`: a.DNG is by Like L1, z.dng by NIKON D90; give RAW"):
            ask()


def test_files_that_cannot_be_read(folder: Path, tmp_path: Path) -> None:
    """One of several is left out, with a notice; a single one, or all, are an error."""
    (folder / "b.dng").write_bytes((folder / "b.dng").read_bytes()[:300])
    plan = parameters.complete(picture(), replace(PARAMETRIC, like=folder))
    assert len(plan.notices) == 1
    assert "b.dng: " in plan.notices[0]
    assert plan.notices[0].endswith(": left out")
    with pytest.raises(FormatError, match=r"b.dng"):
        parameters.complete(picture(), replace(PARAMETRIC, like=folder / "b.dng"))
    (folder / "e.dng").write_bytes((folder / "b.dng").read_bytes())
    with pytest.raises(FormatError, match=r"e.dng"):
        parameters.complete(picture(), replace(PARAMETRIC, like=[folder / "b.dng", folder / "e.dng"]))


def test_bad_input_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(raster.encode_jpeg(np.full((16, 16, 3), 90, np.uint8), 90, False))
    empty = tmp_path / "empty"
    empty.mkdir()
    store(folder / "z.dng", 2.0, camera=Camera("Nikon", "NIKON D90"))

    def refused(*words: Path | str) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["unprocess", str(photo), *map(str, words)])
        assert not photo.with_suffix(".dng").exists()
        lines = done.stderr.strip().splitlines()
        assert len(lines) == 1, lines
        return done.exit_code, lines[0]

    code, line = refused("--like", empty)
    assert code == 5
    assert "--like" in line
    assert "no RAW file by a camera in this folder; name another" in line
    code, line = refused("--like", folder / "a.DNG", "--like", tmp_path / "gone.dng")
    assert code == 5
    assert line.endswith("gone.dng: no such file")
    code, line = refused("--like", folder)
    assert code == 2
    assert "--like: a.DNG is by Like L1, z.dng by NIKON D90; give RAW files of one camera" in line
    code, line = refused("--like", folder / "a.DNG", "--like", photo)
    assert code == 2
    assert "is a picture; it must be a RAW file" in line


def test_no_output_over_a_file_of_like(folder: Path, tmp_path: Path) -> None:
    photo = tmp_path / "b.jpg"
    photo.write_bytes(raster.encode_jpeg(np.full((16, 16, 3), 90, np.uint8), 90, False))
    words = ["unprocess", str(photo), "-o", str(folder), "--like", str(folder), "--on-exists", "overwrite"]
    done = CliRunner().invoke(app, [*words, "--overwrite-foreign", "--model", "parametric"])
    assert done.exit_code == 6
    assert "b.dng: is read by this command (--like)" in done.stderr


def test_outputs_in_the_folder_of_like_change_nothing(folder: Path, tmp_path: Path) -> None:
    """The DNG files that a batch writes into the folder of `like` are not taken for the camera's."""
    for name in ("p.jpg", "q.jpg"):
        (tmp_path / name).write_bytes(raster.encode_jpeg(np.full((24, 24, 3), 90, np.uint8), 90, False))
    words = ["unprocess", str(tmp_path / "p.jpg"), str(tmp_path / "q.jpg"), "-o", str(folder), "--model", "parametric"]
    done = CliRunner().invoke(app, [*words, "--like", str(folder)])
    assert done.exit_code == 0, done.output
    assert [path.name for path in sources.like_files(paramisp.Settings(like=folder))] == ["a.DNG", "b.dng", "c.dng"]
