"""Renditions: derivatives, guarantees, fits that find what made the pixels, JSON, and the prior."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paramisp_cli import cameras, color
from paramisp_cli.directions import Direction
from paramisp_cli.rendition import fit, form, prior
from paramisp_cli.rendition.apply import applied

pytestmark = pytest.mark.slow

WAYS = Direction.RENDER, Direction.UNPROCESS
GAINS = np.array([2.0, 1.0, 1.6])
seeds = st.integers(0, 2**32 - 1)


def matrix() -> np.ndarray:
    facts = cameras.find_by_name("Canon EOS 60D")
    assert facts is not None
    assert facts.color_matrix is not None
    return color.cam_to_srgb(facts.color_matrix)


def drawn(way: Direction, seed: int, spread: float = 1.0, shading: bool = False) -> form.Rendition:
    """A rendition drawn from the vague prior, ``spread`` times as wide."""
    p = prior.vague(way)
    rng = np.random.default_rng(seed)
    vector = p.mean + spread * np.linalg.cholesky(p.covariance) @ rng.standard_normal(form.SIZE)
    if not shading:
        vector[form.blocks()["shading"]] = 0
    return form.orderly(form.Rendition(way, matrix(), vector))


def pixels(way: Direction, one: form.Rendition, source: np.ndarray) -> np.ndarray:
    return applied(one, source[None].astype(np.float32))[0]


@pytest.mark.parametrize("way", WAYS)
def test_derivatives(way: Direction) -> None:
    rng = np.random.default_rng(0)
    one = drawn(way, 1, 0.3, shading=True)
    source, rho = rng.random((50, 3)), rng.random(50)
    _, slopes = form.predict(way, one.matrix, one.vector, source, rho)
    step = 1e-6
    for i in range(form.SIZE):
        ends = [
            form.predict(way, one.matrix, one.vector + sign * step * np.eye(form.SIZE)[i], source, rho)[0]
            for sign in (1, -1)
        ]
        assert slopes[:, :, i] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6)


@pytest.mark.parametrize("way", WAYS)
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_black_stays_black_and_white_reaches_the_clip(way: Direction, seed: int) -> None:
    black, white = pixels(way, drawn(way, seed, 2.0), np.array([[0.0, 0, 0], [1, 1, 1]]))
    assert black.tolist() == [0, 0, 0]
    assert white.min() >= 1 - 1e-6  # green clips at 1


@pytest.mark.parametrize("way", WAYS)
@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_neutrals_rise(way: Direction, seed: int) -> None:
    grey = np.linspace(0, 1, 2000)[:, None] * np.ones(3)
    # Rounding of float32 light, times the slope of the curves: a hundredth of a code.
    assert np.diff(pixels(way, drawn(way, seed, 2.0), grey), axis=0).min() >= -4e-5


@given(seed=seeds)
@settings(max_examples=40, deadline=None)
def test_a_channel_rises_with_itself(seed: int) -> None:
    """In linear sRGB for ``render``, encoded for ``unprocess``: where the stages work on channels."""
    rng = np.random.default_rng(seed)
    one = drawn(Direction.RENDER, seed, 3.0)
    terms_at = rng.random((200, 3))
    for channel in range(3):
        line = np.repeat(terms_at[:, None], 101, 1)
        line[..., channel] = np.linspace(0, 1, 101)
        flat = line.reshape(-1, 3)
        turned = (flat + form.chroma_terms(flat) @ one.chroma.T).reshape(line.shape)[..., channel]
        assert np.diff(turned, axis=1).min() >= 0


def test_orderly_leaves_what_is_in_order() -> None:
    vector = prior.vague(Direction.RENDER).mean.copy()
    vector[form.blocks()["chroma"]] = 0.01
    one = form.Rendition(Direction.RENDER, matrix(), vector)
    assert form.orderly(one).vector == pytest.approx(vector, abs=1e-12)


@pytest.mark.parametrize("way", WAYS)
def test_float32_application_is_the_form(way: Direction) -> None:
    rng = np.random.default_rng(2)
    source, rho = 0.9 * rng.random((4000, 3)), rng.random(4000)
    for seed in range(5):
        one = drawn(way, seed, shading=True)
        exact, _ = form.predict(way, one.matrix, one.vector, source, rho)
        got = applied(one, source[None].astype(np.float32), rho[None])[0]
        if way == Direction.RENDER:  # below the lift to white
            light = source / form.illumination(one.vector, rho) @ one.matrix.T @ one.correction.T
            below = light.max(-1) < 0.8
            assert got[below] == pytest.approx(np.clip(exact, 0, 1)[below], abs=5e-4)
        else:
            assert got == pytest.approx(np.maximum(exact, 0), abs=1e-3)


def test_bands_do_not_matter() -> None:
    rng = np.random.default_rng(3)
    one = drawn(Direction.RENDER, 3)
    source = rng.random((300, 400, 3), np.float32)
    whole = applied(one, source)
    assert np.abs(whole[:7] - applied(one, source[:7])).max() < 1e-6


@pytest.mark.parametrize("way", WAYS)
def test_json(way: Direction) -> None:
    one = drawn(way, 4)
    again = form.Rendition.of(json.loads(json.dumps(one.record())))
    assert again.direction == way
    assert again.vector == pytest.approx(one.vector, rel=1e-6)


@pytest.mark.parametrize("way", WAYS)
def test_a_fit_finds_what_made_the_pixels(way: Direction) -> None:
    rng = np.random.default_rng(5)
    truth = drawn(way, 5, 0.7)
    source = 0.8 * rng.random((60_000, 3)) ** 2
    made = form.predict(way, truth.matrix, truth.vector, source, np.zeros(len(source)))[0]
    made = np.clip(made, 0, 1) if way == Direction.RENDER else np.maximum(made, 0)
    sides = (source, made) if way == Direction.RENDER else (made, source)
    gathered = fit.cells(way, *sides, matrix(), GAINS)
    fitted = fit.fit([gathered], prior.vague(way), evidence=3000)
    got = pixels(way, fitted.rendition, source)
    assert np.sqrt(((got - made) ** 2).mean()) < 0.012
    assert fitted.covariance == pytest.approx(fitted.covariance.T, abs=1e-9)
    assert np.linalg.eigvalsh(fitted.covariance).min() > 0


def test_dark_pixels_tell_less_of_bright_ones() -> None:
    rng = np.random.default_rng(6)
    way, truth = Direction.RENDER, drawn(Direction.RENDER, 6, 0.5)
    source = rng.random((30_000, 3)) ** 2
    made = np.clip(form.predict(way, truth.matrix, truth.vector, source, np.zeros(len(source)))[0], 0, 1)
    dark = made.max(-1) < 0.4
    bright = source[made.min(-1) > 0.7][:200]
    p = prior.vague(way)
    from_dark = fit.fit([fit.cells(way, source[dark], made[dark], matrix(), GAINS)], p)
    from_all = fit.fit([fit.cells(way, source, made, matrix(), GAINS)], p)
    assert np.median(from_dark.spread(bright)) > 2 * np.median(from_all.spread(bright))
    few = source[dark][:200]
    assert np.median(from_dark.spread(few)) < 0.5 * np.median(from_dark.spread(bright))


def test_a_fit_to_almost_nothing_is_the_prior() -> None:
    way, p = Direction.UNPROCESS, prior.vague(Direction.UNPROCESS)
    gathered = fit.cells(way, np.full((10, 3), 0.1), np.full((10, 3), 0.3), matrix(), GAINS)
    fitted = fit.fit([gathered], p, evidence=1e-6)
    expected = form.orderly(form.Rendition(way, matrix(), p.mean))
    assert fitted.rendition.vector == pytest.approx(expected.vector, abs=1e-3)


def test_refusals() -> None:
    nothing = np.zeros((4, 3))
    with pytest.raises(ValueError, match="no pixel"):
        fit.cells(Direction.RENDER, nothing, nothing, matrix(), GAINS, weights=np.zeros(4))
    with pytest.raises(ValueError, match="no photograph"):
        fit.fit([], prior.vague(Direction.RENDER))
    one = fit.cells(Direction.RENDER, nothing, nothing, matrix(), GAINS)
    with pytest.raises(ValueError, match="unprocess"):
        fit.fit([one], prior.vague(Direction.UNPROCESS))
    with pytest.raises(ValueError, match="not finite"):
        form.Rendition(Direction.RENDER, matrix(), np.full(form.SIZE, np.nan))


def test_the_estimated_prior_is_where_the_photographs_are() -> None:
    way, start = Direction.RENDER, prior.vague(Direction.RENDER)
    rng = np.random.default_rng(7)
    centre = start.mean + 0.3 * np.linalg.cholesky(start.covariance) @ rng.standard_normal(form.SIZE)
    likelihoods = []
    for _ in range(30):
        place = centre + 0.05 * np.linalg.cholesky(start.covariance) @ rng.standard_normal(form.SIZE)
        precision = 1e4 * np.linalg.inv(start.covariance)
        likelihoods.append((precision, precision @ place))
    got = prior.estimate(start, likelihoods, [1.0] * 30)
    away = np.abs(got.mean - centre) / np.sqrt(np.diag(start.covariance))
    away[form.blocks()["shading"]] = 0
    assert away.max() < 0.05
    assert (np.diag(got.covariance) <= np.diag(start.covariance) + 1e-12).all()
    again = prior.Prior.of(json.loads(json.dumps(got.record())))
    assert again.direction == way
    assert np.linalg.eigvalsh(again.covariance).min() > 0


@pytest.mark.parametrize("way", WAYS)
def test_the_shipped_prior(way: Direction) -> None:
    p = prior.shipped(way)
    assert p.direction == way
    assert np.linalg.eigvalsh(p.covariance).min() > 0
    one = form.orderly(form.Rendition(way, matrix(), p.mean))
    grey = pixels(way, one, np.linspace(0, 1, 101)[:, None] * np.ones(3))
    assert np.ptp(grey, 1).max() < 0.1  # about neutral
    assert grey[0].max() == 0
    assert grey[-1].min() >= 1 - 1e-6
