"""Sites of a mosaic: planes and back, superpixels and phase, for all four CFAs; compared with the torch operations."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from paramisp_cli import isp, mosaic
from paramisp_cli.types import CFA_PATTERNS

RNG = np.random.default_rng(0)
CODES = RNG.integers(0, 65536, (12, 16)).astype(np.uint16)
BLACK = np.array([[100.0, 200.0], [300.0, 400.0]])


@pytest.mark.parametrize("shape", [(2, 2), (12, 16), (4, 6, 3)])
def test_planes_and_back(shape: tuple[int, ...]) -> None:
    image = RNG.random(shape).astype(np.float32)
    planes = mosaic.sites(image)
    assert [plane.shape[:2] for plane in planes] == [(shape[0] // 2, shape[1] // 2)] * 4
    assert all(np.shares_memory(plane, image) for plane in planes)
    assert (mosaic.joined(planes) == image).all()
    assert mosaic.joined(planes).dtype == image.dtype


def test_planes_are_those_of_pixel_unshuffle() -> None:
    values = RNG.random((12, 16)).astype(np.float32)
    packed = torch.nn.functional.pixel_unshuffle(torch.from_numpy(values)[None, None], 2)[0].numpy()
    assert (np.stack(mosaic.sites(values)) == packed).all()


@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_step_skips_whole_sites(step: int) -> None:
    for plane, thinned in zip(mosaic.sites(CODES), mosaic.sites(CODES, step), strict=True):
        assert (thinned == plane[::step, ::step]).all()


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_superpixels_are_the_colours_that_the_filters_pass(cfa: str) -> None:
    rgb = RNG.random((6, 8, 3)).astype(np.float32)
    fine = rgb.repeat(2, 0).repeat(2, 1)
    seen = isp.mosaic(torch.from_numpy(fine.transpose(2, 0, 1).copy())[None], cfa)[0, 0].numpy()
    assert (mosaic.superpixels(mosaic.sites(seen), cfa) == rgb).all()
    seen[cfa.index("G") // 2 :: 2, cfa.index("G") % 2 :: 2] = 0  # one of the two greens
    assert (mosaic.superpixels(mosaic.sites(seen), cfa)[..., 1] == rgb[..., 1] / 2).all()


@pytest.mark.parametrize("rows", [0, 1, 2, 3])
@pytest.mark.parametrize("columns", [0, 1])
@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_shift_is_that_of_the_cut_mosaic(cfa: str, rows: int, columns: int) -> None:
    letters = mosaic.repeated(mosaic.pattern(cfa), (8, 8))
    cut = mosaic.named(letters[rows : rows + 2, columns : columns + 2])
    assert mosaic.named(mosaic.shifted(mosaic.pattern(cfa), rows, columns)) == cut
    levels = mosaic.repeated(BLACK, (8, 8))[rows : rows + 2, columns : columns + 2]
    assert (mosaic.shifted(BLACK, rows, columns) == levels).all()


def test_levels_by_site() -> None:
    wanted = isp.normalise(torch.from_numpy(CODES.astype(np.float64))[None, None], torch.from_numpy(BLACK), 60000)
    for planes in (mosaic.sites(mosaic.linear(CODES, BLACK, 60000)), mosaic.linear_sites(CODES, BLACK, 60000)):
        assert mosaic.joined(planes) == pytest.approx(wanted[0, 0].numpy(), abs=1e-6)
    assert mosaic.linear(CODES, BLACK, 60000).dtype == np.float32
    floats = RNG.random((4, 4)).astype(np.float32)
    assert (mosaic.joined(mosaic.linear_sites(floats, BLACK, 60000)) == floats).all()
