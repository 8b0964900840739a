"""Pairs, recipes, crops, the loop and the metrics, on small pairs made here."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import color, formats, isp
from paramisp_cli.errors import ConfigError, FormatError, InputMissingError
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training import align, config, data, evaluate, loop, pairs
from paramisp_cli.types import (
    CFA_PATTERNS,
    Camera,
    CanonicalParams,
    Direction,
    OpticalParams,
    SrgbImage,
)

MATRIX = np.array([[0.6719, -0.0994, -0.0925], [-0.4408, 1.2426, 0.2211], [-0.0887, 0.2129, 0.6051]])


def scene(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(H, W, 3) in [0.05, 0.9]: soft colours with texture everywhere, so that offsets can be found."""
    generator = np.random.default_rng(seed)
    out = np.zeros((height, width, 3))
    for cells, weight in ((4, 0.5), (24, 0.3), (96, 0.2)):
        noise = torch.from_numpy(generator.random((1, 3, cells, cells)))
        up = torch.nn.functional.interpolate(noise, size=(height, width), mode="bicubic", align_corners=True)
        out += weight * up[0].permute(1, 2, 0).numpy().clip(0, 1)
    return 0.05 + 0.85 * (out - out.min()) / (out.max() - out.min())


def canonical(cfa: str = "RGGB") -> CanonicalParams:
    return CanonicalParams(cfa, 64, 4095, np.array([0.5, 1.0, 0.66]), MATRIX)


def shoot(folder: Path, name: str, *, size=(640, 800), offset=(6, 10), cfa="GBRG", orientation=1, seed=0) -> Path:
    """A "camera": a larger scene as a DNG, and a JPEG of a part of it beside it. RAW(y + dy, x + dx) ↔ JPEG(y, x)."""
    folder.mkdir(parents=True, exist_ok=True)
    dy, dx = offset
    whole = scene(size[0] + 16, size[1] + 20, seed)
    picture = (whole * 255).round().astype(np.uint8)
    raw = paramisp.unprocess(
        SrgbImage(picture, camera=Camera("Test", "Cam"), optical=OpticalParams(100, 0.01, 4, 35)),
        paramisp.Settings(model="parametric", cfa=cfa),
    )
    path = folder / f"{name}.dng"
    formats.write(replace(raw, orientation=orientation, model=None), path)
    jpeg = np.ascontiguousarray(picture[dy : dy + size[0], dx : dx + size[1]])
    formats.write(SrgbImage(jpeg), folder / f"{name}.jpg", formats.WriteOptions(quality=97))
    return path


@pytest.fixture(scope="module")
def camera_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shots")
    shoot(folder, "one", seed=1)
    shoot(folder, "two", seed=2)
    return folder


