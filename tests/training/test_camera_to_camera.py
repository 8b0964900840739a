"""Transfers in training: spectral pairs, the spline network, a short training, and the table beside closed forms."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import cameras, checkpoint, convert, make_transfer, mosaic
from paramisp_cli.cameras import spectra
from paramisp_cli.models import splines
from paramisp_cli.models.base import Params
from paramisp_cli.runner import Runner
from paramisp_cli.training import transfer
from paramisp_cli.training.simulated import spectral

A, B = "Sony ILCE-7RM3", "Canon EOS 5D Mark IV"


def panorama(path: Path, seed: int) -> Path:
    """Write a flat (not run-length encoded) Radiance panorama of smooth colours with some texture."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.uniform(20, 220, (1, 3, 9, 17)))
    image = torch.nn.functional.interpolate(coarse, size=(96, 192), mode="bicubic")[0].clamp(5, 250)
    image = image.permute(1, 2, 0).numpy() * np.exp(rng.normal(0, 0.3, (96, 192, 1)))
    rgbe = np.concatenate([image.clip(1, 255), np.full((96, 192, 1), 128)], 2).astype(np.uint8)
    path.write_bytes(b"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y 96 +X 192\n" + rgbe.tobytes())
    return path


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scenes")
    for number in range(8):
        panorama(folder / f"scene{number}.hdr", number)
    out = tmp_path_factory.mktemp("set")
    shots = list(spectral.make([folder], out, spectral.Series(A, B, 64, 32, 3)))
    assert len(shots) == 64
    return out


def test_shots_are_pairs_on_the_same_spectra(dataset: Path) -> None:
    series, shots = spectral.load(dataset)
    assert (series.a, series.b) == (A, B)
    assert {shot.kind for shot in shots} == set(spectral.KINDS)
    assert sum(shot.test for shot in shots) == 16
    for shot in shots[:16]:
        a, b = spectral.read(dataset, shot)
        assert a.shape == b.shape == (32, 32, 3)
        assert min(a.min(), b.min()) >= 0
        assert max(a.max(), b.max()) < 1
        assert np.corrcoef(a[..., 1].ravel(), b[..., 1].ravel())[0, 1] > 0.95
        assert not np.allclose(a, b, atol=0.01)
    seen = {shot.scene for shot in shots if shot.test}
    assert not seen & {shot.scene for shot in shots if not shot.test}


def test_a_grey_world_is_white_on_both_cameras() -> None:
    """A view without hues, on grey reflectances alone, has each camera's neutral."""
    sensors = [spectral.sensor(name) for name in (A, B)]
    rng = np.random.default_rng(0)
    view = np.full((16, 16, 3), 0.5)
    for kind in ("daylight", "led"):
        pictures, neutrals, _ = spectral.shoot(view, kind, sensors, rng, test=False)
        for picture, neutral in zip(pictures, neutrals, strict=True):
            hues = picture.mean((0, 1)) / picture[..., 1].mean() / neutral
            assert np.abs(np.log(hues)).max() < 0.35  # surfaces near grey, not grey itself


def test_metamers_are_there(dataset: Path) -> None:
    """No map of colours explains the pairs: the same colours on A have several on B, in the same light."""
    sensors = [spectral.sensor(name) for name in (A, B)]
    rng = np.random.default_rng(5)
    hues = np.kron(rng.uniform(0.1, 0.9, (8, 8, 3)), np.ones((8, 8, 1)))
    pictures, _, _ = spectral.shoot(hues, "fluorescent", sensors, rng, test=True)
    a, b = (each.reshape(-1, 3) for each in pictures)
    terms = spectra.root_terms(a)
    rest = terms @ np.linalg.lstsq(terms, b, rcond=None)[0] - b
    assert np.sqrt((rest**2).mean()) > 2e-3 * b.mean()


