"""The camera's JPEG beside a RAW file, one named by the user, and looks that the files of a batch lend each other."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_camera_look import photographed, scene
from typer.testing import CliRunner

import paramisp_cli as paramisp
from paramisp_cli import companion, formats, parameters, weights
from paramisp_cli.batch import find, on_ray, run
from paramisp_cli.batch.cluster import Cluster
from paramisp_cli.batch.outcome import Outcome
from paramisp_cli.cli.app import app
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FileAccessError, FormatError, InputMissingError
from paramisp_cli.formats import WriteOptions
from paramisp_cli.rendition import look, pool, preview
from paramisp_cli.rendition.develop import develop
from paramisp_cli.types import Camera, Metadata, RawImage

pytestmark = pytest.mark.slow

CAMERA = Camera("Canon", "Canon EOS 60D")
TAKEN = "2014:07:07 15:38:56"


@pytest.fixture(autouse=True)
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(weights, "places", lambda: [("a test", tmp_path / "no weights")])


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(-10 * np.log10(np.mean((one.astype(float) / 255 - other.astype(float) / 255) ** 2)))


def exif(**changed: str) -> Image.Exif:
    about = {"make": "Canon", "model": "Canon EOS 60D", "taken": TAKEN, "software": "Firmware Version 1.0.9", **changed}
    block = Image.Exif()
    for tag, name in ((0x010F, "make"), (0x0110, "model"), (0x0131, "software")):
        block[tag] = about[name]
    block.get_ifd(0x8769)[0x9003] = about["taken"]
    return block


def store(raw: RawImage, path: Path, preview: np.ndarray | None = None) -> Path:
    """Write a DNG as by a camera: with a firmware's name instead of paramisp's, and with another preview if given."""
    if preview is not None:
        raw = replace(raw, metadata=Metadata(jpeg=formats.raster.encode_jpeg(preview, 97, False)))
    whole = exif().tobytes().removeprefix(b"Exif\0\0")
    formats.write(replace(raw, metadata=replace(raw.metadata, exif=whole)), path)
    path.write_bytes(path.read_bytes().replace(b"paramisp", b"firmware", 1))
    return path


def half(pixels: np.ndarray) -> np.ndarray:
    height, width = pixels.shape[:2]
    return pixels.reshape(height // 2, 2, width // 2, 2, 3).mean((1, 3)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def shots() -> list[tuple[RawImage, np.ndarray]]:
    """Four RAW files of one camera, with previews of one look."""
    made = [photographed(scene(400, 560, seed=seed), factor=1) for seed in (0, 3, 4, 7)]
    return [(replace(raw, camera=CAMERA), shown) for raw, shown in made]


def bare(raw: RawImage) -> RawImage:
    return replace(raw, metadata=Metadata())


# --- beside a RAW file ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["IMG_1.JPG", "IMG_1.jpg", "IMG_1.jpeg"])
def test_the_jpeg_beside_shows_the_look(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path, name: str) -> None:
    raw, shown = shots[0]
    path = store(bare(raw), tmp_path / "IMG_1.dng")
    without = paramisp.render(path).pixels
    Image.fromarray(shown).save(tmp_path / name, "JPEG", quality=97, exif=exif())
    read = parameters.read(path)
    assert read.metadata.jpeg is None
    assert read.metadata.jpeg_beside == (tmp_path / name).read_bytes()
    conversion = parameters.complete(read)
    assert conversion.architecture == parameters.CAMERA_LOOK
    assert conversion.origin["model"] == f"{name} beside the file"
    picture = paramisp.render(path)
    assert picture.notes == ()
    assert psnr(picture.pixels, shown) > max(32, psnr(without, shown) + 6)


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"software": "Adobe Photoshop Lightroom 6.0"}, "it was written by Adobe"),
        ({"model": "Canon EOS 5D"}, "it is by Canon EOS 5D, the RAW file by Canon EOS 60D"),
        ({"taken": "2014:07:07 15:38:57"}, "it was taken at 2014:07:07 15:38:57"),
        ({"make": "", "model": ""}, "names no camera"),
        ({"shape": "other"}, "it is cropped"),
        ({"exif": "no"}, "has no EXIF"),
    ],
)
def test_another_jpeg_is_refused_with_the_reason(
    shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path, changed: dict[str, str], reason: str
) -> None:
    raw, shown = shots[0]
    path = store(bare(raw), tmp_path / "IMG_1.dng")
    pixels = shown[:, :400] if changed.pop("shape", "") else shown
    block = {} if changed.pop("exif", "") else {"exif": exif(**changed)}
    Image.fromarray(pixels).save(tmp_path / "IMG_1.JPG", "JPEG", **block)
    read = parameters.read(path)
    assert read.metadata.jpeg_beside is None
    assert any("IMG_1.JPG beside it" in note and reason in note for note in read.notes), read.notes


def test_our_own_picture_beside_says_nothing(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    """`render` writes IMG_1.jpg beside IMG_1.dng: a second run must not take it for the camera's."""
    path = store(bare(shots[0][0]), tmp_path / "IMG_1.dng")
    first = paramisp.render(path)
    paramisp.write(first, tmp_path / "IMG_1.jpg")
    (tmp_path / "IMG_1.jpeg").write_bytes(b"not a JPEG")
    second = paramisp.render(path)
    assert second.notes == first.notes
    assert (second.pixels == first.pixels).all()


