"""The same output at any tile size and memory limit: every architecture, both directions, every CFA.

The bound is rounding's: 2e-5 of full scale in float32 from the plain whole-image network, one code of 16383 (255) in
files. In bf16 and fp16, which users must ask for, 60 dB from float32.
"""

import math
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from paramisp_cli import convert, formats, parameters, weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models import REGISTRY, architecture, names, regions
from paramisp_cli.models.base import Params
from paramisp_cli.models.cycleisp import streaming as cycleisp_streaming
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.models.paramisp import ParamISP, globalnet, plans, streaming
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS, RawImage, SrgbImage

CPU = torch.device("cpu")
CASES = [(architecture(entry.name), direction) for entry in REGISTRY for direction in entry.directions]
IDS = [f"{kind.name}-{direction}" for kind, direction in CASES]
SIZES = [(118, 106), (86, 254), (262, 90)]
"""Twice a prime, and odd aspects; a mosaic's sides are even. Pictures of prime sides are made below, as files."""
TILES = [40, 72, 160]
FEW = [*zip(SIZES, TILES, strict=True), (SIZES[2], TILES[0])]
"""Sizes and tiles for networks that are moderately dear, one for each CFA."""
_MODERATE, _DEAR = 5e4, 1e6
"""Multiply-accumulates a pixel from which a network runs over fewer pictures, or pictures of few pixels."""
NARROW = [((262, 34), 72), ((34, 254), 72), ((118, 46), 40), ((46, 106), 40)]
"""Sizes and tiles for dear networks: longer than a tile and its surroundings, one for each CFA."""
CUTS = [
    pytest.param(kind, direction, size, side, CFA_PATTERNS[number % 4], id=f"{name}-{size}-{side}")
    for (kind, direction), name in zip(CASES, IDS, strict=True)
    for number, (size, side) in enumerate(
        NARROW if kind.macs >= _DEAR else FEW if kind.macs >= _MODERATE else product(SIZES, TILES)
    )
]
PLANS = {name: plans.PLANS[name] for name in plans.names(CPU)}


def params(cfa):
    one = torch.ones(1)
    matrix = torch.tensor([[[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]]])
    return Params(torch.tensor([[2.1, 1.0, 1.5]]), matrix, 200 * one, one / 60, 4 * one, 50 * one, cfa=cfa)


def model_of(kind, direction):
    torch.manual_seed(0)
    model = kind(direction).eval()
    if isinstance(model, ParamISP):
        with torch.no_grad():  # what initial weights attend to is nearly constant; this makes it matter
            for block in model.localnet.blocks:
                block.spatial.weight.mul_(20)
                block.channel2.weight.mul_(5)
    return model


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction", "size", "side", "cfa"), CUTS)
def test_tiles_and_memory_do_not_show(kind, direction, size, side, cfa, monkeypatch, tmp_path):
    for name, plan in PLANS.items():
        monkeypatch.setitem(plans.PLANS, name, replace(plan, band=plan.band and side))
    for module in (globalnet, streaming):
        monkeypatch.setattr(module, "BAND", 32)
    monkeypatch.setattr(cycleisp_streaming, "_STRIP_PIXELS", side * size[1])
    model, shot = model_of(kind, direction), params(cfa)
    x = torch.rand(1, direction.input.channels, *size)
    want = model(x, shot).detach()  # with gradients: the plain network
    names = model.plans(CPU)
    monkeypatch.setattr(  # for pictures as small as these every plan needs about the same
        model, "peak_bytes", lambda _height, _width, plan=names[0]: 1000 * (len(names) - names.index(plan))
    )
    ran = []
    for limit in range(1000, 1000 * len(names) + 1, 1000):
        got = torch.empty_like(want)

        def sink(top, rows, got=got):
            got[:, :, top : top + rows.shape[2]] = rows

        ran.append(
            Runner(model, CPU, max_memory=limit, scratch=tmp_path).run(
                shot, size, lambda first, end: x[:, :, first:end], sink,
                tile=None if model.geometry.pooled else (side, side + 6),
            )
        )  # fmt: skip
        torch.testing.assert_close(got, want, atol=2e-5, rtol=1e-5)
    assert ran == list(names[::-1])


@pytest.mark.parametrize("change", ["none", "one value between codes", "one above white"])
def test_pictures_of_8_bits_take_a_table(change):
    """And no others: the parametric model gives the same with gradients, where it computes every value."""
    model, srgb = (
        model_of(Parametric, Direction.UNPROCESS),
        torch.arange(3 * 64 * 64).remainder(256).view(1, 3, 64, 64) / 255,
    )
    if change != "none":
        srgb[0, 1, 5, 7] = 0.4 / 255 if "between" in change else 1.5
    want = model(srgb, params("RGGB")).detach()
    with torch.inference_mode():
        torch.testing.assert_close(model(srgb, params("RGGB")), want, atol=1e-6, rtol=0)


