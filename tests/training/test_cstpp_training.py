"""The trainings of CSTPP: from pairs and without, both ways in one file, resumed to the same numbers; and KL."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import checkpoint, convert, make_transfer, mosaic, weights
from paramisp_cli.cameras import spectra
from paramisp_cli.cli import options
from paramisp_cli.models.cstpp import Cstpp
from paramisp_cli.training import transfer
from paramisp_cli.training.simulated import spectral
from paramisp_cli.training.transfer import adversary, cstpp, shots

A, B = "Sony ILCE-7RM3", "Canon EOS 5D Mark IV"
TINY = {"stem": 4, "channels": (4, 8, 8), "width": 8, "heads": 2}
PAIRED = cstpp.Schedule(steps=6, batch=2, crop=32, lr=3e-3, model=TINY)
UNPAIRED = replace(
    cstpp.UNPAIRED, steps=6, batch=2, crop=32, lr=1e-3, last_lr=1e-4, critic_lr=2e-3, model=TINY, critic=4
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> shots.DataSet:
    """Shots of flat and striped surfaces: five scenes, the fourth for tests."""
    folder, rng = tmp_path_factory.mktemp("set"), np.random.default_rng(0)
    sensors = [spectral.sensor(name) for name in (A, B)]
    found = []
    for number in range(10):
        scene, kind, test = number % 5, spectral.KINDS[number // 5], number % 5 == 3
        view = np.kron(rng.uniform(0.1, 0.8, (4, 4, 3)), np.ones((16, 16, 1)))
        pictures, neutrals, light = spectral.shoot(view, kind, sensors, rng, test=test)
        a, b = (np.rint(each.clip(0, 1) * spectral.WHITE).astype(np.uint16) for each in pictures)
        np.savez(folder / f"shot{number}.npz", a=a, b=b)
        own = [tuple(float(x) for x in neutral) for neutral in neutrals]
        found.append(spectral.Shot(f"shot{number}", f"scene{scene}", kind, light, test, *own))
    series = spectral.Series(A, B, 10, 64, 0)
    table = {"a": A, "b": B, "count": 10, "size": 64, "seed": 0, "shots": [vars_of(each) for each in found]}
    (folder / spectral.INDEX).write_text(json.dumps(table))
    assert shots.load(folder).series == series
    return shots.load(folder)


def vars_of(shot: spectral.Shot) -> dict[str, object]:
    return {name: getattr(shot, name) for name in shot.__dataclass_fields__}


def content(path: Path) -> tuple[dict[str, str], dict[str, bytes]]:
    """Return a file's header and the bytes of its tensors; safetensors writes a header in any order."""
    tensors = checkpoint.load(path).state_dict()
    return checkpoint.info(path), {name: tensor.numpy().tobytes() for name, tensor in tensors.items()}


def train(data: shots.DataSet, output: Path, schedule: cstpp.Schedule, stop: int = 0) -> Path:
    """Train; with ``stop``, interrupt before this step, and train again."""
    if stop:
        calls = []

        def check() -> None:
            calls.append(0)
            if len(calls) > stop:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            transfer.train(data.folder, output, schedule, check=check)
        state = torch.load(output / cstpp.CHECKPOINT, weights_only=True)
        assert state["step"] == stop
    return transfer.train(data.folder, output, schedule)


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [PAIRED, UNPAIRED], ids=["paired", "unpaired"])
def test_an_interrupted_training_gives_the_same_file(
    data: shots.DataSet, tmp_path: Path, schedule: cstpp.Schedule, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adversary, "_OLD", 3)  # a full pool, from which old pictures come back
    one = train(data, tmp_path / "one", schedule)
    other = train(data, tmp_path / "other", schedule, stop=4)
    assert content(one) == content(other)
    assert content(one) != content(train(data, tmp_path / "again", replace(schedule, seed=1)))