@pytest.fixture(scope="module")
def dataset(camera_files: Path, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("data")
    for index in ("one", "two"):
        unsign(camera_files / f"{index}.dng")
    found = list(pairs.make([camera_files], where))
    assert [p.status for p in found] == ["pair", "pair"], [p.reason for p in found]
    return where


def unsign(path: Path) -> None:
    """Take our name out of the DNG's Software tag: pairs refuses what paramisp itself has made."""
    content = path.read_bytes()
    path.write_bytes(content.replace(b"paramisp", b"testcamr"))


@pytest.mark.slow
def test_offset_is_found_and_pixels_lie_on_each_other(dataset: Path) -> None:
    pair = pairs.read_index(dataset)[0]
    assert (round(pair.offset[0]), round(pair.offset[1])) == (6, 10)
    mosaic, srgb = pairs.read_arrays(dataset, pair)
    assert mosaic.shape == srgb.shape[:2] == pair.size
    item = data.Loaded(pair, mosaic, srgb)
    predict = evaluate.network(Parametric(Direction.UNPROCESS), torch.device("cpu"))
    # The pair's own camera was the parametric one: only the JPEG's compression is between the two.
    assert evaluate.psnr(predict(item), evaluate.target(item, Direction.UNPROCESS)) > 38


def test_done_files_are_not_done_again(dataset: Path, camera_files: Path) -> None:
    before = {p.name: p.stat().st_mtime_ns for p in dataset.glob("*.npz")}
    assert [p.status for p in pairs.make([camera_files], dataset)] == ["pair", "pair"]
    assert {p.name: p.stat().st_mtime_ns for p in dataset.glob("*.npz")} == before


def test_index_survives_json(dataset: Path) -> None:
    for pair in pairs.read_index(dataset):
        again = pairs.Pair.of(json.loads(json.dumps(pair.record())))
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


@pytest.mark.slow
def test_reduced_jpeg_gives_a_pair_at_its_own_scale(tmp_path: Path) -> None:
    path = shoot(tmp_path, "shot", size=(1200, 1600), offset=(0, 0), seed=5)
    unsign(path)
    whole = (scene(1216, 1620, 5) * 255).astype(np.float32)
    small = whole.reshape(608, 2, 810, 2, 3).mean((1, 3)).round().astype(np.uint8)
    formats.write(SrgbImage(small), tmp_path / "shot.jpg", formats.WriteOptions(quality=97), overwrite=True)
    (pair,) = pairs.make([path], tmp_path / "data")
    assert pair.status == "reduced", pair.reason
    assert pair.reduction == pytest.approx(2, abs=0.01)
    mosaic, srgb = pairs.read_arrays(tmp_path / "data", pair)
    predict = evaluate.network(Parametric(Direction.UNPROCESS), torch.device("cpu"))
    item = data.Loaded(pair, mosaic, srgb)
    assert evaluate.psnr(predict(item), evaluate.target(item, Direction.UNPROCESS)) > 34


@pytest.mark.slow
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


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("orientation", [1, 2, 3, 4])
def test_crops_keep_cfa_and_alignment(cfa: str, orientation: int) -> None:
    rgb = np.random.default_rng(0).random((40, 48, 3)).astype(np.float32)
    flat = isp.mosaic(torch.from_numpy(rgb.transpose(2, 0, 1).copy())[None], cfa)[0, 0].numpy()
    params = CanonicalParams(cfa, 0, 65535, np.ones(3), MATRIX)
    pair = pairs.Pair("x", "", "", "pair", "", canonical=params, regions=(pairs.Region(0, 0, 40, 48),), size=(40, 48))
    item = data.Loaded(pair, (flat * 65535).round().astype(np.uint16), (rgb * 255).round().astype(np.uint8))
    srgb, mosaic, _ = data.cut(item, pair.regions[0], (3, 5), 24, orientation)
    again = isp.mosaic(torch.from_numpy(srgb)[None], data.CFA)[0].numpy()
    assert np.abs(again - mosaic).max() < 0.01  # the mosaic is the picture's own, seen through RGGB


TINY = """
lr = 2e-3
warmup = 2
dtype = "fp32"
evaluate_every = 4
checkpoint_every = 3
[[phases]]
steps = 3
crop = 96
batch = 2
part = "global"
[[phases]]
steps = 5
crop = 96
batch = 1
"""


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(Direction))
def test_mixed_precision_learns_the_same(dataset: Path, tmp_path: Path, direction: Direction) -> None:
    exact = config.parse(TINY, "tiny")
    sampler = data.Sampler(data.load(dataset))
    weights = {}
    for recipe in (exact, replace(exact, dtype="bf16")):
        made = trainer(recipe, tmp_path / recipe.dtype, direction)
        made.run(sampler, lambda progress: None, lambda t: None)
        weights[recipe.dtype] = torch.cat([p.flatten() for p in made.averaged().parameters()])
    start = torch.cat([p.flatten() for p in loop.build(exact, direction).parameters()])
    moved, lossy = weights["fp32"] - start, weights["bf16"] - start
    assert not torch.equal(moved, lossy)
    assert torch.nn.functional.cosine_similarity(moved, lossy, dim=0) > 0.8


