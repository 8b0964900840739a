"""The training against shake: crops whose CFA begins with red, a loss that is 0 for equals, exact resuming."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from paramisp_cli import mosaic
from paramisp_cli.models.deblur import Deblur, root
from paramisp_cli.training import restoring
from paramisp_cli.training.simulated import scenes, shots
from paramisp_cli.types import CanonicalParams

LEVELS = CanonicalParams("RGGB", 0, 1, [0.5, 1, 0.7], np.eye(3))
SMALL = restoring.Schedule(core_minutes=0.05, batch=2, crop=48, bf16=False, warmup=2)


def pair(seed=0, size=64, noise=0.01):
    rng = np.random.default_rng(seed)
    light = rng.random((size // 8, size // 8, 3)).repeat(8, 0).repeat(8, 1).astype(np.float32) * 0.4
    sharp = mosaic.sampled(light, "RGGB")
    noisy = sharp + noise * rng.standard_normal(sharp.shape, np.float32)
    return restoring.Pair(noisy.astype(np.float16), sharp.astype(np.float16), noise, 3.0, LEVELS)


def test_every_crop_begins_with_red():
    """A mosaic whose colours are known stays one after mirroring and transposing."""
    colours = np.broadcast_to(np.float32([0.1, 0.2, 0.4]), (64, 64, 3))
    flat = mosaic.sampled(colours, "RGGB").astype(np.float16)
    rng = np.random.default_rng(0)
    known = restoring.Pair(flat, flat, 0.0, 0.0, LEVELS)
    blurred, sharp, params = restoring.batch_of([known] * 40, 48, rng)
    assert blurred.shape == sharp.shape == (40, 1, 48, 48)
    assert len(params) == 40
    want = mosaic.sampled(colours[:48, :48], "RGGB")
    np.testing.assert_allclose(blurred.numpy(), np.broadcast_to(want, blurred.shape), rtol=1e-3)


def test_both_sides_are_cut_alike():
    own = pair(noise=0.0)
    blurred, sharp, _ = restoring.batch_of([own] * 20, 48, np.random.default_rng(1))
    assert torch.equal(blurred, sharp)
    assert len({float(each.sum()) for each in blurred}) > 10  # other places, mirrored


def test_the_loss_is_zero_for_equals_and_counts_clipped_light_less():
    model = Deblur().eval()
    same, _, params = restoring.batch_of([pair(noise=0.0)], 48, np.random.default_rng(0))

    def loss(blurred, sharp, schedule=SMALL):
        return float(restoring.loss_of(model, blurred, sharp, params, schedule).detach())

    assert loss(same, same) == pytest.approx(0, abs=1e-6)
    dark, bright = same.clone(), torch.ones_like(same)
    off = dark.clone()
    off[..., 10:20, 10:20] += 0.05
    assert loss(off, dark) > 1e-4
    plain = replace(SMALL, saturated=1.0)
    assert loss(dark, bright) == pytest.approx(0.1 * loss(dark, bright, plain), rel=1e-3)
    assert root(same, params).shape == (1, 4, 24, 24)


@pytest.mark.slow
def test_training_learns_and_resumes_exactly(tmp_path):
    pairs = [pair(seed, noise=0.03) for seed in range(4)]

    def steps(training, count):
        return [training._one(pairs) for _ in range(count)]

    whole = restoring.Training(tmp_path / "a", replace(SMALL, core_minutes=1e9))
    losses = steps(whole, 30)
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    first = restoring.Training(tmp_path / "b", replace(SMALL, core_minutes=1e9))
    steps(first, 12)
    first.save()
    first.lock.release()
    again = restoring.Training(tmp_path / "b", replace(SMALL, core_minutes=1e9))
    assert again.step == 12
    assert steps(again, 18) == pytest.approx(losses[12:], rel=1e-6)
    averaged = again.averaged()
    assert not averaged.training
    assert not torch.equal(averaged.tail.weight, again.model.tail.weight)


@pytest.mark.slow
def test_a_pair_follows_from_its_number():
    radiance = torch.rand(3, 300, 320, generator=torch.Generator().manual_seed(0))
    sources = [scenes.Scene(torch.nn.functional.avg_pool2d(radiance, 3, 1, 1), False)]
    cameras = shots.pick_cameras(["Nikon D90", "Canon EOS 60D"])
    made = [restoring.make_pair(number, sources, cameras, 96, restoring.Schedule()) for number in (0, 1, 2, 3, 0)]
    assert np.array_equal(made[0].blurred, made[4].blurred)
    assert not np.array_equal(made[0].blurred, made[1].blurred)
    pictures = replace(restoring.Schedule(), pictures=1.0)
    many = [restoring.make_pair(number, sources, cameras, 96, pictures) for number in range(12)]
    assert all(each.noise == 0 for each in many)  # mosaics made of pictures
    still = [each for each in many if each.length < 0.7]
    assert still
    assert all(np.array_equal(each.blurred, each.sharp) for each in still)