@pytest.mark.slow
def test_the_file_has_both_generators_and_no_discriminator(data: shots.DataSet, tmp_path: Path) -> None:
    path = train(data, tmp_path, UNPAIRED)
    assert path.name == "sony-ilce-7rm3-to-canon-eos-5d-mark-iv.transfer.safetensors"
    header, state = checkpoint.info(path), torch.load(tmp_path / cstpp.CHECKPOINT, weights_only=True)
    assert (header["architecture"], header["camera"], header["to"], header["recipe"]) == (
        "cstpp",
        A,
        B,
        "cstpp-unpaired",
    )
    facts = json.loads(header["training"])
    assert (facts["to"], facts["steps"], facts["paired"], facts["crop"]) == (B, 6, False, 32)
    assert len(state["critics"]) == 2 * 2 * 5
    model = checkpoint.load(path)
    assert set(model.state_dict()) == set(Cstpp(**TINY).state_dict())
    assert weights.verify(path)["to"] == B
    (own,) = weights.import_checkpoint(tmp_path / cstpp.CHECKPOINT, tmp_path / "store", camera=A)
    again = checkpoint.load(own)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    forth, back = (transfer.load(path, each) for each in (data.series, replace(data.series, a=B, b=A)))
    assert (forth.way, back.way) == (0, 1)
    with pytest.raises(paramisp.WeightsError, match="is for Sony ILCE-7RM3 to Canon EOS 5D Mark IV, not"):
        transfer.load(path, replace(data.series, b="Nikon D850"))


@pytest.mark.slow
@pytest.mark.parametrize("schedule", [PAIRED, UNPAIRED], ids=["paired", "unpaired"])
def test_every_part_learns(data: shots.DataSet, tmp_path: Path, schedule: cstpp.Schedule) -> None:
    trainer = cstpp.Trainer(data, tmp_path, schedule, torch.device("cpu"))
    parts = {"model": trainer.model, "critics": trainer.critics}
    before = {(part, name): p.detach().clone() for part, net in parts.items() for name, p in net.named_parameters()}
    for _ in range(3):
        assert math.isfinite(trainer._one())
        trainer.step += 1
    for part, net in parts.items():
        for name, parameter in net.named_parameters():
            assert parameter.requires_grad
            if part == "model" or not name.endswith(("layers.1.bias", "layers.2.bias", "layers.3.bias")):
                assert not torch.equal(parameter, before[part, name]), name  # instance norm removes these biases