def test_auto_settles_on_what_the_device_does_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, cpu = config.load("camera-cpu"), torch.device("cpu")
    assert recipe.dtype == "auto"
    for able, dtype in (({"avx512_bf16": True}, "bf16"), ({"avx512_bf16": False}, "fp32"), ({}, "fp32")):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda able=able: able, raising=False)
        assert loop.for_device(recipe, cpu).dtype == dtype
    assert loop.for_device(recipe, torch.device("cuda")).dtype == "bf16"
    assert loop.for_device(recipe, torch.device("mps")).dtype == "fp32"
    assert loop.for_device(replace(recipe, dtype="bf16"), torch.device("mps")).dtype == "bf16"


def trainer(recipe: config.Recipe, folder: Path, direction=Direction.UNPROCESS) -> loop.Trainer:
    return loop.Trainer(recipe, direction, torch.device("cpu"), folder)


def test_simulated_pairs_give_their_share(dataset: Path, tmp_path: Path) -> None:
    real = data.load(dataset)[0]
    pair = replace(real.pair, jpeg=pairs.SIMULATED, optical=OpticalParams(6400, 0.01, 4, 35))
    both = [real, replace(real, pair=pair)]
    for share, low, high in ((0.0, 0, 0), (0.6, 80, 160)):
        sampler = data.Sampler(both, simulated=share)
        isos = sampler.batch(200, 96, torch.Generator().manual_seed(0)).params.iso
        assert low <= int((isos == 6400).sum()) <= high
    (tmp_path / pairs.INDEX).write_text("".join(json.dumps(item.pair.record()) + "\n" for item in both))
    (tmp_path / f"{real.pair.name}.npz").write_bytes((dataset / f"{real.pair.name}.npz").read_bytes())
    assert [item.pair.is_simulated for item in data.load(tmp_path)] == [False]
    assert [item.pair.is_simulated for item in data.load(tmp_path, simulated=True)] == [False, True]


def test_crops_that_fit_no_photograph_shrink(dataset: Path) -> None:
    items = data.load(dataset)
    largest = max(map(data.largest_crop, items))
    recipe = config.parse(TINY.replace("crop = 96", "crop = 4000", 1), "big")
    fitted, said = loop.fitted(recipe, items)
    assert [phase.crop for phase in fitted.phases] == [largest, 96]
    assert said == [f"crops of 4000 px fit no photograph: {largest} px instead"]
    assert data.Sampler(items).batch(2, largest, torch.Generator().manual_seed(0)).srgb.shape[-1] == largest
    with pytest.raises(ConfigError, match="no aligned part of any photograph holds a crop of"):
        data.Sampler(items).batch(1, largest + 4, torch.Generator())
    narrow = [replace(item, pair=replace(item.pair, regions=(pairs.Region(0, 0, 60, 400),))) for item in items]
    with pytest.raises(ConfigError, match="a crop of 88 px, the smallest"):
        loop.fitted(recipe, narrow)
    both = [items[0], *(replace(n, pair=replace(n.pair, optical=OpticalParams(6400, 0.01, 4, 35))) for n in narrow)]
    isos = data.Sampler(both).batch(20, 96, torch.Generator().manual_seed(0)).params.iso
    assert not (isos == 6400).any()  # what holds no such crop gives none


def test_random_balance_changes_only_the_sensor(dataset: Path) -> None:
    items = data.load(dataset)
    plain = data.Sampler(items).batch(1, 96, torch.Generator().manual_seed(0))
    other = data.Sampler(items, random_balance=0.3).batch(1, 96, torch.Generator().manual_seed(0))
    assert torch.equal(plain.srgb, other.srgb)
    assert not torch.allclose(plain.mosaic, other.mosaic, rtol=0.02)
    same = [isp.apply_gains(isp.demosaic(b.mosaic, data.CFA), b.params.wb_gains) for b in (plain, other)]
    assert torch.allclose(*same, atol=0.05)  # demosaicing mixes the channels a little at edges
    assert float((same[0] - same[1]).abs().mean()) < 2e-3
    with pytest.raises(ConfigError, match="random_balance must be in"):
        config.parse(f"random_balance = -1\n{TINY}", "bad")