def test_the_same_seed_gives_the_same_shots(dataset: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scenes"
    folder.mkdir()
    for number in range(8):
        panorama(folder / f"scene{number}.hdr", number)
    series = spectral.Series(A, B, 8, 32, 3)
    shots = list(spectral.make([folder], tmp_path / "again", series))
    for shot in shots:
        for one, other in zip(spectral.read(tmp_path / "again", shot), spectral.read(dataset, shot), strict=True):
            assert np.array_equal(one, other)
    with pytest.raises(paramisp.ConfigError, match="holds shots of other cameras"):
        list(spectral.make([folder], tmp_path / "again", replace(series, seed=4)))


def test_bad_series_and_files(tmp_path: Path, dataset: Path) -> None:
    with pytest.raises(paramisp.ConfigError, match="no spectral sensitivities of Nikon D90"):
        spectral.Series("Nikon D90", B, 8, 32, 0)
    with pytest.raises(paramisp.ConfigError, match="multiple of 16"):
        spectral.Series(A, B, 8, 40, 0)
    with pytest.raises(paramisp.ConfigError, match="cannot be read"):
        spectral.load(tmp_path)
    _, shots = spectral.load(dataset)
    (tmp_path / f"{shots[0].name}.npz").write_bytes(b"PK\3\4no")
    with pytest.raises(paramisp.FormatError, match="damaged or missing"):
        spectral.read(tmp_path, shots[0])


# --- the network ------------------------------------------------------------------------------------------------------


def with_base() -> splines.Splines:
    fit = spectra.fitted(A, B)
    model = splines.Splines()
    model.set_base(*(torch.from_numpy(np.ascontiguousarray(x)) for x in (fit.coefficients, fit.neutral, fit.known)))
    return model.eval()


def params(neutral: np.ndarray, cfa: str = "RGGB") -> Params:
    one = torch.ones(1)
    gains = torch.tensor(1 / neutral, dtype=torch.float32)[None]
    return Params(gains, torch.eye(3)[None], one * 100, one * 0.01, one * 4, one * 50, cfa)


def test_bases_are_a_partition_of_one() -> None:
    x = torch.linspace(0, 1, 101).reshape(1, 1, 1, -1)
    values = splines.bases(x)
    assert values.shape == (1, 8, 1, 101)
    assert torch.allclose(values.sum(1), torch.ones(1, 1, 101), atol=1e-6)
    assert (values >= 0).all()


def test_a_fresh_network_is_the_closed_form() -> None:
    model, fit = with_base(), spectra.fitted(A, B)
    neutral = spectra.neutral(spectral.sensor(A).sensitivity, spectra.daylight(5200))
    camera = np.random.default_rng(0).uniform(0.05, 0.9, (16, 16, 3))
    with torch.inference_mode():
        shown = model.colours(torch.from_numpy(camera).permute(2, 0, 1)[None].float(), params(neutral))
    coefficients, other, _ = fit.at(neutral)
    wanted = spectra.root_terms(camera / neutral) @ coefficients.T * other
    assert np.abs(shown[0].permute(1, 2, 0).numpy() - wanted).max() < 1e-4


def shaken() -> splines.Splines:
    """Return a network whose splines do something."""
    model = with_base()
    with torch.no_grad():
        model.leave.weight.normal_(0, 0.02, generator=torch.Generator().manual_seed(1))
    return model


def test_twice_the_light_gives_twice_the_values() -> None:
    model = shaken()
    x = torch.rand(1, 1, 48, 48, generator=torch.Generator().manual_seed(0)) * 0.4 + 0.05
    with torch.inference_mode():
        once, twice = (model(gain * x, params(np.array([0.5, 1, 0.6]))) for gain in (1, 2))
        assert torch.allclose(2 * once, twice, atol=2e-4)
        assert not torch.allclose(once, with_base()(x, params(np.array([0.5, 1, 0.6]))), atol=1e-3)


@pytest.mark.slow
def test_tiles_have_no_seams() -> None:
    model = shaken()
    x = torch.rand(1, 1, 320, 336, generator=torch.Generator().manual_seed(0))
    seen = torch.zeros_like(x)
    own = params(np.array([0.5, 1, 0.6]), "GRBG")
    with torch.inference_mode():
        wanted = model(x, own)
    Runner(model, torch.device("cpu")).run(
        own, (320, 336), lambda first, end: x[:, :, first:end],
        lambda top, rows: seen[:, :, top : top + rows.shape[2]].copy_(rows), tile=(64, 64),
    )  # fmt: skip
    torch.testing.assert_close(seen, wanted, atol=2e-5, rtol=0)


def test_a_mosaic_is_its_colours() -> None:
    """On a smooth picture, the mosaic's way and the way of three colours agree at every site."""
    model = shaken()
    ramp = np.linspace(0.2, 0.6, 64)
    camera = np.stack([np.add.outer(ramp, ramp) / 2, np.add.outer(ramp, ramp[::-1]) / 2, np.tile(ramp, (64, 1))], -1)
    own = params(np.array([0.5, 1, 0.6]))
    x = torch.from_numpy(mosaic.sampled(camera, "RGGB"))[None, None].float()
    with torch.inference_mode():
        one = model(x, own)[0, 0].numpy()
        three = model.colours(torch.from_numpy(camera).permute(2, 0, 1)[None].float(), own)[0].permute(1, 2, 0).numpy()
    assert np.abs(one - mosaic.sampled(three, "RGGB"))[4:-4, 4:-4].max() < 2e-3


@pytest.mark.slow
def test_a_short_training_improves_the_closed_form(dataset: Path, tmp_path: Path) -> None:
    reports: list[transfer.Progress] = []
    path = transfer.train(dataset, tmp_path, transfer.Schedule(steps=200, batch=8, lr=3e-3), report=reports.append)
    assert path.name == "sony-ilce-7rm3-to-canon-eos-5d-mark-iv.transfer.safetensors"
    assert reports[-1].best > reports[0].best
    header = checkpoint.info(path)
    assert header["direction"] == "transfer"
    assert json.loads(header["training"])["to"] == B
    scores = transfer.evaluate(dataset, [path])
    by = {(score.method.split(" `")[0], score.kind): score for score in scores}
    assert (
        by["conditioned root-polynomial", "daylight"].psnr > by["matrix route, B's neutral predicted", "daylight"].psnr
    )
    assert by["matrix route, B's neutral predicted", "all"].psnr > by["nothing", "all"].psnr + 5
    assert np.isfinite([score.delta_e for score in scores]).all()
    lines = transfer.table(scores).splitlines()
    assert len(lines) == 2 + len({score.method for score in scores})
    series, _ = spectral.load(dataset)
    with pytest.raises(paramisp.WeightsError, match="is for Sony ILCE-7RM3"):
        transfer.load(path, replace(series, a=B, b=A))


def raw_of_a(path: Path) -> Path:
    """Write a RAW of camera A, 128 × 64, clipped in its lower half, and beside it camera B's by the closed form."""
    matrix = spectral_facts().color_matrix
    neutral = spectra.neutral(spectral.sensor(A).sensitivity, spectra.daylight(5200))
    canonical = paramisp.CanonicalParams("RGGB", np.full((2, 2), 512.0), 15871, neutral, matrix)
    rows = np.where(np.arange(128) < 80, np.linspace(0.1, 0.4, 128), 3)[:, None, None]
    camera = np.minimum(rows * neutral * np.linspace(0.8, 1.2, 64)[:, None], 1)
    codes = np.rint(camera * 15359 + 512).astype(np.uint16)
    raw = paramisp.RawImage(mosaic.sampled(codes, "RGGB"), canonical, camera=paramisp.Camera("SONY", "ILCE-7RM3"))
    paramisp.write(raw, path, paramisp.WriteOptions(profile="adobe"))
    settings = paramisp.Settings(to=B, method="conditioned")
    closed = convert.run(raw, make_transfer.complete(raw, settings), settings)
    paramisp.write(closed, path.with_name("closed.dng"), paramisp.WriteOptions(profile="adobe"))
    return path


def spectral_facts() -> cameras.CameraFacts:
    """Return the table's facts of camera A."""
    facts = cameras.find_by_name(A)
    assert facts is not None
    return facts


@pytest.mark.slow
def test_the_commands(dataset: Path, tmp_path: Path, completed) -> None:
    run = completed
    for number in range(4):
        panorama(tmp_path / f"scene{number}.hdr", number)
    out = tmp_path / "set"
    made = run("simulate", tmp_path, "--spectral", "--camera", A, "--camera", B, "--count", 16, "--size", 32, "-o", out)
    assert made.returncode == 0, made.stderr
    assert len(made.stdout.splitlines()) == 16
    trained = run("train", out, "--direction", "transfer", "-o", tmp_path / "run", "--steps", 2)
    assert trained.returncode == 0, trained.stderr
    told = run("evaluate", out, "--direction", "transfer", "--weights", trained.stdout.strip())
    assert told.returncode == 0, told.stderr
    assert "| network `sony-ilce-7rm3-to-canon-eos-5d-mark-iv` |" in told.stdout
    shot = raw_of_a(tmp_path / "shot.dng")
    path = trained.stdout.strip()
    done = run("transfer", shot, "--to", B, "--weights", path, "--json")
    assert done.returncode == 0, done.stderr
    told_so = json.loads(done.stdout)
    assert (told_so["model"], told_so["to"], Path(told_so["weights"]).name) == ("splines", B, Path(path).name)
    own, closed = (paramisp.read(tmp_path / name) for name in ("shot-canon-eos-5d-mark-iv.dng", "closed.dng"))
    assert np.abs(own.mosaic[:64].astype(int) - closed.mosaic[:64]).max() < 600  # two steps from the closed form
    assert np.array_equal(own.mosaic[96:], closed.mosaic[96:])  # clipped: the closed form itself
    assert np.array_equal(own.canonical.as_shot_neutral, closed.canonical.as_shot_neutral)
    tiny = tmp_path / "tiny.toml"
    tiny.write_text('base = "cstpp"\n[model]\nstem = 4\nchannels = [4, 4, 4]\nwidth = 8\nheads = 2\n')
    line = ("train", out, "--direction", "transfer", "--recipe", tiny, "--steps", 2, "-o", tmp_path / "cstpp")
    trained = run(*line, "--from", A, "--to", B)
    assert trained.returncode == 0, trained.stderr
    other = trained.stdout.strip()
    done = run("transfer", shot, "--to", B, "--method", "cstpp", "--weights", other, "-o", tmp_path / "x.dng", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["model"] == "cstpp"
    assert "cstpp" in run("weights", "info", other).stdout
    imported = run("weights", "import", tmp_path / "cstpp" / "checkpoint.pt", "--camera", A, "-o", tmp_path / "store")
    assert imported.returncode == 0, imported.stderr
    assert "good (cstpp, transfer, Sony ILCE-7RM3)" in run("weights", "verify", imported.stdout.strip()).stdout
    refused = run("transfer", shot, "--to", B, "--method", "cstpp", "--weights", path, "-o", tmp_path / "refused.dng")
    assert refused.returncode == 8
    assert "is of splines, not of --method cstpp" in refused.stderr
    for words, text in (
        (("--to", "Nikon D850"), "not for SONY ILCE-7RM3 to Nikon D850"),
        (("--to", B, "--cfa", "target"), "leave it out"),
    ):
        refused = run("transfer", shot, *words, "--weights", path, "-o", tmp_path / "refused.dng")
        assert refused.returncode in (2, 8)
        assert text in refused.stderr
    for words, text in (
        (("simulate", tmp_path, "--spectral", "--camera", A, "-o", tmp_path / "x"), "takes two cameras"),
        (("train", out, "--direction", "render", "--steps", 3, "-o", tmp_path / "y"), "--steps"),
        (("train", out, "--direction", "render", "--from", A, "-o", tmp_path / "y"), "--from"),
        (("train", out, "--direction", "transfer", "--to", "Nikon D850", "-o", tmp_path / "y"), "not from either to"),
        (("train", out, "--direction", "transfer", "--recipe", "none", "-o", tmp_path / "y"), "there are splines"),
        (("evaluate", out, "--direction", "render", "--to", A), "--to"),
        (("train", tmp_path, "--direction", "transfer", "-o", tmp_path / "y"), "no data set of"),
    ):
        done = run(*words)
        assert done.returncode == 2
        assert text in done.stderr