@pytest.mark.slow
def test_a_paired_training_keeps_its_best_weights(
    data: shots.DataSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[transfer.Progress] = []
    monkeypatch.setattr(cstpp, "VALIDATED", 3)
    long = replace(PAIRED, steps=18, lr=1e-2)
    path = transfer.train(data.folder, tmp_path, long, report=reports.append)
    metrics = json.loads(checkpoint.info(path)["metrics"])
    mean = (metrics["validation_psnr"] + metrics["validation_psnr_back"]) / 2
    assert reports[0].step == 0
    assert reports[-1].best == max(report.psnr for report in reports)
    assert abs(mean - reports[-1].best) < 0.02
    assert reports[-1].best > reports[0].best


def test_unpaired_cameras_share_no_shot(data: shots.DataSet, tmp_path: Path) -> None:
    trainer = cstpp.Trainer(data, tmp_path, UNPAIRED, torch.device("cpu"))
    of_a, of_b = (set(each.tolist()) for each in trainer.apart)
    assert not of_a & of_b
    assert of_a | of_b == set(range(len(trainer.seen.shots)))


def test_from_and_to_turn_the_data_round(data: shots.DataSet) -> None:
    other = shots.load(data.folder, B, A)
    assert (other.series.a, other.series.b) == (B, A)
    assert shots.load(data.folder, A) == shots.load(data.folder, None, B) == data
    one, two = data.pixels(data.shots[:2]), other.pixels(other.shots[:2])
    assert torch.equal(one.a, two.b)
    assert torch.equal(one.b, two.a)
    assert torch.equal(one.neutral_a, two.neutral_b)
    with pytest.raises(paramisp.ConfigError, match="is of Sony ILCE-7RM3 and Canon EOS 5D Mark IV, not from either to"):
        shots.load(data.folder, None, "Nikon D850")


@pytest.mark.slow
def test_another_training_is_not_continued(data: shots.DataSet, tmp_path: Path) -> None:
    train(data, tmp_path, PAIRED)
    with pytest.raises(paramisp.ConfigError, match="belongs to another recipe or data set"):
        train(data, tmp_path, replace(PAIRED, lr=1e-3))
    with pytest.raises(paramisp.ConfigError, match="belongs to another recipe or data set"):
        transfer.train(data.folder, tmp_path, PAIRED, a=B, b=A)
    (tmp_path / cstpp.CHECKPOINT).write_bytes(b"PK\3\4")
    with pytest.raises(paramisp.FormatError, match="damaged"):
        train(data, tmp_path, PAIRED)


# --- discriminators and losses ----------------------------------------------------------------------------------------


def test_the_discriminator_is_a_patchgan_of_70() -> None:
    critic = adversary.Discriminator()
    assert abs(sum(p.numel() for p in critic.parameters()) - 2.77e6) < 0.01e6
    critic = adversary.Discriminator(2)
    x = torch.rand(1, 4, 128, 128, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    with torch.no_grad():
        assert critic(x).shape == (1, 1, 14, 14)
    reach, step = 1, 1
    for layer in critic.layers:
        reach, step = reach + 3 * step, step * layer.stride[0]
    assert reach == 70


def test_the_pool_returns_old_pictures() -> None:
    pool, generator = adversary.Pool(), torch.Generator().manual_seed(0)
    for number in range(25):
        both = torch.full((2, 4, 2, 2), float(number))
        assert torch.equal(pool.exchanged(both, generator), both)
    given = torch.cat([pool.exchanged(torch.full((2, 4, 2, 2), 100.0 + n), generator) for n in range(100)])
    old = given.mean((1, 2, 3)) < 100 + torch.arange(200) // 2
    assert 60 < int(old.sum()) < 140
    assert len(pool.pictures) == 50


def test_losses_of_a_verdict() -> None:
    verdict = torch.tensor([0.0, 1.0])
    assert adversary.real(verdict) == adversary.false(verdict) == 0.5
    assert adversary.real(torch.ones(3)) == adversary.false(torch.zeros(3)) == 0


# --- recipes and measures ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_diverged_training_ends(data: shots.DataSet, tmp_path: Path) -> None:
    with pytest.raises(paramisp.ConfigError, match="diverged before step 6"):
        train(data, tmp_path, replace(PAIRED, lr=1e18))


def test_recipes(tmp_path: Path) -> None:
    assert tuple(transfer.RECIPES) == options.TRANSFERS
    assert set(options.complete_recipe("cstpp")) == {"cstpp", "cstpp-unpaired"}
    assert transfer.recipe("cstpp", 7).steps == 7
    assert isinstance(transfer.recipe("splines"), transfer.Schedule)
    authors = transfer.recipe("cstpp-unpaired")
    assert (authors.lr, authors.critic_lr, authors.betas, authors.batch, authors.crop) == (
        1e-5,
        2e-5,
        (0.5, 0.999),
        4,
        256,
    )
    own = tmp_path / "own.toml"
    own.write_text('base = "cstpp"\nsteps = 5\nlr = 1\nbetas = [0.8, 0.9]\n[model]\nstem = 8\n')
    found = transfer.recipe(str(own))
    assert (found.steps, found.lr, list(found.betas), found.model) == (5, 1, [0.8, 0.9], {"stem": 8})
    for text, message in (
        ("steps = 5", "base must be one of"),
        ('base = "cstpp"\npaired = false', "paired is no value of cstpp"),
        ('base = "cstpp"\nsteps = "5"', "steps must be like 3000"),
        ('base = "cstpp"\nsteps = 0', "at least 1"),
        ('base = "cstpp"\nbetas = [2, 3]', "betas must be"),
        ('base = "cstpp"\nbetas = ["a", "b"]', "betas must be like"),
        ('base = "cstpp"\nlr = inf', "learning rates must be above 0"),
        ('base = "cstpp-unpaired"\ncrop = 16', "crop at least 32"),
        ('base = "splines"\nbatch = 0', "batch must be at least 1"),
        ('base = "cstpp"\n[model]\ncameras = ["a", "b"]', "model has no cameras"),
        ('base = "cstpp"\n[model]\nstem = 0', "stem"),
        ("base =", "is not TOML"),
    ):
        own.write_text(text)
        with pytest.raises(paramisp.ConfigError, match=message):
            transfer.recipe(str(own))
    with pytest.raises(paramisp.ConfigError, match="there are splines, cstpp, cstpp-unpaired"):
        transfer.recipe("fast-camera")
    with pytest.raises(paramisp.ConfigError, match="cannot be read"):
        transfer.recipe(str(tmp_path / "none.toml"))


def test_the_divergence_is_the_papers() -> None:
    """Half of one picture's values change their bin: p ln p/q + q ln q/p, by hand; 0 for the same picture."""
    x = torch.zeros(1, 3, 2, 2)
    y = x.clone()
    y[..., 0] = 0.5
    e = 1e-7
    by_hand = (1 - 0.5) * math.log((1 + e) / (0.5 + e)) + 0.5 * math.log((0.5 + e) / e)
    assert math.isclose(transfer.divergence(x, y), by_hand, rel_tol=1e-6)
    assert transfer.divergence(y, y) == 0
    assert math.isclose(transfer.divergence(y, x), by_hand, rel_tol=1e-6)
    assert transfer.divergence(x, x + 2) == transfer.divergence(x, x + 1)  # clipped to the last bin


@pytest.mark.slow
def test_the_evaluation_has_all_rows_and_both_ways(data: shots.DataSet, tmp_path: Path) -> None:
    path = train(data, tmp_path, PAIRED)
    for a, b in ((A, B), (B, A)):
        scores = transfer.evaluate(data.folder, [path, path], a=a, b=b)
        text = transfer.table(scores)
        assert f"| network `{path.name.split('.')[0]}` |" in text
        assert f"| network `{tmp_path.name}/{path.name.split('.')[0]}` |" in text
        assert text.splitlines()[0].endswith("| KL |")
        assert all(score.kl >= 0 for score in scores)


# --- the conversion ---------------------------------------------------------------------------------------------------


def raw_of(name: str, make: str, model: str, cfa: str = "RGGB") -> paramisp.RawImage:
    facts = paramisp_facts(name)
    neutral = spectra.neutral(spectral.sensor(name).sensitivity, spectra.daylight(5200))
    canonical = paramisp.CanonicalParams(cfa, np.full((2, 2), 512.0), 15871, neutral, facts.color_matrix)
    camera = np.linspace(0.1, 0.5, 96)[:, None, None] * neutral * np.linspace(0.7, 1, 64)[:, None]
    codes = np.rint(camera * 15359 + 512).astype(np.uint16)
    return paramisp.RawImage(mosaic.sampled(codes, cfa), canonical, camera=paramisp.Camera(make, model))


def paramisp_facts(name: str):
    from paramisp_cli import cameras

    facts = cameras.find_by_name(name)
    assert facts is not None
    return facts


@pytest.mark.parametrize("cfa", ["RGGB", "GBRG"])
def test_transfer_runs_it_both_ways(tmp_path: Path, cfa: str) -> None:
    model = Cstpp(**TINY, cameras=(A, B))
    model.initialise(torch.Generator().manual_seed(1))
    for head in model.heads_of_ways:
        torch.nn.init.normal_(head[-1].weight, std=0.3, generator=torch.Generator().manual_seed(2))
    path = checkpoint.save(model.eval(), tmp_path / "w.safetensors", camera=A)
    for raw, to, way in (
        (raw_of(A, "SONY", "ILCE-7RM3", cfa), B, model),
        (raw_of(B, "Canon", "Canon EOS 5D Mark IV", cfa), A, model.backwards()),
    ):
        settings = paramisp.Settings(to=to, method="cstpp", weights=path, device="cpu", bit_depth=32)
        conversion = make_transfer.complete(raw, settings)
        assert (conversion.architecture, conversion.backwards) == ("cstpp", way is not model)
        done = convert.run(raw, conversion, settings)
        light = torch.from_numpy((raw.mosaic.astype(np.float32) - 512) / 15359)[None, None]
        with torch.inference_mode():
            wanted = way(light, way.params_of(raw.canonical, raw.optical)).clamp(0, 1)[0, 0].numpy()
        assert np.abs(done.mosaic - wanted).max() < 1e-5
        assert np.abs(wanted - light[0, 0].numpy()).max() > 1e-3


def test_transfer_refuses_what_it_cannot_run(tmp_path: Path) -> None:
    path = checkpoint.save(Cstpp(**TINY, cameras=(A, B)), tmp_path / "w.safetensors", camera=A)
    raw = raw_of(A, "SONY", "ILCE-7RM3")
    photo = paramisp.SrgbImage(np.zeros((32, 32, 3), np.uint8))
    for image, settings, error, text in (
        (raw, {"to": B}, paramisp.WeightsError, "no weights come with paramisp"),
        (raw, {"to": "Nikon D850", "weights": path}, paramisp.WeightsError, "not for SONY ILCE-7RM3 to Nikon D850"),
        (photo, {"to": B, "weights": path}, paramisp.ConfigError, "for RAW files"),
    ):
        with pytest.raises(error, match=text):
            make_transfer.complete(image, paramisp.Settings(method="cstpp", **settings))