class _StopError(Exception):
    pass


@pytest.mark.slow
@pytest.mark.parametrize("direction", list(Direction))
def test_resuming_gives_the_same_numbers(dataset: Path, tmp_path: Path, direction: Direction) -> None:
    recipe = config.parse(TINY, "tiny")
    sampler = data.Sampler(data.load(dataset))
    straight = trainer(recipe, tmp_path / "straight", direction)
    straight.run(sampler, lambda progress: None, lambda t: None)

    broken = trainer(recipe, tmp_path / "broken", direction)

    def stop(t: loop.Trainer) -> None:
        raise _StopError

    with pytest.raises(_StopError):
        broken.run(sampler, lambda progress: None, stop)
    resumed = trainer(recipe, tmp_path / "broken", direction)
    assert 0 < resumed.step < recipe.steps
    resumed.run(sampler, lambda progress: None, lambda t: None)
    for name, value in straight.averaged().state_dict().items():
        assert torch.equal(value, resumed.averaged().state_dict()[name]), name


@pytest.mark.slow
def test_loss_falls(dataset: Path, tmp_path: Path) -> None:
    text = TINY.replace("steps = 3\n", "steps = 60\n", 1).replace("evaluate_every = 4", "evaluate_every = 10")
    recipe = config.parse(text, "falls")
    sampler = data.Sampler(data.load(dataset))
    trainer(recipe, tmp_path).run(sampler, lambda progress: None, lambda t: None)
    losses = [json.loads(line)["loss"] for line in (tmp_path / loop.LOG).read_text().splitlines()]
    assert losses[-1] < 0.6 * losses[0]


def test_checkpoint_of_another_recipe_is_refused(dataset: Path, tmp_path: Path) -> None:
    trainer(config.parse(TINY, "tiny"), tmp_path).save_checkpoint()
    with pytest.raises(ConfigError, match="another recipe"):
        trainer(config.parse(TINY.replace("2e-3", "1e-3"), "tiny"), tmp_path)
    (tmp_path / loop.CHECKPOINT).write_bytes(b"nonsense")
    with pytest.raises(FormatError, match="damaged"):
        trainer(config.parse(TINY, "tiny"), tmp_path)


@pytest.mark.parametrize("name", config.names())
def test_our_recipes_are_good(name: str) -> None:
    assert config.load(name).steps > 0


