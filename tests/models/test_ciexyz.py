"""CIE XYZ Net: parity with the published network and training step, its sample of the picture, its training."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import peers
import pytest
import torch

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.models.base import Params
from paramisp_cli.models.ciexyz import CieXyz
from paramisp_cli.models.ciexyz import network as ciexyz
from paramisp_cli.models.ciexyz.published import NAMES
from paramisp_cli.runner import Runner
from paramisp_cli.types import CFA_PATTERNS


def fresh(direction, seed=0):
    model = CieXyz(Direction(direction)).eval()
    model.initialise(torch.Generator().manual_seed(seed))
    return model


def shot(n=1, cfa="RGGB"):
    one = torch.ones(n)
    matrix = torch.tensor([[1.7, -0.6, -0.1], [-0.2, 1.5, -0.3], [0.0, -0.5, 1.5]])
    return Params(torch.tensor([[2.1, 1.0, 1.5]] * n), matrix.repeat(n, 1, 1), one, one, one, one, cfa=cfa)


# --- parity -----------------------------------------------------------------------------------------------------------


@peers.NO_PARITY
@pytest.mark.parametrize("seed", peers.seeds("ciexyz"))
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.slow
def test_parity_with_the_published_network(seed, direction, tmp_path):
    model = peers.model(f"ciexyz_{seed}", direction, tmp_path)
    arrays = peers.stored(f"ciexyz_{seed}_{direction}")
    run = model.to_xyz if direction == Direction.UNPROCESS else model.to_srgb
    with torch.inference_mode():
        for key in ("", "_odd", "_large"):
            assert peers.error(run(torch.from_numpy(arrays[f"x{key}"])), arrays[f"y{key}"]) < peers.BOUND
        x = torch.from_numpy(arrays["x"])
        plain = x if direction == Direction.RENDER else x - model.local(x)
        assert peers.error(model.matrix(plain, None), arrays["global_matrix"]) < peers.BOUND
        x = torch.from_numpy(arrays["project_x"])
        assert peers.error(model(x, peers.shots(arrays, len(x))), arrays["project_y"]) < peers.BOUND


@peers.NO_PARITY
@pytest.mark.slow
def test_parity_of_a_training_step(tmp_path):
    """With the AVX2 kernels of the stored step: its gradients lie 2e-3 of their maximum from those in float64.

    An error of the L1 loss, or a ReLU's input, is so near zero there that rounding decides about its sign. With AVX-512
    and in float64 it has the other sign.
    """
    kernels = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    if any(os.environ.get(key) != value for key, value in kernels.items()):
        command = [sys.executable, "-m", "pytest", "-q", "-n", "0", f"{__file__}::test_parity_of_a_training_step"]
        done = subprocess.run(command, env=os.environ | kernels, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
        assert "1 passed" in done.stdout
        return
    models = {each: peers.model("ciexyz_seed01", each, tmp_path) for each in ISP_DIRECTIONS}
    arrays = peers.stored("ciexyz_seed01_train")
    image, xyz = (torch.from_numpy(arrays[key]) for key in ("image", "gt_xyz"))
    step = ciexyz.training_step(*models.values(), image, xyz)
    assert peers.error(step.xyz, arrays["rec_xyz"]) < peers.BOUND
    assert peers.error(step.rendered, arrays["rendered"]) < peers.BOUND
    assert step.loss.item() == pytest.approx(float(arrays["loss"]), rel=1e-6)
    torch.autograd.backward(step.loss)
    compared = 0
    for direction, names in NAMES.items():
        ours = dict(models[direction].named_parameters())
        for theirs, name in names.items():
            if (value := arrays.get(f"grad:{theirs}")) is not None:
                assert peers.error(ours[name].grad, value) < 1e-3 * np.abs(value).max(), theirs
                compared += 1
    assert compared == sum(key.startswith("grad:") for key in arrays) >= 46


# --- the network ------------------------------------------------------------------------------------------------------


def test_parameter_count():
    counts = [sum(p.numel() for p in part.parameters()) for part in (fresh("render").local, fresh("render").colour)]
    assert counts == [131_235, 1_217_554]


def test_the_sample_takes_whole_pixels():
    picture = torch.arange(300.0).view(1, 1, 1, 300) + 1000 * torch.arange(37.0).view(1, 1, 37, 1)
    sample = ciexyz.sampled(picture)
    assert sample.shape == (1, 1, 128, 128)
    for i, j in ((0, 0), (127, 127), (5, 77)):
        assert sample[0, 0, i, j] == 1000 * (i * 37 // 128) + j * 300 // 128


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
@pytest.mark.slow
def test_a_survey_in_strips_takes_the_sample_of_the_whole(direction, cfa, monkeypatch):
    monkeypatch.setattr(ciexyz, "_SURVEY_PIXELS", 1)
    model, params = fresh(direction), shot(cfa=cfa)
    x = torch.rand(1, direction.input.channels, 206, 150, generator=torch.Generator().manual_seed(0))
    read = []

    def source(first, end):
        read.append(end - first)
        return x[:, :, first:end]

    with torch.inference_mode():
        surveyed = model.surveyed(source, (206, 150), params)
        assert surveyed.thumbnail.shape == (1, 3, 128, 128)
        torch.testing.assert_close(model(x, surveyed), model(x, params), atol=1e-6, rtol=0)
        assert model.surveyed(source, (206, 150), surveyed) is surveyed
        other = replace(surveyed, thumbnail=surveyed.thumbnail * 0.5)
        assert not torch.allclose(model(x, other), model(x, params), atol=1e-3)
    assert len(read) > 2
    if direction == Direction.UNPROCESS:
        monkeypatch.setattr(ciexyz, "_WINDOWED", 0)
        read.clear()
        with torch.inference_mode():
            windowed = model.surveyed(source, (206, 150), params)
        assert len(read) == 128
        assert max(read) == 33
        torch.testing.assert_close(windowed.thumbnail, surveyed.thumbnail, atol=1e-6, rtol=0)
    model.train()
    assert model.surveyed(source, (206, 150), params) is params  # a sample of a crop changes with the weights


@pytest.mark.parametrize("pixels", [2000, 1 << 30])
@pytest.mark.parametrize("direction", ISP_DIRECTIONS)
def test_the_progress_counts_the_survey(direction, pixels, monkeypatch):
    """Otherwise a bar stands still for up to half of the time."""
    monkeypatch.setattr(ciexyz, "_SURVEY_PIXELS", 1)
    monkeypatch.setattr(ciexyz, "_WINDOWED", pixels)
    size, shares, before_tiles = (300, 64), [], []
    surveyed = min(pixels, 300 * 64) if direction == Direction.UNPROCESS else 0
    model = fresh(direction)
    assert model.survey_pixels(size) == surveyed
    x = torch.rand(1, direction.input.channels, *size)
    machine = Runner(model, torch.device("cpu"), progress=shares.append)
    machine.run(
        shot(), size, lambda first, end: x[:, :, first:end], lambda *_: before_tiles.append(len(shares)), tile=(16, 64)
    )
    assert shares == sorted(shares)
    assert shares[-1] == 1
    end_of_survey = surveyed / (surveyed + 300 * 64)
    assert 0.7 * end_of_survey <= shares[before_tiles[0] - 1] <= end_of_survey


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_xyz_and_back(cfa):
    """The matrices undo each other: light below the clip survives."""
    light = torch.rand(1, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(1, 3, 8, 8) * 0.4
    params = shot(cfa=cfa)
    mosaic = torch.empty(1, 1, 8, 8)
    for row in (0, 1):
        for column in (0, 1):
            mosaic[..., row::2, column::2] = light[0, "RGB".index(cfa[2 * row + column]), 0, 0]
    xyz = ciexyz.xyz_of_mosaic(mosaic, params)
    torch.testing.assert_close(ciexyz.mosaic_of_xyz(xyz, params), mosaic, atol=1e-5, rtol=0)
    white = torch.linalg.inv(torch.tensor(ciexyz.XYZ_TO_SRGB)) @ torch.ones(3)
    assert white.tolist() == pytest.approx([0.9505, 1.0, 1.0888], abs=2e-3)  # D65


def test_dropout_follows_the_generator():
    model = fresh("render").train()
    x, draws = torch.rand(1, 1, 32, 32), []
    for seed in (1, 1, 2):
        model.generator = torch.Generator().manual_seed(seed)
        draws.append(model(x, shot()).detach())
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.slow
def test_losses_of_its_own():
    models = {each: fresh(each) for each in ISP_DIRECTIONS}
    raw, srgb = torch.rand(2, 1, 32, 48), torch.rand(2, 3, 32, 48)
    unprocess, render = models.values()
    own = unprocess.own_loss(srgb, raw, shot(2)), render.own_loss(raw, srgb, shot(2))
    xyz = ciexyz.xyz_of_mosaic(raw, shot(2))
    assert own[0].item() == pytest.approx((unprocess.to_xyz(srgb) - xyz).abs().sum().item() / 2, rel=1e-5)
    assert own[1].item() == pytest.approx((render.to_srgb(xyz) - srgb).abs().sum().item() / 2, rel=1e-5)
    joint = unprocess.joint_loss(render, srgb, raw, shot(2))
    back = (render.to_srgb(unprocess.to_xyz(srgb)) - srgb).abs().sum().item() / 2
    assert joint.item() == pytest.approx(back + 1.5 * own[0].item(), rel=1e-5)
