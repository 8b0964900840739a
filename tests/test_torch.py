"""paramisp.torch: batches of pictures to noisy RAW, and back."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import cameras, drawn, isp
from paramisp_cli.errors import ConfigError
from paramisp_cli.torch import AddNoise, Render, Shots, Synthesize, Unprocess, augment, chosen, pack, unpack
from paramisp_cli.types import CFA_PATTERNS

COMPLETE = [facts.name for facts in chosen(None)]
TWENTY = COMPLETE[:: len(COMPLETE) // 20][:20]


def pictures(count: int = 2, size: int = 64) -> torch.Tensor:
    ramp = torch.linspace(0.1, 0.9, size)
    batch = torch.stack([ramp.expand(size, -1), ramp[:, None].expand(-1, size), torch.full((size, size), 0.4)])
    return (batch.expand(count, -1, -1, -1) * 255).round().to(torch.uint8)


def seeded(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
def test_packed_planes_are_red_green_green_blue(cfa):
    colours = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 6, 8).clone()
    colours[:, :, ::2] += 0.01  # the even rows differ
    mosaic = isp.mosaic(colours, cfa)
    packed = pack(mosaic, cfa)
    assert packed.shape == (1, 4, 3, 4)
    red_row = cfa.index("R") // 2 == 0  # whether red's rows are the even ones
    expected = [0.1, 0.5, 0.5, 0.9]
    even = [red_row, red_row, not red_row, not red_row]
    for plane, value, is_even in zip(packed[0], expected, even, strict=True):
        torch.testing.assert_close(plane, torch.full((3, 4), value + 0.01 * is_even))
    torch.testing.assert_close(unpack(packed, cfa), mosaic, rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", TWENTY)
@pytest.mark.parametrize("shot", ["poisson", "gaussian"])
def test_variance_follows_the_model(name, shot):
    """On flat fields: within 2 % of the table's model, for 20 cameras at five speeds each."""
    facts = cameras.find_by_name(name)
    low, high = drawn.speeds(facts)
    for iso in np.geomspace(low, high, 5):
        shots = Shots.of(name, iso=float(iso))
        levels = torch.tensor([0.02, 0.1, 0.4, 0.7])
        flat = levels.view(4, 1, 1, 1).expand(4, 4, 220, 220)
        noisy, stated = AddNoise(shot=shot, clip="none")(flat, Shots.cat([shots] * 4), seeded())
        green = (noisy - flat)[:, 1:3].flatten(1)
        scale, offset = facts.noise_profile(iso)[1]
        span = shots.canonical[0].white_level - shots.canonical[0].black_level.mean()
        expected = scale * levels + offset + 1 / (12 * span**2)
        error = (green.var(1) + green.mean(1) ** 2) / expected
        # Rounding of a noise below a raw unit is not noise of 1/12.
        fair = expected.sqrt() * span > 0.5
        # 97 000 samples: 2 % are four standard deviations
        assert ((error - 1).abs()[fair] < 0.02).all(), (name, iso, error)
        torch.testing.assert_close(stated[:, 1, 0, 0], expected.float(), rtol=1e-4, atol=0)


def test_the_mean_is_the_light():
    shots = Shots.of("Nikon D90", iso=1600)
    flat = torch.full((1, 1, 512, 512), 0.25)
    noisy, _ = AddNoise()(flat, shots, seeded())
    assert abs(float(noisy.mean()) - 0.25) < 3 * float(noisy.std()) / 512


def test_mosaic_and_packed_have_the_same_noise():
    shots = Shots.cat([Shots.of("Canon EOS 60D", iso=3200, cfa="GBRG")] * 2)
    clean = Unprocess("parametric", "mosaic")(pictures(), shots)
    deviations = [AddNoise(row=0.5)(raw, shots, seeded()).variance for raw in (clean, pack(clean, "GBRG"))]
    torch.testing.assert_close(pack(deviations[0], "GBRG"), deviations[1])