def test_a_recipe_may_build_on_another() -> None:
    base, ablation = config.load("ablation"), config.load("ablation-no-paramnet")
    assert ablation.phases == base.phases
    assert dict(ablation.model) == {**base.model, "use_paramnet": False}
    model = loop.build(ablation, Direction.RENDER)
    assert sum(p.numel() for p in model.parameters()) < 690_000  # the paper: 0.68 M without ParamNet


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("lr = ", "not TOML"),
        ("speed = 3", "unknown speed"),
        ("base = 'nothing'", "no recipe 'nothing'"),
        ("base = 3", "must name another"),
        ("lr = 1e-3", "no phases"),
        ("[[phases]]\nsteps = 1\ncrop = 0\nbatch = 1", "crop"),
        ("architecture = 'gan'\n[[phases]]\nsteps = 1\ncrop = 96\nbatch = 1", "must be paramisp, got 'gan'"),
        ("[[phases]]\nsteps = 1\ncrop = 96\nsize = 1", "size"),
    ],
)
def test_bad_recipes_are_named(text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        config.parse(text, "bad")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        ("crop = 96", "crop = 30", "crop must be at least 88 px and a multiple of 4, got 30"),
        ("crop = 96", "crop = 90", "crop must be at least 88 px and a multiple of 4, got 90"),
        ('part = "global"', 'part = "head"', "part must be one of all, global, got 'head'"),
    ],
)
def test_recipes_that_do_not_suit_the_network_are_named(old: str, new: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        loop.build(config.parse(TINY.replace(old, new, 1), "bad"), Direction.RENDER)


def test_bad_data_sets_are_named(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(InputMissingError, match="no data set"):
        data.load(tmp_path)
    with pytest.raises(ConfigError, match="no pair of Nikon"):
        data.load(dataset, "Nikon")
    with pytest.raises(InputMissingError, match="no RAW file"):
        list(pairs.make([tmp_path], tmp_path / "out"))
    (tmp_path / "index.jsonl").write_text("{]")
    with pytest.raises(FormatError, match="damaged"):
        data.load(tmp_path)
    with pytest.raises(ConfigError, match="use a smaller one"):
        data.Sampler(data.load(dataset)).batch(1, 4096, torch.Generator())


@pytest.mark.slow
def test_baselines_are_what_they_say(dataset: Path) -> None:
    loaded = evaluate.whole_pairs(data.load(dataset))
    scores = []
    for direction in Direction:
        for name, predict in (
            ("parametric", evaluate.fitted_parametric(loaded[:1], direction)),
            ("regression", evaluate.regression(loaded[:1], direction)),
        ):
            scores.append(evaluate.measure(loaded[1], direction, name, predict))
    by_name = {(s.direction, s.model): s.psnr for s in scores}
    assert by_name["unprocess", "parametric"] > 36  # the pairs' camera is the parametric model
    assert by_name["unprocess", "regression"] > 28
    text = evaluate.table(scores)
    assert text.count("\n") == 6
    assert "| Test Cam | render | regression | 1 |" in text


def test_metrics_against_known_values() -> None:
    a = np.zeros((64, 64, 3), np.float32)
    b = np.full((64, 64, 3), 0.1, np.float32)
    assert evaluate.psnr(a, b) == pytest.approx(20, abs=1e-4)
    assert evaluate.psnr_crops(a, b) == pytest.approx(20, abs=1e-4)
    noise = np.random.default_rng(0).random((64, 64, 3)).astype(np.float32)
    assert evaluate.ssim(noise, noise) == pytest.approx(1)
    assert evaluate.ssim(noise, noise[::-1]) < 0.2
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


@pytest.mark.slow
def test_pairs_of_real_files(shared: Path, tmp_path: Path) -> None:
    """The offset of the HERO7, found without being told (its DNG lies mirrored)."""
    (pair,) = pairs.make([shared / "gopro_hero7_black" / "GOPR8508.DNG"], tmp_path)
    assert pair.status == "pair"
    assert (round(pair.offset[0]), round(pair.offset[1])) == (4, -8)


def test_shadows_weigh_more_in_roots_and_noise_at_black_does_not_run_wild() -> None:
    light = torch.linspace(-0.01, 1, 100_001, dtype=torch.float64, requires_grad=True)
    roots = loop._root(light)
    (slope,) = torch.autograd.grad(roots.sum(), light)
    assert slope.max() <= 16
    assert slope.min() > 0.49  # rising everywhere, and a step at white counts half of its size
    assert (roots.diff() <= 16 * light.diff()).all()  # without a jump where the line begins
    torch.testing.assert_close(roots[light > 0.001], light[light > 0.001].sqrt())


@pytest.mark.slow
def test_shadows_change_the_loss_of_unprocessing_alone(dataset: Path, tmp_path: Path) -> None:
    losses = {}
    for direction in Direction:
        for shadows in (0.0, 1.0):
            recipe = replace(config.parse(TINY, "tiny"), shadows=shadows)
            one = trainer(recipe, tmp_path / f"{direction}{shadows}", direction)
            losses[direction, shadows] = one._one(one._draw(data.Sampler(data.load(dataset)), 0))
    assert losses[Direction.UNPROCESS, 1.0] > losses[Direction.UNPROCESS, 0.0]
    assert losses[Direction.RENDER, 1.0] == losses[Direction.RENDER, 0.0]
    with pytest.raises(ConfigError, match="shadows must be in"):
        config.parse(f"shadows = -1\n{TINY}", "bad")
