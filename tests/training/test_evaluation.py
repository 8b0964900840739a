"""Charts found and not found, LibRaw beside the pair, held-out parts, and the plan of an evaluation."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from testcamera import MATRIX, scene, shoot, unsign

from paramisp_cli import color, formats, isp
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import libraw
from paramisp_cli.training import dataset as data
from paramisp_cli.training.measure import baselines, chart, metrics, predictors, scores, trials
from paramisp_cli.training.measure import libraw as baseline
from paramisp_cli.training.pairing import pairs
from paramisp_cli.types import CFA_PATTERNS, Camera, CanonicalParams, OpticalParams, SrgbImage

PATCHES = np.array(
    [
        (115, 82, 68), (194, 150, 130), (98, 122, 157), (87, 108, 67), (133, 128, 177), (103, 189, 170),
        (214, 126, 44), (80, 91, 166), (193, 90, 99), (94, 60, 108), (157, 188, 64), (224, 163, 46),
        (56, 61, 150), (70, 148, 73), (175, 54, 60), (231, 199, 31), (187, 86, 149), (8, 133, 161),
        (243, 243, 242), (200, 200, 200), (160, 160, 160), (122, 122, 121), (85, 85, 85), (52, 52, 52),
    ]
).reshape(4, 6, 3)  # fmt: skip


def photograph(corners: list[tuple[float, float]], size=(480, 640), colors=PATCHES, noise=4.0) -> np.ndarray:
    """A chart on grey, its frame's corners (x, y) where told (clockwise), warm light, vignetting, noise; uint8."""
    flat = np.array([(-0.7, -0.7), (5.7, -0.7), (5.7, 3.7), (-0.7, 3.7)])
    rows = []
    for (x, y), (u, v) in zip(corners, flat, strict=True):  # homography picture → chart
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y, u], [0, 0, 0, x, y, 1, -v * x, -v * y, v]]
    system = np.array(rows)
    h = np.append(np.linalg.solve(system[:, :8], system[:, 8]), 1).reshape(3, 3)
    y, x = np.mgrid[: size[0] : 0.5, : size[1] : 0.5]  # twice as fine, for soft edges
    u, v, w = np.einsum("ij,jyx->iyx", h, np.stack([x, y, np.ones_like(x)]))
    u, v = u / w, v / w
    out = np.full((*x.shape, 3), 170.0)
    inside = (u > -0.7) & (u < 5.7) & (v > -0.7) & (v < 3.7) & (w > 0)
    out[inside] = 20
    row, column = np.clip(v.round().astype(int), 0, 3), np.clip(u.round().astype(int), 0, 5)
    on_patch = inside & (abs(u - u.round()) < 0.42) & (abs(v - v.round()) < 0.42)
    out[on_patch] = colors[row, column][on_patch]
    out = out.reshape(size[0], 2, size[1], 2, 3).mean((1, 3))
    out *= np.array([1.1, 1.0, 0.75]) * np.linspace(1, 0.8, size[1])[:, None]
    return (out + np.random.default_rng(0).normal(0, noise, out.shape)).clip(0, 255).astype(np.uint8)


UPRIGHT = [(120.0, 90.0), (520.0, 110.0), (480.0, 380.0), (90.0, 330.0)]


@pytest.mark.slow
@pytest.mark.parametrize("turn", range(4))
def test_chart_is_found_however_it_lies(turn: int) -> None:
    picture = np.ascontiguousarray(np.rot90(photograph(UPRIGHT), turn))
    found = chart.find(picture)
    assert found is not None
    assert found.score > 0.9
    means = found.means(picture.astype(np.float32) / 255)
    assert means.shape == (24, 3)
    light = color.srgb_decode(np.clip(PATCHES.reshape(-1, 3) / 255 * np.array([1.1, 1.0, 0.75]), 0, 1))
    # Patch by patch, in the chart's own order: only vignetting is between the two.
    assert np.corrcoef(means.ravel(), light.ravel())[0, 1] > 0.98
    corners = found.corners()
    assert corners.shape == (24, 4, 2)
    assert corners.min() > 0
    assert (corners.max((0, 1)) < picture.shape[:2]).all()


