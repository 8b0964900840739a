"""Simulated camera shake: the length asked for, no light lost, and the sharp view in the middle of the path."""

import numpy as np
import pytest
import torch

from paramisp_cli.training.simulated import scenes, shake, shaken, shots

SIZE = (64, 96)


def flat(value=1.0, lamp=None, size=SIZE, reach=20):
    """A plain picture for ``blurred_and_sharp``, with a lamp of 3×3 px in the middle."""
    height, width = (shake.FINE * (side + 2 * reach) for side in size)
    still = torch.full((3, height, width), value)
    if lamp is not None:
        still[:, height // 2 - 3 : height // 2 + 3, width // 2 - 3 : width // 2 + 3] = lamp
    return still


def straight(pixels, focal=500.0, count=33):
    """A turn to the right at a constant speed."""
    yaw = np.linspace(-0.5, 0.5, count) * pixels / focal
    return shake.Shake(np.stack([yaw, 0 * yaw, 0 * yaw], 1), focal, SIZE)


@pytest.mark.parametrize("length", [0.3, 3.0, 12.0, 25.0])
def test_a_drawn_shake_has_its_length(length):
    for seed in range(5):
        path = shake.draw(length, 400.0, SIZE, np.random.default_rng(seed))
        assert path.length == pytest.approx(length, rel=0.02)
        steps = np.diff(path.angles[:, :2], axis=0) * path.focal
        assert np.linalg.norm(steps, axis=1).max() < max(0.5, 4 * length / len(path.angles))  # smooth: no jumps


def test_the_same_seed_draws_the_same_shake():
    one, two, three = (shake.draw(9.0, 400.0, SIZE, np.random.default_rng(seed)).angles for seed in (1, 1, 2))
    assert np.array_equal(one, two)
    assert not np.array_equal(one, three)


def test_no_light_is_lost():
    path = shake.draw(14.0, 300.0, SIZE, np.random.default_rng(3))
    blurred, sharp = shake.blurred_and_sharp(flat(0.1, lamp=5.0, reach=path.reach), path)
    assert blurred.shape == sharp.shape == (3, *SIZE)
    assert float(blurred.sum()) == pytest.approx(float(sharp.sum()), rel=2e-3)
    assert float(blurred.max()) < 0.5 * float(sharp.max())


def test_a_still_camera_gives_the_view_itself():
    path = shake.Shake(np.zeros((9, 3)), 400.0, SIZE)
    still = torch.rand(3, *(shake.FINE * (side + 2 * path.reach) for side in SIZE))
    blurred, sharp = shake.blurred_and_sharp(still, path)
    inner = shake.FINE * path.reach
    view = torch.nn.functional.avg_pool2d(still[None, :, inner:-inner, inner:-inner], shake.FINE)[0]
    torch.testing.assert_close(sharp, view, atol=2e-4, rtol=0)
    torch.testing.assert_close(blurred, sharp, atol=1e-6, rtol=0)


def test_a_bright_lamp_leaves_a_white_streak_and_the_sharp_view_lies_in_its_middle():
    path = straight(12.0)
    blurred, sharp = shake.blurred_and_sharp(flat(0.0, lamp=30.0, reach=path.reach), path)
    row = SIZE[0] // 2
    streak = blurred[1, row].clamp(max=1)
    assert (streak == 1).sum() in range(12, 17)  # 12 px of motion and the lamp's 3, at the sensor's white
    columns = torch.arange(SIZE[1]) + 0.5
    middle = (blurred[1, row] * columns).sum() / blurred[1, row].sum()
    assert float(middle) == pytest.approx(float((sharp[1, row] * columns).sum() / sharp[1, row].sum()), abs=0.3)


def test_a_turn_of_a_panorama_is_a_homography():
    """A view of a panorama from a turned camera is the first view through the homography of the turn."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 256), torch.linspace(0, 1, 512), indexing="ij")
    radiance = torch.stack([1 + torch.sin(8 * torch.pi * x), y, 1 + torch.cos(6 * torch.pi * x) * y])
    scene = scenes.Scene(torch.cat([radiance[..., -1:], radiance, radiance[..., :1]], 2), True)
    focal = scenes.pixels_per_radian(scene)
    path = shake.Shake(np.array([[0.02, -0.03, 0.04]] * 9), focal, SIZE)
    reach = path.reach
    whole = tuple(shake.FINE * (side + 2 * reach) for side in SIZE)
    base = shake.rotation(0.7, 0.1, 0.0)
    through = shake.blurred_and_sharp(scenes.seen(scene, whole, shake.FINE * focal, base), path)[0]
    fine = tuple(shake.FINE * side for side in SIZE)
    direct = scenes.seen(scene, fine, shake.FINE * focal, base @ shake.rotation(*path.angles[0]))
    direct = torch.nn.functional.avg_pool2d(direct[None], shake.FINE)[0]
    assert float((through - direct).abs().max()) < 0.01
    assert float((direct - scenes.seen(scene, SIZE, focal, base)).abs().max()) > 0.1


@pytest.mark.slow
def test_a_simulated_pair():
    radiance = torch.rand(3, 260, 300, generator=torch.Generator().manual_seed(0)) ** 3
    scene = scenes.Scene(torch.nn.functional.avg_pool2d(radiance, 3, 1, 1), False)
    facts = shots.pick_cameras(["Nikon D90"])[0]
    one, two = (shaken.take(scene, facts, 96, 8.0, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(one.codes, two.codes)
    blurred, sharp = one.mosaics()
    assert blurred.shape == sharp.shape == (96, 96)
    assert one.canonical.cfa == "RGGB"
    assert one.length == pytest.approx(8, rel=0.02)
    assert 1e-4 < one.noise < 0.1
    assert blurred.mean() == pytest.approx(sharp.mean(), rel=0.05)
    assert np.diff(blurred[::2, ::2]).std() < 0.7 * np.diff(sharp[::2, ::2]).std()
    pictures = one.pictures(seed=1)
    again = shaken.unprocessed(pictures[1], one.canonical)
    assert again.shape == sharp.shape
    assert np.corrcoef(again.ravel(), sharp.ravel())[0, 1] > 0.9


def test_a_photograph_too_small_is_refused():
    scene = scenes.Scene(torch.rand(3, 50, 50), False)
    with pytest.raises(ValueError, match="50×50"):
        shaken.take(scene, shots.pick_cameras(["Nikon D90"])[0], 64, 5.0, np.random.default_rng(0))