def test_a_large_jpeg_inside_counts_first(tmp_path: Path) -> None:
    raw, shown = photographed(scene(480, 680), factor=1)
    raw = replace(raw, camera=CAMERA)
    Image.fromarray(shown).save(tmp_path / "IMG_1.JPG", "JPEG", exif=exif())
    path = store(raw, tmp_path / "IMG_1.dng")
    assert max(shown.shape) >= companion.SMALL
    assert parameters.read(path).metadata.jpeg is not None
    assert parameters.read(path).metadata.jpeg_beside is None
    path.unlink()
    store(raw, path, half(shown))
    assert parameters.read(path).metadata.jpeg is not None
    assert parameters.read(path).metadata.jpeg_beside is not None


# --- named by the user ------------------------------------------------------------------------------------------------


def test_look_from_a_named_file(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    """Even an edited picture: it is the user's choice."""
    raw, shown = shots[0]
    path = store(raw, tmp_path / "IMG_1.dng")
    edited = (255 * (shown / 255) ** 1.4).round().astype(np.uint8)
    Image.fromarray(edited).save(tmp_path / "mine.jpg", "JPEG", quality=97)
    settings = paramisp.Settings(look_from=str(tmp_path / "mine.jpg"))
    read = parameters.read(path, settings)
    assert parameters.complete(read, settings).origin["model"] == "--look-from mine.jpg"
    own = psnr(paramisp.render(path, paramisp.Settings(look="camera")).pixels, edited)
    assert psnr(paramisp.render(path, settings).pixels, edited) > max(32, own + 8)

    Image.fromarray(shots[1][1]).save(tmp_path / "other.jpg", "JPEG")
    with pytest.raises(FormatError, match=r"other.jpg does not look like .*; give the JPEG that shows this very shot"):
        paramisp.render(path, replace(settings, look_from=tmp_path / "other.jpg"))
    with pytest.raises(InputMissingError, match=r"`look_from` .*gone.jpg: no such file"):
        paramisp.render(path, replace(settings, look_from=tmp_path / "gone.jpg"))
    with pytest.raises(FileAccessError, match="cannot be read"):
        paramisp.render(path, replace(settings, look_from=tmp_path))
    with pytest.raises(FormatError, match="is not a JPEG"):
        paramisp.render(path, replace(settings, look_from=path))
    with pytest.raises(ConfigError, match="`look_from` is for `render`"):
        paramisp.unprocess(shown, settings)
    for clash in ({"model": "parametric"}, {"look": "neutral"}, {"weights": "x"}):
        with pytest.raises(ConfigError, match="`look_from` sets the look"):
            paramisp.Settings(look_from="a.jpg", **clash)
    with pytest.raises(ConfigError, match="`look_from` must be a path"):
        paramisp.Settings(look_from=3)


def test_look_from_on_the_command_line(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    raw, shown = shots[0]
    path, other = store(raw, tmp_path / "a.dng"), store(shots[1][0], tmp_path / "b.dng")
    Image.fromarray(shown).save(tmp_path / "mine.jpg", "JPEG", quality=97)
    call = CliRunner().invoke
    done = call(app, ["render", str(path), "--look-from", str(tmp_path / "mine.jpg"), "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["origin"]["model"] == "--look-from mine.jpg"
    done = call(app, ["render", str(path), str(other), "--look-from", str(tmp_path / "mine.jpg")])
    assert done.exit_code == 2
    assert "one shot" in done.stderr
    done = call(app, ["render", str(path), "-o", str(tmp_path / "mine.jpg"), "--look-from", str(tmp_path / "mine.jpg")])
    assert done.exit_code == 6


# --- in a batch -------------------------------------------------------------------------------------------------------


def rendered(
    paths: list[Path], folder: Path, on_exists: str = "error", cluster: Cluster | None = None
) -> dict[str, Outcome]:
    found = [find.Input(path, Path(path.name)) for path in paths]
    policy = run.Policy(find.OnExists(on_exists))
    jobs = find.assign(paths, found, folder, ".png", Direction.RENDER, policy.on_exists)
    work = jobs, Direction.RENDER, paramisp.Settings(), WriteOptions(), policy
    outcomes = list(run.run(*work) if cluster is None else on_ray.run(cluster, *work))
    assert len(outcomes) == len(paths)
    return {outcome.job.source.name: outcome for outcome in outcomes}


def test_a_batch_lends_looks(
    shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A shot without preview and one with a small preview; the order of the files and a repetition change nothing."""
    monkeypatch.setattr(pool, "_SMALL", 250)
    raws = [bare(shots[0][0]), *(raw for raw, _ in shots[1:])]
    previews = (None, None, None, half(shots[3][1]))
    paths = [
        store(raw, tmp_path / f"{number}.dng", preview)
        for number, (raw, preview) in enumerate(zip(raws, previews, strict=True))
    ]
    folder = tmp_path / "one"
    outcomes = rendered(paths, folder)
    assert [outcome.status for outcome in outcomes.values()] == ["done"] * 4
    assert [*outcomes] == ["1.dng", "2.dng", "0.dng", "3.dng"]
    bare_one, small_one = outcomes["0.dng"], outcomes["3.dng"]
    assert bare_one.conversion is not None
    assert small_one.conversion is not None
    assert bare_one.conversion.architecture == parameters.CAMERA_LOOK
    assert bare_one.conversion.origin["model"] == "the camera's other files"
    assert bare_one.notices == (
        "the RAW file holds no preview by the camera: used the look of the other files of Canon EOS 60D",
    )
    assert "280×200 pixels: fitted with the looks of the other files" in small_one.notices[0]
    assert outcomes["1.dng"].notices == ()
    with Image.open(folder / "0.png") as picture:
        alone = paramisp.render(raws[0]).pixels
        assert psnr(np.asarray(picture), shots[0][1]) > max(30, psnr(alone, shots[0][1]) + 3)
    with Image.open(folder / "1.png") as picture:
        assert (np.asarray(picture) == paramisp.render(paths[1]).pixels).all()

    rendered(paths[::-1], tmp_path / "two")
    rendered(paths[1:3], tmp_path / "three")
    again = rendered(paths, tmp_path / "three", "skip")
    assert [outcome.status for outcome in again.values()] == ["skipped", "skipped", "done", "done"]
    for name in ("0.png", "1.png", "2.png", "3.png"):
        first = (folder / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes(), name
        assert first == (tmp_path / "three" / name).read_bytes(), name


def test_the_workers_of_a_cluster_lend_looks(
    shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path, cluster: Cluster
) -> None:
    """Each worker sees some of the files; the pictures are those of one machine, also when a batch is repeated."""
    raws = [bare(shots[0][0]), *(raw for raw, _ in shots[1:])]
    paths = [store(raw, tmp_path / f"{number}.dng") for number, raw in enumerate(raws)]
    rendered(paths, tmp_path / "one")
    outcomes = rendered(paths, tmp_path / "two", cluster=cluster)
    assert [*outcomes][-1] == "0.dng"
    assert "used the look of the other files of Canon EOS 60D" in outcomes["0.dng"].notices[0]
    rendered(paths[1:], tmp_path / "three", cluster=cluster)
    again = rendered(paths, tmp_path / "three", "skip", cluster)
    assert sorted(outcome.status for outcome in again.values()) == ["done", "skipped", "skipped", "skipped"]
    for name in ("0.png", "1.png", "2.png", "3.png"):
        first = (tmp_path / "one" / name).read_bytes()
        assert first == (tmp_path / "two" / name).read_bytes(), name
        assert first == (tmp_path / "three" / name).read_bytes(), name


def test_only_the_same_camera_lends(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    other = replace(bare(shots[0][0]), camera=Camera("Canon", "Canon EOS 5D"))
    paths = [store(raw, tmp_path / f"{number}.dng") for number, raw in enumerate((other, shots[1][0]))]
    outcomes = rendered(paths, tmp_path / "out")
    lonely = outcomes["0.dng"].conversion
    assert lonely is not None
    assert lonely.architecture == "parametric"
    assert paramisp.render(paths[0]).notes == outcomes["0.dng"].notices


def test_a_foreign_preview_borrows_a_look(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    """A picture of something else inside one file: refused, and the others lend their look."""
    wrong = replace(shots[0][0], metadata=Metadata(jpeg=formats.raster.encode_jpeg(shots[2][1], 95, False)))
    paths = [store(raw, tmp_path / f"{number}.dng") for number, raw in enumerate((wrong, shots[1][0]))]
    outcomes = rendered(paths, tmp_path / "out")
    assert "does not look like the RAW picture" in outcomes["0.dng"].notices[0]
    assert "other files of Canon EOS 60D" in outcomes["0.dng"].notices[0]


def test_a_small_preview_is_helped(shots: list[tuple[RawImage, np.ndarray]]) -> None:
    """With the others' looks as the prior, a small preview of a flat scene shows its look better than alone."""
    gathering = pool.Pool()
    for raw, _ in shots[1:]:
        assert gathering.fit(raw).origin == ""
    raw, shown = shots[0]
    small = shown.reshape(100, 4, 140, 4, 3).mean((1, 3)).round().astype(np.uint8)
    tiny = replace(raw, metadata=Metadata(jpeg=formats.raster.encode_jpeg(small, 90, False)))
    with pytest.raises(pool.Deferred):
        gathering.fit(tiny)
    gathering.close()
    helped = gathering.fit(tiny)
    assert "other files" in helped.origin
    alone, _ = look.camera_look(tiny)
    assert alone is not None
    plain = psnr(develop(raw, alone.rendition), shown)
    assert psnr(develop(raw, helped.rendition), shown) > plain
    lonely = pool.Pool(closed=True)
    assert lonely.fit(tiny).rendition.vector.tolist() == alone.rendition.vector.tolist()


def test_a_pool_is_bounded(shots: list[tuple[RawImage, np.ndarray]], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of more shots than fit, the same ones count in any order."""
    monkeypatch.setattr(pool, "_POOLED", 2)
    looks = []
    for order in ((0, 1, 2, 3), (3, 1, 0, 2)):
        gathering = pool.Pool()
        for number in order:
            gathering.fit(shots[number][0])
        gathering.close()
        looks.append(gathering.fit(bare(shots[0][0])).rendition.vector.tolist())
    assert looks[0] == looks[1]
    raw, shown = photographed(scene(400, 560).mean(-1, keepdims=True).repeat(3, -1), factor=1)
    grey = shown.mean(-1, keepdims=True).round().astype(np.uint8).repeat(3, -1)
    jpeg = formats.raster.encode_jpeg(grey, 95, False)
    black_and_white = replace(raw, camera=CAMERA, metadata=Metadata(jpeg=jpeg))
    for unsuited in (black_and_white, replace(shots[0][0], camera=None)):
        lonely = pool.Pool()
        assert lonely.fit(unsuited).origin == ""
        lonely.close()
        with pytest.raises(preview.Misfit):
            lonely.fit(bare(shots[1][0]))
    unnamed = pool.Pool()
    unnamed.fit(replace(shots[0][0], camera=None))
    unnamed.close()
    with pytest.raises(preview.Misfit):
        unnamed.fit(replace(bare(shots[1][0]), camera=None))


# --- several RAW files of `like` --------------------------------------------------------------------------------------


def test_like_pools_the_looks(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    """The inverse look of a folder; a file without a usable preview is named; the cache notices a new file."""
    folder = tmp_path / "raws"
    folder.mkdir()
    for number, (raw, _) in enumerate(shots[:3]):
        store(raw, folder / f"{number}.dng")
    store(bare(shots[3][0]), folder / "bare.dng")
    truth, shown = photographed(scene(300, 420, seed=2), factor=1)
    wish = paramisp.Settings(like=folder)
    got = paramisp.unprocess(shown, wish, camera=CAMERA)
    assert got.model == parameters.CAMERA_LOOK
    assert got.origin["model"] == "the JPEG inside --like 3 files"
    assert got.notes == ("`like` bare.dng: the RAW file holds no preview by the camera: left out of the look",)
    black, white = truth.canonical.black_level[0, 0], truth.canonical.white_level

    def decibels(made: RawImage) -> float:
        off = made.mosaic.astype(float) - truth.mosaic
        return float(-20 * np.log10(np.sqrt(np.mean(off**2)) / (white - black)))

    alone = [
        decibels(paramisp.unprocess(shown, paramisp.Settings(like=folder / f"{number}.dng"), camera=CAMERA))
        for number in range(3)
    ]
    assert decibels(got) > np.mean(alone)
    listed = paramisp.Settings(like=[folder / f"{number}.dng" for number in range(3)])
    again = paramisp.unprocess(shown, listed, camera=CAMERA)
    assert (again.mosaic == got.mosaic).all()
    assert again.notes == ()
    (folder / "2.dng").unlink()
    assert (paramisp.unprocess(shown, wish, camera=CAMERA).mosaic != got.mosaic).any()

    only = paramisp.unprocess(shown, paramisp.Settings(like=folder / "bare.dng"), camera=CAMERA)
    assert only.model == "parametric"


def test_a_jpeg_beside_a_file_of_like_shows_its_look(shots: list[tuple[RawImage, np.ndarray]], tmp_path: Path) -> None:
    raw, pixels = shots[0]
    path = store(bare(raw), tmp_path / "IMG_1.dng")
    Image.fromarray(pixels).save(tmp_path / "IMG_1.JPG", "JPEG", quality=97, exif=exif())
    got = paramisp.unprocess(pixels, paramisp.Settings(like=path), camera=CAMERA)
    assert got.model == parameters.CAMERA_LOOK