@pytest.mark.slow
def test_larger_and_smaller_charts() -> None:
    large = photograph([(100, 75), (900, 80), (920, 630), (75, 600)], (700, 1000))
    assert chart.find(large) is not None
    assert chart.find(photograph([(250, 180), (370, 175), (372, 255), (254, 262)])) is not None


RNG = np.random.default_rng(3)
Y, X = np.mgrid[:480, :640]
NOTHING = {
    "noise": lambda: RNG.integers(0, 256, (480, 640, 3)),
    "stripes": lambda: ((X // 20) % 2 * 180 + 30)[..., None].repeat(3, -1),
    "checkerboard": lambda: ((Y // 40 + X // 40) % 2 * 200 + 20)[..., None].repeat(3, -1),
    "tiles": lambda: np.where(((Y % 40 < 32) & (X % 40 < 32))[..., None], scene(480, 640) * 0 + 200, 20),
    "flat": lambda: np.full((480, 640, 3), 128),
    "scene": lambda: scene(480, 640) * 255,
    "tiny": lambda: np.zeros((8, 8, 3)),
    "other colours": lambda: photograph(UPRIGHT, colors=RNG.integers(20, 250, (4, 6, 3))),
    "grey patches": lambda: photograph(UPRIGHT, colors=RNG.integers(20, 250, (4, 6, 1)).repeat(3, -1)),
    "half a chart": lambda: photograph([(-200.0, 90.0), (300.0, 110.0), (280.0, 380.0), (-220.0, 330.0)]),
    "shuffled chart": lambda: photograph(UPRIGHT, colors=RNG.permutation(PATCHES.reshape(-1, 3)).reshape(4, 6, 3)),
    "mirrored chart": lambda: np.ascontiguousarray(photograph(UPRIGHT)[:, ::-1]),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", NOTHING)
def test_no_chart_where_there_is_none(name: str) -> None:
    assert chart.find(NOTHING[name]().astype(np.uint8)) is None


@pytest.mark.slow
def test_charts_of_real_photographs(shared: Path) -> None:
    """One with a chart, one whose chart sticks out of the frame."""
    for name, there in (("Nikon_CoolPix_S3100_DSCN0137", True), ("Apple_iPhone_13_Pro_IMG_8568", False)):
        picture = formats.read(shared / "jpegs" / f"{name}.JPG")
        assert isinstance(picture, SrgbImage)
        assert (chart.find(picture.pixels) is not None) == there, name


@pytest.mark.slow
def test_chart_error_is_that_of_its_patches() -> None:
    picture = photograph(UPRIGHT)
    item = _loaded(picture)
    wrong = picture.astype(np.float32) / 255
    wrong[:80] = 1 - wrong[:80]  # nothing of the chart is there
    score = scores.score(item, Direction.RENDER, "m", lambda _: wrong)
    assert score.delta_e_chart == 0
    assert score.psnr < 30
    dark = scores.score(item, Direction.RENDER, "m", lambda _: picture.astype(np.float32) / 255 * 0.8)
    assert dark.delta_e_chart is not None
    assert 2 < dark.delta_e_chart < 20
    text = scores.tables([score, replace(dark, delta_e_chart=None), replace(dark, camera="Other", model="n")])
    assert text.count("### ") == 2
    assert "### Test Cam, render\n\nMeasured on x." in text
    assert "| m | 2 |" in text
    assert "| 0.00 |\n" in text


def _loaded(picture: np.ndarray, cfa: str = "RGGB", name: str = "x", camera: str = "Cam") -> data.LoadedPair:
    """A pair whose mosaic is the picture's own pixels, black levels that tell the sites apart."""
    height, width = picture.shape[:2]
    black = np.array([[100, 200], [300, 400]])
    rgb = torch.from_numpy(picture.transpose(2, 0, 1).astype(np.float32))[None] / 255
    values = isp.mosaic(rgb, cfa)[0, 0].numpy()
    floor = np.tile(black, (height // 2, width // 2))
    mosaic = (values * (60000 - floor) + floor).round().astype(np.uint16)
    params = CanonicalParams(cfa, black, 60000, np.ones(3), MATRIX)
    pair = data.Pair(
        name, "", "", "pair", "", camera=Camera("Test", camera), canonical=params, offset=(3.9, -8.1),
        regions=(data.Region(0, 0, height, width),), size=(height, width),
    )  # fmt: skip
    return data.LoadedPair(pair, mosaic, picture)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("width", [198, 200])
def test_held_out_part_keeps_cfa_and_levels(cfa: str, width: int) -> None:
    item = _loaded((scene(64, width) * 255).astype(np.uint8), cfa)
    left, right = data.split(item, "train", 0.3), data.split(item, "test", 0.3)
    assert left.srgb.shape[1] + data.GAP + right.srgb.shape[1] == width
    assert right.srgb.shape[1] == pytest.approx(0.3 * width, abs=2)
    assert (right.name, left.name) == ("x (right 30 %)", "x (left 70 %)")
    for part in (left, right):
        assert part.is_whole
        mosaic, picture = part.sides()
        assert part.pair.canonical is not None
        again = isp.mosaic(torch.from_numpy(picture.transpose(2, 0, 1).copy())[None], part.pair.canonical.cfa)
        assert np.abs(again[0, 0].numpy() - mosaic).max() < 1e-4
    # Its first pixel is the RAW's: the stored picture begins 8 columns into the JPEG, at the RAW's first.
    assert right.pair.offset == (3.9, left.srgb.shape[1] + data.GAP)


def test_held_out_windows_by_their_place() -> None:
    item = _loaded((scene(64, 200) * 255).astype(np.uint8))
    regions = tuple(data.Region(0, x, 64, 40, 1, 2) for x in (0, 100, 120, 150))
    item = replace(item, pair=replace(item.pair, regions=regions))
    assert not item.is_whole
    left, right = (data.split(item, which, 0.3).pair.regions for which in ("train", "test"))
    assert [(r.left, r.width) for r in left] == [(0, 40), (100, 24), (120, 4)]
    assert [(r.left, r.width) for r in right] == [(140, 20), (150, 40)]
    assert {(r.dy, r.dx) for r in (*left, *right)} == {(1, 2)}
    assert data.whole([data.split(item, "test", 0.2)]) == []  # one window is no whole photograph


@pytest.mark.parametrize("fraction", [0, 1, -0.3, 0.99, float("nan")])
def test_fractions_that_leave_nothing(fraction: float) -> None:
    with pytest.raises(ConfigError, match="cannot hold out"):
        data.split(_loaded((scene(32, 64) * 255).astype(np.uint8)), "test", fraction)


def test_what_is_measured_and_what_fitted_on() -> None:
    picture = (scene(32, 128) * 255).astype(np.uint8)
    a, b = _loaded(picture, name="a"), _loaded(picture, name="b")
    only = _loaded(picture, name="c", camera="Other")

    def told(*args: object) -> list[tuple[str, list[str]]]:
        found = trials.arrange([a, b, only], *args)  # type: ignore[arg-type]
        return [(trial.item.name, [item.name for item in trial.fitting]) for trial in found]

    assert told() == [("a", ["b"]), ("b", ["a"]), ("c", ["c"])]
    assert told(["a"]) == [("a", ["b"])]
    assert told(["c"]) == [("c", ["c"])]
    assert told([], 0.25)[2] == ("c (right 25 %)", ["c (left 75 %)"])
    assert told(["a"], 0.25)[:2] == [("a", ["b (left 75 %)"]), ("b (right 25 %)", ["b (left 75 %)"])]
    assert [trial.fitted_on_itself for trial in trials.arrange([a, b, only])] == [False, False, True]
    with pytest.raises(ConfigError, match="no pair's name"):
        trials.arrange([a], ["z"])
    with pytest.raises(
        ConfigError, match=r"a \(right 10 %\): an area of 12×32 is too small .* 22 pixels; hold out more"
    ):
        trials.arrange([a], [], 0.1)


def test_names_of_checkpoints_are_unlike() -> None:
    """Each file keeps its line in the table, also beside a baseline of its name."""
    files = [Path(f"s{seed}/run/d90.both.safetensors") for seed in range(3)]
    assert trials.labelled(files) == {f"s{seed}/run/d90.both": path for seed, path in enumerate(files)}
    alone = [Path("a/regression.safetensors"), Path("b/x.render.safetensors")]
    assert trials.labelled(alone) == {"a/regression": alone[0], "x.render": alone[1]}


def test_many_photographs_share_four_fits_and_none_is_fitted_on_itself() -> None:
    picture = (scene(32, 64) * 255).astype(np.uint8)
    items = [_loaded(picture, name=str(number)) for number in range(10)]
    found = trials.arrange(items)
    assert sorted(trial.item.name for trial in found) == sorted(item.name for item in items)
    assert len({id(trial.fitting) for trial in found}) == 4  # ``run`` fits once for each
    assert not any(trial.fitted_on_itself for trial in found)
    assert all(len(trial.fitting) in (7, 8) for trial in found)
    assert all(len(trial.fitting) == 7 for trial in trials.arrange(items[:8]))


def test_optics_of_the_next_photograph() -> None:
    picture = (scene(32, 64) * 255).astype(np.uint8)
    items = []
    for iso in (100, 200, 400):
        item = _loaded(picture)
        items.append(replace(item, pair=replace(item.pair, optical=OpticalParams(iso=iso))))
    assert [item.pair.optical.iso for item in trials.with_shuffled_optics(items)] == [200, 400, 100]
    with pytest.raises(ConfigError, match="two photographs"):
        trials.with_shuffled_optics(items[:1])


def test_weights_that_saw_the_photograph() -> None:
    item = _loaded((scene(32, 128) * 255).astype(np.uint8), name="GOPR1-0a1b2c")
    right, left = data.split(item, "test", 0.3), {"training": '{"photographs": ["GOPR1-ffffff (left 70 %)"]}'}
    assert trials._was_trained_on({"training": '{"photographs": ["GOPR1"]}'}, item)
    assert not trials._was_trained_on({"training": '{"photographs": ["GOPR12"]}'}, item)
    assert trials._was_trained_on(left, item)
    assert not trials._was_trained_on(left, right)
    assert trials._was_trained_on(left, data.split(item, "test", 0.4))
    assert not trials._was_trained_on({"training": ""}, item)
    assert not trials._was_trained_on({"training": '{"photographs": 3}'}, item)


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> tuple[Path, Path]:
    """(RAW file, data set) of a camera that lies on its side and whose JPEG is LibRaw's, but darker."""
    folder = tmp_path_factory.mktemp("taken")
    path = shoot(folder, "shot", size=(520, 640), offset=(0, 0), cfa="GRBG", orientation=6, seed=8)
    unsign(path)
    linear = color.srgb_decode(libraw.developed(path).pixels[6:-4, 10:-8] / 255) / 2
    picture = np.rot90((color.srgb_encode(linear) * 255).round().astype(np.uint8), -1)
    jpeg = SrgbImage(np.ascontiguousarray(picture))
    formats.write(jpeg, folder / "shot.jpg", formats.WriteOptions(quality=98), overwrite=True)
    where = folder / "pairs"
    (pair,) = pairs.make([path], where)
    assert pair.status == "pair", pair.reason
    return path, where


@pytest.mark.slow
def test_libraw_lies_on_the_pair(taken: tuple[Path, Path]) -> None:
    (item,) = data.load(taken[1])
    for one in (item, data.split(item, "test", 0.4)):
        got, wanted = baseline.libraw(one), predictors.target(one, Direction.RENDER)
        assert got.shape == wanted.shape
        fitted = baseline.gain_fitted(lru_cache(maxsize=1)(baseline.libraw))(one)
        assert metrics.psnr(got, wanted) < 25
        assert metrics.psnr(fitted, wanted) > 38


@pytest.mark.slow
def test_libraw_at_the_scale_of_a_reduced_pair(taken: tuple[Path, Path], tmp_path: Path) -> None:
    (item,) = data.load(taken[1])
    small = SrgbImage(item.srgb[:624, :512].reshape(312, 2, 256, 2, 3).mean((1, 3)).round().astype(np.uint8))
    pair = replace(item.pair, status="reduced", reduction=2.0, size=small.size, regions=(data.Region(0, 0, 312, 256),))
    reduced = replace(item, pair=pair, srgb=small.pixels, mosaic=item.mosaic[:312, :256])
    for one in (reduced, data.split(reduced, "test", 0.4)):
        fitted = baseline.gain_fitted(baseline.libraw)(one)
        assert metrics.psnr(fitted, predictors.target(one, Direction.RENDER)) > 36


def test_libraw_is_left_out_where_unsure(taken: tuple[Path, Path], tmp_path: Path) -> None:
    (item,) = data.load(taken[1])
    said: list[str] = []
    gone = replace(item, pair=replace(item.pair, raw="gone.dng"))
    assert trials._libraw(gone, said.append) == {}
    other = replace(item, srgb=(scene(*item.srgb.shape[:2], 77) * 255).astype(np.uint8))
    assert trials._libraw(other, said.append) == {}
    assert "no longer there" in said[0]
    assert "aligned reliably" in said[1]
    (tmp_path / "no.dng").write_bytes(b"II*\0nonsense")
    with pytest.raises(FormatError, match="cannot render"):
        libraw.developed(tmp_path / "no.dng")


@pytest.mark.slow
def test_baselines_are_what_they_say(dataset: Path) -> None:
    loaded = data.whole(data.load(dataset))
    measured = []
    for direction in ISP_DIRECTIONS:
        for name, predict in (
            ("parametric", baselines.fitted_parametric(loaded[:1], direction)),
            ("regression", baselines.regression(loaded[:1], direction)),
        ):
            measured.append(scores.score(loaded[1], direction, name, predict))
    by_name = {(s.direction, s.model): s.psnr for s in measured}
    assert by_name["unprocess", "parametric"] > 36  # the pairs' camera is the parametric model
    assert by_name["unprocess", "regression"] > 28
    text = scores.table(measured)
    assert text.count("\n") == 6
    assert "| Test Cam | render | regression | 1 |" in text


def test_metrics_against_known_values() -> None:
    a = np.zeros((64, 64, 3), np.float32)
    b = np.full((64, 64, 3), 0.1, np.float32)
    assert metrics.psnr(a, b) == pytest.approx(20, abs=1e-4)
    assert metrics.psnr_crops(a, b) == pytest.approx(20, abs=1e-4)
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert metrics.ssim(noise, noise) == pytest.approx(1)
    assert metrics.ssim(noise, noise[::-1]) < 0.2
    # Rows of the test data of Sharma, Wu and Dalal (2005).
    known = [
        ((50.0, 2.6772, -79.7751), (50.0, 0.0, -82.7485), 2.0425),
        ((50.0, -1.3802, -84.2814), (50.0, 0.0, -82.7485), 1.0000),
        ((50.0, 2.5, 0.0), (73.0, 25.0, -18.0), 27.1492),
        ((90.8027, -2.0831, 1.4410), (91.1528, -1.6435, 0.0447), 1.4441),
        ((2.0776, 0.0795, -1.1350), (0.9033, -0.0636, -0.5514), 0.9082),
    ]
    one, two, wanted = (np.array(column) for column in zip(*known, strict=True))
    assert color.ciede2000(one, two) == pytest.approx(wanted, abs=1e-4)
    assert color.srgb_to_lab(np.ones(3)) == pytest.approx([100, 0, 0], abs=1e-6)
