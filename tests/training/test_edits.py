"""Errors of a RAW after edits: exact where they can be worked out by hand, and as large as the edit makes them."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pytest

from paramisp_cli import color
from paramisp_cli.training.measure import edits, scores
from paramisp_cli.types import CFA_PATTERNS, CanonicalParams

MATRIX = np.array([[0.9, -0.3, -0.1], [-0.5, 1.3, 0.2], [-0.1, 0.2, 0.6]])


def params(cfa: str = "RGGB", neutral: tuple[float, float, float] = (1, 1, 1)) -> CanonicalParams:
    return CanonicalParams(cfa, np.zeros((2, 2)), 65535, np.array(neutral), MATRIX)


def noise(seed: int = 0, size: int = 64) -> np.ndarray:
    return np.random.default_rng(seed).random((size, size)).astype(np.float32)


def test_equal_files_have_no_error() -> None:
    errors = edits.compare(noise(), noise(), params("GBRG", (0.5, 1, 0.6)))
    assert [each.edit for each in errors] == [each.name for each in edits.EDITS]
    assert all(each.psnr == np.inf and each.delta_e == 0 for each in errors)
    assert json.loads(json.dumps([each.record() for each in errors]))[0] == {
        "edit": "as shot",
        "psnr": None,
        "delta_e": 0,
    }


def test_greys_worked_out_by_hand() -> None:
    """0.25 encodes to 0.5371 and 0.5 to 0.7354; the tone curve makes 0.5463 and 0.7812 of them."""
    errors = edits.compare(np.full((8, 8), 0.5), np.full((8, 8), 0.25), params())
    by_name = {each.edit: each for each in errors}
    assert by_name["as shot"].psnr == pytest.approx(12.585, abs=0.002)  # -20 lg 0.2348
    assert by_name["+1 EV"].psnr == pytest.approx(13.197, abs=0.002)  # 0.7812 beside 1
    assert by_name["+2 EV"].psnr == np.inf  # both are white
    # L* 57.94 and 80.36: 22.4 through S_L = 1.280, without a difference of chroma or hue.
    assert by_name["as shot"].delta_e == pytest.approx(17.5, abs=0.1)


def test_a_clipped_highlight_shows_only_when_darkened() -> None:
    true, made = np.full((8, 8), 1.0), np.full((8, 8), 0.9)
    canonical = params(neutral=(0.5, 0.5, 0.5))  # gains of 1: a neutral's scale has no meaning
    by_name = {each.edit: each for each in edits.compare(made, true, canonical)}
    assert by_name["+1 EV"].psnr == np.inf
    assert by_name["−1 EV"].psnr < by_name["as shot"].psnr + 1
    assert by_name["−1 EV"].delta_e > 1


def test_errors_of_shadows_grow_with_the_exposure() -> None:
    true = noise() * 0.01
    errors = {each.edit: each for each in edits.compare(true + np.float32(0.002), true, params())}
    inorder = [errors[name] for name in ("−1 EV", "as shot", "+1 EV", "+2 EV")]
    assert all(one.psnr > two.psnr and one.delta_e < two.delta_e for one, two in pairwise(inorder))


def test_edits_do_as_their_names_say() -> None:
    canonical = params(neutral=(0.5, 1, 0.7))
    camera = np.linspace(0.02, 0.2, 50)[:, None] * canonical.as_shot_neutral
    shown = {edit.name: edits.developed(camera, edit, canonical) for edit in edits.EDITS}
    grey = shown["as shot"]
    np.testing.assert_allclose(grey, grey[:, :1].repeat(3, 1), atol=1e-9)
    assert (np.diff(grey[:, 0]) > 0).all()
    for darker, lighter in pairwise(("−1 EV", "as shot", "+1 EV", "+2 EV")):
        assert (shown[darker] < shown[lighter]).all()
    lab = {name: color.srgb_to_lab(color.srgb_decode(picture)) for name, picture in shown.items()}
    assert (lab["warmer"][:, 2] > 1).all()
    assert (lab["cooler"][:, 2] < -1).all()
    dark = grey < 0.5
    assert (shown["contrast"][dark] < grey[dark]).all()
    assert (shown["contrast"][~dark] > grey[~dark]).all()


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_no_phase_of_the_mosaic_counts(cfa: str) -> None:
    """One colour under every CFA: the errors are those of the same greys."""
    colours = {"R": 0.1, "G": 0.3, "B": 0.2}
    true = np.tile(np.array([colours[c] for c in cfa]).reshape(2, 2), (8, 8))
    errors = edits.compare(true * 1.1, true, params(cfa))
    wanted = edits.compare(
        np.tile([[0.11, 0.33], [0.33, 0.22]], (8, 8)), np.tile([[0.1, 0.3], [0.3, 0.2]], (8, 8)), params()
    )
    for one, two in zip(errors, wanted, strict=True):
        assert (one.psnr, one.delta_e) == pytest.approx((two.psnr, two.delta_e))


@pytest.mark.slow
def test_a_sample_stands_for_a_large_file() -> None:
    true = noise(1, 1600)
    made = np.clip(true + 0.02 * noise(2, 1600), 0, 1)
    sampled = edits.compare(made, true, params())
    whole = edits.compare(made[:900, :900], true[:900, :900], params())
    for one, two in zip(sampled, whole, strict=True):
        assert one.psnr == pytest.approx(two.psnr, abs=0.1)
        assert one.delta_e == pytest.approx(two.delta_e, rel=0.02)


def test_a_table_of_edits_averages_photographs() -> None:
    def one(photo: str, psnr: float) -> scores.Score:
        errors = tuple(edits.EditError(edit.name, psnr, 1.0) for edit in edits.EDITS)
        return scores.Score(photo, "Cam", "unprocess", "m", 40, 40, 0.9, None, edits=errors)

    text = scores.tables([one("a", 30), one("b", 40)])
    assert "\n| model | as shot | +2 EV |" in text
    assert f"\n| m |{' 35.00 / 1.00 |' * len(edits.EDITS)}\n" in text
    assert one("a", 30).record()["edits"] == [{"edit": edit.name, "psnr": 30, "delta_e": 1} for edit in edits.EDITS]