def test_rows_share_their_noise():
    shots = Shots.of("Nikon D90", iso=6400)
    dark = torch.zeros(1, 1, 256, 256)
    plain, rows = (AddNoise(row=row, clip="none")(dark, shots, seeded()).noisy for row in (0.0, 1.0))
    offset = float(shots.noise[0, 1, 1])
    assert float(plain.mean(3).var()) < offset / 100
    assert 0.7 < float(rows.mean(3).var()) / offset < 1.4


def test_clipping_and_rounding():
    shots = Shots.of("Nikon D90", iso=6400)
    canonical = shots.canonical[0]
    dark = torch.zeros(1, 4, 64, 64)
    assert float(AddNoise(clip="black")(dark, shots, seeded()).noisy.min()) == 0
    noisy = AddNoise()(dark, shots, seeded()).noisy
    span = canonical.white_level - float(canonical.black_level.mean())
    assert noisy.min() <= 0  # the D90 has no black level of its own to fall below
    codes = noisy * span
    torch.testing.assert_close(codes, codes.round(), rtol=0, atol=1e-3)
    canon = Shots.of("Canon EOS 60D", iso=6400)
    below = AddNoise()(dark, canon, seeded()).noisy
    assert below.min() < 0
    assert AddNoise()(torch.ones(1, 4, 64, 64), canon, seeded()).noisy.max() == 1


def test_noise_of_the_picture_is_not_added_again():
    """A clean RAW that has half of the variance already gets the other half."""
    shots = Shots.of("Canon EOS 60D", iso=3200)
    flat = torch.full((1, 4, 256, 256), 0.2)
    scale, offset = (shots.noise[0, 1, each] for each in (0, 1))
    half = flat + ((scale * 0.2 + offset) / 2).sqrt() * torch.randn(flat.shape, generator=seeded(2))
    for raw in (half, unpack(half)):
        noisy, stated = AddNoise(subtract=True, clip="none")(raw, shots, seeded())
        measured = pack(noisy)[:, 1:3].var() if raw.shape[1] == 1 else noisy[:, 1:3].var()
        assert 0.9 < float(measured / (scale * 0.2 + offset)) < 1.1
        assert 0.9 < float(stated.mean() / (scale * 0.2 + offset)) < 1.1


def test_a_render_undoes_the_parametric_unprocess():
    shots = Shots.of("Canon EOS 60D", iso=200)
    batch = torch.full((1, 3, 64, 64), 0.5)
    batch[:, 0] = 0.4
    raw = Unprocess("parametric")(batch, shots)
    torch.testing.assert_close(Render("parametric")(raw, shots), batch, rtol=0, atol=2e-3)
    darker = Shots.of("Canon EOS 60D", iso=200, headroom=2)
    raw_dark = Unprocess("parametric")(batch, darker)
    torch.testing.assert_close(raw_dark, raw / 4)
    torch.testing.assert_close(Render("parametric")(raw_dark, darker), batch, rtol=0, atol=2e-3)
    torch.testing.assert_close(Unprocess("parametric")(batch, Shots.of("Canon EOS 60D", iso=200, exposure=-1)), raw / 2)


def test_eight_bits_by_table_equal_floats():
    shots = Shots.cat([Shots.of("Canon EOS 60D", iso=200, cfa="GRBG"), Shots.of("Nikon D90", iso=800, cfa="GRBG")])
    codes = torch.randint(0, 256, (2, 3, 48, 64), generator=seeded(), dtype=torch.uint8)
    module = Unprocess("parametric", "mosaic")
    torch.testing.assert_close(module(codes, shots), module(codes.float() / 255, shots), rtol=0, atol=2e-5)


def test_the_result_is_that_of_the_library():
    """A batch of one gives the mosaic of paramisp.unprocess, before rounding."""
    codes = torch.randint(60, 200, (1, 3, 64, 64), generator=seeded(), dtype=torch.uint8)
    shots = Shots.of("Nikon D90", iso=200, cfa="GBRG")
    canonical = shots.canonical[0]
    settings = paramisp.Settings(model="parametric", camera="Nikon D90", iso=200, cfa="GBRG", bit_depth=32)
    raw = paramisp.unprocess(codes[0].permute(1, 2, 0).numpy(), settings)
    own = Unprocess("parametric", "mosaic")(codes, shots)[0, 0].numpy()
    gains = raw.canonical.wb_gains / canonical.wb_gains
    assert np.abs(gains - 1).max() < 1e-6
    np.testing.assert_allclose(own, raw.mosaic, atol=1e-6)


