"""Pairs: files that are found, aligned or refused, on small pictures made here."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from testcamera import scene, shoot, unsign

import paramisp_cli as paramisp
from paramisp_cli import formats
from paramisp_cli.directions import Direction
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training import dataset as data
from paramisp_cli.training.measure import metrics, predictors
from paramisp_cli.training.pairing import align, pairs
from paramisp_cli.types import SrgbImage

pytestmark = pytest.mark.slow


def test_offset_is_found_and_pixels_lie_on_each_other(dataset: Path) -> None:
    pair = data.read_index(dataset)[0]
    assert (round(pair.offset[0]), round(pair.offset[1])) == (6, 10)
    mosaic, srgb = data.read_arrays(dataset, pair)
    assert mosaic.shape == srgb.shape[:2] == pair.size
    item = data.LoadedPair(pair, mosaic, srgb)
    predict = predictors.network(Parametric(Direction.UNPROCESS), torch.device("cpu"))
    # The pair's own camera was the parametric one: only the JPEG's compression is between the two.
    assert metrics.psnr(predict(item), predictors.target(item, Direction.UNPROCESS)) > 38


def test_done_files_are_not_done_again(dataset: Path, camera_files: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in dataset.glob("*.npz")}
    assert [p.status for p in pairs.make([camera_files], dataset)] == ["pair", "pair"]
    assert {p.name: p.stat().st_mtime_ns for p in dataset.glob("*.npz")} == before


def test_index_survives_json(dataset: Path) -> None:
    for pair in data.read_index(dataset):
        again = data.Pair.of(json.loads(json.dumps(pair.record())))
        assert again.record() == pair.record()


def test_contact_sheet_is_drawn(dataset: Path) -> None:
    assert (dataset / "contact_sheet.jpg").stat().st_size > 10_000


def test_wrong_jpeg_is_refused(tmp_path: Path) -> None:
    path = shoot(tmp_path, "shot", seed=3)
    unsign(path)
    other = (scene(640, 800, seed=99) * 255).astype(np.uint8)
    formats.write(SrgbImage(other), tmp_path / "shot.jpg", overwrite=True)
    (pair,) = pairs.make([path], tmp_path / "data")
    assert pair.status == "refused"
    assert not list((tmp_path / "data").glob("*.npz"))


def test_no_jpeg_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = shoot(tmp_path, "shot", seed=3)
    unsign(path)
    (tmp_path / "shot.jpg").unlink()
    (pair,) = pairs.make([path], tmp_path / "data")
    assert pair.status == "refused"
    assert "no camera JPEG" in pair.reason


def test_our_own_dngs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "made.dng"
    formats.write(paramisp.unprocess(SrgbImage((scene(96, 128) * 255).astype(np.uint8))), path)
    (pair,) = pairs.make([path], tmp_path / "data")
    assert pair.status == "refused"
    assert "paramisp" in pair.reason


def test_reduced_jpeg_gives_a_pair_at_its_own_scale(tmp_path: Path) -> None:
    path = shoot(tmp_path, "shot", size=(1200, 1600), offset=(0, 0), seed=5)
    unsign(path)
    whole = (scene(1216, 1620, 5) * 255).astype(np.float32)
    small = whole.reshape(608, 2, 810, 2, 3).mean((1, 3)).round().astype(np.uint8)
    formats.write(SrgbImage(small), tmp_path / "shot.jpg", formats.WriteOptions(quality=97), overwrite=True)
    (pair,) = pairs.make([path], tmp_path / "data")
    assert pair.status == "reduced", pair.reason
    assert pair.reduction == pytest.approx(2, abs=0.01)
    mosaic, srgb = data.read_arrays(tmp_path / "data", pair)
    predict = predictors.network(Parametric(Direction.UNPROCESS), torch.device("cpu"))
    item = data.LoadedPair(pair, mosaic, srgb)
    assert metrics.psnr(predict(item), predictors.target(item, Direction.UNPROCESS)) > 34


def test_warped_jpeg_is_refused(tmp_path: Path) -> None:
    path = shoot(tmp_path, "shot", size=(1024, 1280), offset=(0, 0), seed=6)
    unsign(path)
    whole = torch.from_numpy(scene(1040, 1300, 6).transpose(2, 0, 1))[None]
    y, x = torch.meshgrid(torch.linspace(-1, 1, 1024), torch.linspace(-1, 1, 1280), indexing="ij")
    bend = 1 - 0.05 * (x * x + y * y)
    grid = torch.stack([x * bend, y * bend], -1)[None].double()
    warped = torch.nn.functional.grid_sample(whole, grid, align_corners=True)[0].permute(1, 2, 0).numpy()
    formats.write(SrgbImage((warped * 255).astype(np.uint8)), tmp_path / "shot.jpg", overwrite=True)
    (pair,) = pairs.make([path], tmp_path / "data")
    if pair.status == "refused":
        assert "lens-corrected" in pair.reason or "does not look" in pair.reason
    else:
        assert len(pair.regions) > 1  # only parts of it are used, with offsets of their own


def test_shift_is_found_to_a_fraction_of_a_pixel() -> None:
    whole = torch.from_numpy(scene(300, 300, 7)[..., 1])[None, None]
    moved = torch.nn.functional.grid_sample(
        whole,
        torch.stack(
            torch.meshgrid(torch.linspace(-1, 1, 300) + 2 * 0.3 / 299, torch.linspace(-1, 1, 300), indexing="ij")[::-1],
            -1,
        )[None].double(),
        align_corners=True,
    )
    part = align.detail(moved[0, 0].numpy())[100:200, 120:220]
    y, x, score = align.shift_of(part, align.detail(whole[0, 0].numpy()))
    assert score > 0.95
    assert y == pytest.approx(100.3, abs=0.1)
    assert x == pytest.approx(120, abs=0.1)


def test_pairs_of_real_files(shared: Path, tmp_path: Path) -> None:
    """The offset of the HERO7, found without being told (its DNG lies mirrored)."""
    (pair,) = pairs.make([shared / "gopro_hero7_black" / "GOPR8508.DNG"], tmp_path)
    assert pair.status == "pair"
    assert (round(pair.offset[0]), round(pair.offset[1])) == (4, -8)
