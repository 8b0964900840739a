"""A JPEG that carries its RAW: round trips of samples and parameters, errors below the noise, sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from kept_shots import NOISE, jpeg_of, shot

from paramisp_cli.errors import ConfigError, FormatError
from paramisp_cli.formats import kept
from paramisp_cli.formats.kept import levels, rans, record
from paramisp_cli.types import Crop, RawImage


def same(raw: RawImage, back: RawImage) -> None:
    """Everything but the mosaic is as it was."""
    for name in ("cfa", "white_level"):
        assert getattr(raw.canonical, name) == getattr(back.canonical, name)
    for name in ("black_level", "as_shot_neutral", "color_matrix"):
        np.testing.assert_array_equal(getattr(raw.canonical, name), getattr(back.canonical, name))
    for name in (
        "optical",
        "camera",
        "orientation",
        "crop",
        "baseline_exposure",
        "profile_exposure",
        "model",
        "colours_of",
    ):
        assert getattr(raw, name) == getattr(back, name), name
    np.testing.assert_array_equal(raw.noise_profile, back.noise_profile)
    assert back.metadata.source_name == raw.metadata.source_name
    assert back.metadata.exif is None  # those of the JPEG count
    assert back.metadata.xmp is None


# --- round trips ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cfa", "orientation"),
    [
        (cfa, 1 + (2 * first + step) % 8)
        for first, cfa in enumerate(("RGGB", "GRBG", "GBRG", "BGGR"))
        for step in range(4)
    ],
)
def test_lossless_in_every_orientation_and_cfa(cfa: str, orientation: int) -> None:
    raw, pixels = shot(64, 96, cfa=cfa, orientation=orientation, crop=Crop(3, 5, 55, 86))
    raw = replace(raw, colours_of="Other Camera", profile_exposure=-0.5)
    back = kept.restore(kept.keep(jpeg_of(pixels), raw, "lossless"))
    np.testing.assert_array_equal(raw.mosaic, back.mosaic)
    same(raw, back)


@pytest.mark.parametrize("size", [(2, 2), (4, 2), (6, 16), (24, 24), (30, 18), (130, 66), (34, 1200)])
@pytest.mark.parametrize("how", ["lossless", "near"])
def test_sizes(size: tuple[int, int], how: str) -> None:
    raw, pixels = shot(*size)
    check(raw, kept.restore(kept.keep(jpeg_of(pixels), raw, how)), how)


def check(raw: RawImage, back: RawImage, how: str) -> None:
    if how == "lossless":
        np.testing.assert_array_equal(raw.mosaic, back.mosaic)
    for site, sigma in enumerate(levels.bounds(raw.canonical, levels.noise(raw)[0], 1.0)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) < sigma[true]).all()


@pytest.mark.slow
@pytest.mark.parametrize("quality", [5, 50, 85, 100])
@pytest.mark.parametrize("more", [{"subsampling": 0}, {"subsampling": 2}, {"progressive": True}], ids=str)
def test_any_jpeg(quality: int, more: dict[str, object]) -> None:
    raw, pixels = shot()
    back = kept.restore(kept.keep(jpeg_of(pixels, quality, **more), raw))
    np.testing.assert_array_equal(raw.mosaic, back.mosaic)


def test_a_picture_of_something_else_costs_bytes_only() -> None:
    raw, pixels = shot()
    other = np.random.default_rng(5).integers(0, 256, pixels.shape, np.uint8)
    np.testing.assert_array_equal(raw.mosaic, kept.restore(kept.keep(jpeg_of(other), raw)).mosaic)


@pytest.mark.parametrize(
    "mosaic",
    [
        np.zeros((32, 32), np.uint16),
        np.full((32, 32), 65535, np.uint16),
        np.random.default_rng(2).integers(0, 65536, (64, 64)).astype(np.uint16),
        np.random.default_rng(2).choice([0, 7, 65535], (64, 64)).astype(np.uint16),
    ],
    ids=["black", "white", "noise", "three values"],
)
@pytest.mark.parametrize("how", ["lossless", "near"])
def test_extreme_samples(mosaic: np.ndarray, how: str) -> None:
    raw, pixels = shot(*mosaic.shape, black=0, white=65535)
    raw = replace(raw, mosaic=mosaic)
    check(raw, kept.restore(kept.keep(jpeg_of(pixels), raw, how)), how)


@pytest.mark.slow
def test_sparse_values_are_listed() -> None:
    """A camera that uses every 8th value costs three bits less."""
    dense, pixels = shot(256, 256)
    sparse, _ = shot(256, 256, sparse=8)
    jpeg = jpeg_of(pixels)
    both = [kept.keep(jpeg, raw) for raw in (dense, sparse)]
    np.testing.assert_array_equal(sparse.mosaic, kept.restore(both[1]).mosaic)
    assert len(both[0]) - len(both[1]) > 2 * sparse.mosaic.size / 8


def test_near_stays_below_the_noise_and_keeps_clipped_samples() -> None:
    raw, pixels = shot(256, 256, white=16383)
    data = kept.keep(jpeg_of(pixels), raw, "near")
    back = kept.restore(data)
    found = kept.find(data)
    assert found is not None
    for site, bound in enumerate(levels.bounds(raw.canonical, NOISE, found.share)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) <= bound[true]).all()
    np.testing.assert_array_equal(raw.mosaic >= 16383, back.mosaic >= 16383)
    assert (found.kind, found.share, found.noise_origin) == ("near", 0.5, "the RAW file")
    assert "error at most" in str(found)
    assert "0.5 of the noise: the RAW file" in str(found)
    off = back.mosaic.astype(int) - raw.mosaic
    assert 0 < found.bound[0] <= np.abs(off).max() <= found.bound[1]


@pytest.mark.slow
def test_near_is_smaller_and_a_size_is_met() -> None:
    raw, pixels = shot(192, 256, white=16383)
    jpeg = jpeg_of(pixels)
    lossless, near = len(kept.keep(jpeg, raw)), len(kept.keep(jpeg, raw, "near"))
    assert near - len(jpeg) < 0.6 * (lossless - len(jpeg))
    shares = []
    for size in (lossless + 100, (lossless + near) // 2, near, (2 * near + len(jpeg)) // 3):
        data = kept.keep(jpeg, raw, f"{size}B")
        assert len(data) <= size
        found = kept.find(data)
        assert found is not None
        shares.append(found.share)
        check_share(raw, kept.restore(data), found.share)
    assert shares[0] == 0
    exact = kept.find(kept.keep(jpeg, raw, f"{lossless}B"))
    assert exact is not None
    assert str(exact).endswith("bits a sample, exact")
    assert shares == sorted(shares)
    with pytest.raises(
        FormatError, match=rf"does not fit into {len(jpeg) + 900} bytes beside the picture: \d+ are needed"
    ):
        kept.keep(jpeg, raw, f"{len(jpeg) + 900}B")
    with pytest.raises(FormatError, match=rf"does not fit into 900 bytes: the picture alone takes {len(jpeg)}"):
        kept.keep(jpeg, raw, "900B")


def test_a_raw_that_cannot_be_read_back_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """A far larger mosaic than its crop, a text too long, a value that is no number."""
    raw, pixels = shot(64, 64)
    jpeg = jpeg_of(pixels)
    with pytest.raises(FormatError, match="cannot carry a RAW with a value that is not finite"):
        kept.keep(jpeg, replace(raw, baseline_exposure=float("nan")))
    small = replace(raw, crop=Crop(0, 0, 16, 16))
    assert kept.find(kept.keep(jpeg_of(pixels[:16, :16]), small)) is not None
    monkeypatch.setattr(record, "_MOST_BEYOND", 0)
    with pytest.raises(FormatError, match=r"cannot carry this RAW: .*a mosaic of 64×64 for a picture of 16×16"):
        kept.keep(jpeg_of(pixels[:16, :16]), small)
    monkeypatch.setattr(record, "_MOST_JSON", 500)
    with pytest.raises(FormatError, match=r"cannot carry this RAW: .*too long"):
        kept.keep(jpeg, raw)


@pytest.mark.parametrize("noise", [[[-1e-4, 1e-6]] * 3, [[1e9, 1e-6]] * 3])
def test_noise_that_cannot_be_true_does_not_count(noise: list[list[float]]) -> None:
    raw, _ = shot()
    assert levels.noise(replace(raw, noise_profile=np.array(noise)))[1] == "measured in the shot"


def check_share(raw: RawImage, back: RawImage, share: float) -> None:
    for site, bound in enumerate(levels.bounds(raw.canonical, NOISE, share)):
        true, other = (image.mosaic[site // 2 :: 2, site % 2 :: 2].astype(int) for image in (raw, back))
        assert (np.abs(true - other) <= bound[true]).all()


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("lossless", None),
        ("near", None),
        ("2MB", 2_000_000),
        ("1.5MiB", 1 << 19 | 1 << 20),
        ("800k", 800_000),
        ("99", 99),
    ],
)
def test_ways(text: str, size: int | None) -> None:
    assert kept.check(text) == size


@pytest.mark.parametrize("text", ["", "best", "-1", "0", "2TB", "MB", "1e6", "nan", "9" * 400])
def test_wrong_ways(text: str) -> None:
    with pytest.raises(ConfigError, match="takes lossless, near, or a size such as 2MB"):
        kept.check(text)


@pytest.mark.slow
def test_measured_noise_is_not_more_than_the_true() -> None:
    """The scene: soft slopes, with edges in a fifth of the blocks."""
    y, x = np.mgrid[:1024, :1024]
    signal = 0.45 + 0.3 * np.sin(x / 200) * np.cos(y / 300) + 0.05 * ((x // 80 + y // 90) % 2)
    sigma = np.sqrt(NOISE[1, 0] * signal + NOISE[1, 1])
    codes = np.rint((signal + sigma * np.random.default_rng(4).standard_normal(signal.shape)) * (16383 - 256) + 256)
    raw, _ = shot(1024, 1024, white=16383)
    flat = replace(raw, mosaic=codes.astype(np.uint16), noise_profile=None, camera=None)
    measured, origin = levels.noise(flat)
    assert origin == "measured in the shot"
    level = np.linspace(0.15, 0.75, 20)
    true, found = (profile[1, 0] * level + profile[1, 1] for profile in (NOISE, measured))
    assert (found < true).all()
    assert (found > 0.3 * true).all()


def test_rans_codes_near_the_entropy() -> None:
    rng = np.random.default_rng(0)
    symbols = np.minimum(rng.geometric(0.3, 100_000) - 1, 255)
    rows = rng.integers(0, 2, len(symbols))
    symbols[rows == 1] = 0
    counts = np.stack([np.bincount(symbols[rows == row], minlength=256) for row in (0, 1)])
    frequencies = np.stack([rans.normalised(each) for each in counts])
    starts = np.cumsum(frequencies, 1) - frequencies
    parts = [slice(0, 70_001), slice(70_001, 70_001), slice(70_001, 100_000)]
    coded = [(frequencies[rows[p], symbols[p]], starts[rows[p], symbols[p]]) for p in parts]
    states, words = rans.encode(coded, 33)
    share = counts[0] / counts[0].sum()
    entropy = -float((counts[0] * np.log2(share, where=share > 0, out=np.zeros(256))).sum()) / 16
    assert len(words) < 1.01 * entropy
    decoder = rans.Decoder(states, words)
    np.testing.assert_array_equal(np.concatenate([decoder.decode(rows[p], frequencies) for p in parts]), symbols)
    decoder.finish()