@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_the_fast_network_is_the_same_in_both_engines(cfa, monkeypatch):
    shots = Shots.cat([Shots.of("Canon EOS 60D", iso=200, cfa=cfa), Shots.of("Nikon D90", iso=800, cfa=cfa)])
    batch = pictures(2, 128)
    unprocess, render = Unprocess("generic", "mosaic"), Render("generic")
    found = []
    for engine in ("torch", ""):
        monkeypatch.setenv("PARAMISP_BACKEND", engine)
        raw = unprocess(batch, shots)
        found.append((raw, render(raw, shots)))
    assert unprocess.model.name == "fast"
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-4)


def test_gradients_reach_the_pixels_and_not_the_weights():
    shots = Shots.of("Canon EOS 60D", iso=200)
    batch = torch.rand(1, 3, 32, 32, generator=seeded(), requires_grad=True)
    unprocess, render = Unprocess("parametric"), Render("parametric")
    raw = unprocess(batch, shots)
    noisy, _ = AddNoise(clip="none")(raw, shots, seeded())
    render(noisy, shots).mean().backward()
    assert batch.grad is not None
    assert batch.grad.abs().sum() > 0
    assert torch.isfinite(batch.grad).all()


def test_poisson_noise_does_not_depend_on_the_threads():
    """A batch of several blocks has the same noise with one thread and with two, and another noise in each block."""
    shots = Shots.cat([Shots.of("Nikon D90", iso=1600)] * 2)
    clean, made, before = torch.full((2, 1, 400, 400), 0.2), [], torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            made.append(AddNoise(read=False, quantise=False)(clean, shots, torch.Generator().manual_seed(3)))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(made[0].noisy, made[1].noisy)
    assert not torch.equal(made[0].noisy[0], made[0].noisy[1])
    difference = made[0].noisy - clean
    assert float(difference.mean()) == pytest.approx(0, abs=2e-4)
    assert float(difference.var() / made[0].variance.mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("layout", ["packed", "mosaic"])
def test_the_same_seed_gives_the_same_bytes(layout):
    make = Synthesize("parametric", layout, iso=(100, 6400), exposure=(-3, 0), headroom=(0, 1))
    first, again = (make(pictures(3), generator=seeded(7)) for _ in range(2))
    other = make(pictures(3), generator=seeded(8))
    for name, value in first.items():
        assert torch.equal(value, again[name]), name
    assert not torch.equal(first["noisy"], other["noisy"])
    assert (first["exposure"] <= 0).all()
    assert first["clean"].shape == ((3, 4, 32, 32) if layout == "packed" else (3, 1, 64, 64))
    assert ((first["iso"] >= 90) & (first["iso"] <= 7000)).all()


class Folder(torch.utils.data.Dataset):
    def __init__(self, make: Synthesize) -> None:
        self.make = make

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return self.make(pictures()[0])


@pytest.mark.slow
def test_a_loader_with_workers_collates():
    loader = torch.utils.data.DataLoader(
        Folder(Synthesize("parametric", iso=(100, 1600))),
        batch_size=2,
        num_workers=2,
        generator=seeded(),
        multiprocessing_context="spawn",
    )
    batches = list(loader)
    assert [tuple(batch["noisy"].shape) for batch in batches] == [(2, 4, 32, 32)] * 2
    assert batches[0]["wb_gains"].shape == (2, 3)
    assert not torch.equal(batches[0]["noisy"][0], batches[0]["noisy"][1])  # each sample has noise of its own


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")  # the cache is of constants
@pytest.mark.slow
def test_compiled_modules_give_the_same():
    """Dynamo traces the modules; "eager" runs them without a C++ compiler."""
    shots = Shots.of("Canon EOS 60D", iso=800)
    batch = torch.rand(1, 3, 32, 32, generator=seeded())
    unprocess, noise, render = Unprocess("parametric"), AddNoise(shot="gaussian"), Render("parametric")
    raw = unprocess(batch, shots)
    torch.testing.assert_close(torch.compile(unprocess, backend="eager")(batch, shots), raw)
    torch.testing.assert_close(torch.compile(render, backend="eager")(raw, shots), render(raw, shots))
    torch.manual_seed(3)
    plain = noise(raw, shots)
    torch.manual_seed(3)
    compiled = torch.compile(noise, backend="eager")(raw, shots)
    torch.testing.assert_close(compiled.noisy, plain.noisy)
    make = Synthesize(cameras=["Nikon D90", "Canon EOS 60D"])  # draws shots
    made = [one(batch, generator=seeded()) for one in (make, torch.compile(make, backend="eager"))]
    torch.testing.assert_close(*made)


@pytest.mark.parametrize("cfa", CFA_PATTERNS)
@pytest.mark.parametrize("packed", [False, True])
def test_augmented_raws_have_the_same_cfa(cfa, packed):
    """The colours of a picture of three constant colours stay at their sites, in all eight positions."""
    colours = torch.tensor([0.1, 0.5, 0.9]).view(1, 3, 1, 1).expand(1, 3, 20, 24)
    mosaic = isp.mosaic(colours, cfa)
    raw = pack(mosaic, cfa) if packed else mosaic
    generator = seeded()
    for _ in range(24):
        (cut,) = augment(raw, size=12, cfa=cfa, generator=generator)
        whole = unpack(cut, cfa) if packed else cut
        torch.testing.assert_close(whole, isp.mosaic(colours[:, :, :12, :12], cfa))


def test_augmented_raws_turn_alike_and_in_eight_ways():
    index = torch.arange(20 * 20, dtype=torch.float32).view(1, 1, 20, 20)
    generator, seen = seeded(), set()
    for _ in range(200):
        one, two = augment(index, index + 1000, size=18, generator=generator)
        torch.testing.assert_close(two, one + 1000)
        step = (float(one[0, 0, 0, 1] - one[0, 0, 0, 0]), float(one[0, 0, 1, 0] - one[0, 0, 0, 0]))
        seen.add(step)
    assert seen == set(itertools.chain(itertools.product((1, -1), (20, -20)), itertools.product((20, -20), (1, -1))))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Shots.of("Nikon D9999", iso=100), "no camera 'Nikon D9999'"),
        (lambda: Shots.of("Nikon D90", iso=100, cfa="RBGG"), "cfa must be one of"),
        (lambda: Shots.draw(1, cameras=[]), "at least one camera"),
        (lambda: Shots.draw(1, iso=(800, 100)), "iso must be"),
        (lambda: Synthesize("parametric", cameras=["Fujifilm X-T5"]), "lacks its"),
        (lambda: Synthesize("parametric", "planes"), "layout must be"),
        (lambda: AddNoise(shot="photon"), "shot must be one of"),
        (lambda: AddNoise(row=-1), "row must be"),
        (lambda: Unprocess("parametric")(pictures(2), Shots.of("Nikon D90", iso=100)), "1 shots need a batch"),
        (lambda: Unprocess("parametric")(pictures(1, 63), Shots.of("Nikon D90", iso=100)), "must be even"),
        (lambda: AddNoise()(torch.zeros(1, 3, 8, 8), Shots.of("Nikon D90", iso=100)), "a RAW must be"),
        (lambda: Synthesize("parametric")(torch.zeros(8, 8)), "pictures must be"),
        (lambda: augment(torch.zeros(1, 1, 8, 8), size=7), "size must be even"),
        (lambda: augment(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 10)), "one size"),
        (lambda: pack(torch.zeros(1, 1, 7, 8)), "even H and W"),
    ],
)
def test_mistakes_get_one_line(call, message):
    with pytest.raises(ConfigError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