@pytest.fixture
def generic(tmp_path, monkeypatch):
    """Weights of random numbers for any camera, both directions."""
    for direction in ISP_DIRECTIONS:
        path = tmp_path / "store" / "paramisp" / f"generic.{direction}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(1)
        about = {"camera": "generic", "recipe": "none", "licence": "MIT"}
        weights.save(ParamISP(direction), path, training={}, metrics={}, **about)
    monkeypatch.setenv("PARAMISP_WEIGHTS", str(tmp_path / "store"))


@pytest.mark.slow
@pytest.mark.parametrize("size", [(127, 131), (89, 239)], ids=str)
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.usefixtures("generic")
def test_files_of_prime_sides(size, cfa, make_jpeg, tmp_path, monkeypatch):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (*size, 3), np.uint8)
    photo = formats.read(make_jpeg(tmp_path / "photo.jpg", pixels))
    plan, settings = (
        parameters.complete(photo, parameters.Settings(camera="Canon EOS 60D")),
        parameters.Settings(scratch=scratch),
    )
    plan = replace(plan, canonical=replace(plan.canonical, cfa=cfa))
    raws: dict[object, RawImage] = {}
    pictures: dict[object, SrgbImage] = {}
    for name, kind in PLANS.items():
        for side in TILES[1:] if kind.band else [0]:
            monkeypatch.setitem(plans.PLANS, name, replace(kind, band=side))
            raws[name, side] = convert.run(photo, replace(plan, memory_plan=name), settings)
            first = next(iter(raws.values()))
            back = replace(parameters.complete(first), memory_plan=name)
            pictures[name, side] = convert.run(first, back, settings)
    assert len(raws) == 5
    mosaics, images = ([v.astype(int) for v in of] for of in (
        [raw.mosaic for raw in raws.values()], [picture.pixels for picture in pictures.values()]
    ))  # fmt: skip
    assert mosaics[0].shape == tuple(side + side % 2 for side in size)
    assert images[0].shape == (*size, 3)
    for mosaic, image in zip(mosaics, images, strict=True):
        assert np.abs(mosaic - mosaics[0]).max() <= 1  # where rounding falls the other way
        assert np.abs(image - images[0]).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.parametrize(
    "name", [name for name in names(needs_weights=True) if weights.find("generic", Direction.RENDER, name)]
)
def test_lower_precision_is_60_decibels_from_float32(name, dtype, direction):
    """With weights that were trained: random ones change the picture less, and lose less."""
    generic = weights.find("generic", direction, name)
    assert generic is not None
    model = weights.load(generic.path)
    y, x = torch.meshgrid(torch.linspace(0, 1, 120), torch.linspace(0, 1, 160), indexing="ij")
    wave = (torch.sin(40 * x * y) + 1) / 2
    picture = torch.stack([0.8 * x + 0.2 * wave, y * (0.4 + 0.6 * wave), 1 - x * y]).clamp(0, 1)[None]
    source = picture if direction == Direction.UNPROCESS else picture[:, 1:2] ** 2.2
    out = {}
    for precision in ("fp32", dtype):
        got = torch.empty(1, 1 if direction == Direction.UNPROCESS else 3, 120, 160)

        def sink(top, rows, got=got):
            got[:, :, top : top + rows.shape[2]] = rows

        kind = getattr(torch, parameters.DTYPES[precision])
        Runner(model, CPU, kind).run(params("RGGB"), (120, 160), lambda a, b: source[:, :, a:b], sink)
        out[precision] = got.clamp(0, 1)
    error = (out[dtype] - out["fp32"]).square().mean().item()
    assert error > 0
    assert -10 * math.log10(error) > 60


@pytest.mark.parametrize("threads", [2, 4, 8])
def test_threads_have_equal_shares(threads):
    """Regions that are taken one after the other keep every thread at work to the end, and each pixel is in one."""
    for height, width in ((1632, 2450), (2310, 3464), (2828, 4242), (3998, 6002), (8164, 12248)):
        shares = regions.cut_for_threads(height, width, threads, regions.CPU_STRIP)
        assert sum((region.bottom - region.top) * region.width for region in shares) == height * width
        ends = [0] * threads
        for region in shares:
            ends[ends.index(min(ends))] += (region.bottom - region.top) * region.width
        assert height * width / threads / max(ends) > 0.95


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "direction"), CASES, ids=IDS)
def test_progress_rises_to_one(kind, direction, tmp_path) -> None:
    """Every plan tells the share of its work that is done; the estimate of the whole is at most 7 % off."""
    model = kind(direction).eval()
    size, channels = (300, 200) if kind.macs < _DEAR else (90, 62), 3 if direction == Direction.UNPROCESS else 1
    x = torch.rand(1, channels, *size)
    for plan in model.plans(CPU):
        shares: list[float] = []
        machine = Runner(model, CPU, memory_plan=plan, scratch=tmp_path, progress=shares.append)
        machine.run(params("RGGB"), size, lambda first, end: x[:, :, first:end], lambda top, rows: None)
        assert shares == sorted(shares)
        assert 0.93 < shares[-1] <= 1
        assert len(shares) > 1 or not model.geometry.pooled
