"""Simulated shots, on tiny scenes written here."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paramisp_cli import cameras, drawn, errors, isp
from paramisp_cli.directions import Direction
from paramisp_cli.formats import radiance
from paramisp_cli.models.base import Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.training import crops, folder
from paramisp_cli.training import dataset as data
from paramisp_cli.training.simulated import camera, scenes, shots
from paramisp_cli.types import OpticalParams

D90 = cameras.find_by_name("Nikon D90")
MIDDLE = OpticalParams(iso=800, exposure_time=1 / 30, f_number=5.6, focal_length=60)


def packed(plane: np.ndarray) -> bytes:
    """A plane of a row, run-length encoded as Radiance does: long runs as runs, the rest as it is."""
    out, at = b"", 0
    while at < len(plane):
        run = 1
        while at + run < len(plane) and run < 127 and plane[at + run] == plane[at]:
            run += 1
        if run > 2:
            out += bytes((128 + run, plane[at]))
        else:
            run = min(2, len(plane) - at)
            out += bytes((run, *plane[at : at + run]))
        at += run
    return out


def write_hdr(path: Path, pixels: np.ndarray, rle: bool = True, head: bytes = b"FORMAT=32-bit_rle_rgbe\n") -> Path:
    """(H, W, 3) linear → Radiance RGBE."""
    height, width = pixels.shape[:2]
    mantissa, exponent = np.frexp(pixels.max(-1))
    scale = np.where(mantissa > 0, 256 * mantissa / np.maximum(pixels.max(-1), 1e-30), 0)
    codes = np.where(mantissa > 0, exponent + 128, 0)
    rgbe = np.concatenate([pixels * scale[..., None], codes[..., None]], -1).clip(0, 255).astype(np.uint8)
    body = b""
    for row in rgbe:
        body += bytes((2, 2, width >> 8, width & 255)) + b"".join(map(packed, row.T)) if rle else row.tobytes()
    path.write_bytes(b"#?RADIANCE\n" + head + b"\n" + f"-Y {height} +X {width}\n".encode() + body)
    return path


def room(height: int = 128) -> np.ndarray:
    """(H, 2 H, 3) radiance with colours, edges, a gradient and a lamp."""
    rng = np.random.default_rng(5)
    tiles = rng.uniform(0.05, 1, (height // 8, height // 4, 3)).repeat(8, 0).repeat(8, 1)
    tiles *= rng.uniform(0.8, 1.25, (height, 2 * height, 1))
    tiles *= np.linspace(0.3, 2, 2 * height)[None, :, None]
    tiles[height // 3 : height // 3 + 6, 20:30] = 300
    return tiles


@pytest.fixture(scope="module")
def panorama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_hdr(tmp_path_factory.mktemp("scenes") / "room.hdr", room())


def plan(count: int = 2, **other: object) -> shots.Series:
    facts = {"cameras": shots.pick_cameras(["Nikon D90", "Canon EOS 60D"]), "size": 96, "seed": 3}
    return shots.Series(count=count, **{**facts, **other})


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# Reading scenes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rle", [True, False], ids=["rle", "flat"])
def test_hdr(tmp_path: Path, rle: bool) -> None:
    pixels = room(32)
    pixels[3, 4:30] = 0
    read = radiance.read(write_hdr(tmp_path / "a.hdr", pixels, rle))
    assert read.dtype == np.float32
    assert read.shape == pixels.shape
    assert (read[3, 4:30] == 0).all()
    # A mantissa of 8 bits, shared: half a per cent of the largest channel, cut off by the writer.
    assert (np.abs(read - pixels) <= pixels.max(-1, keepdims=True) / 127).all()


@pytest.mark.parametrize("rle", [True, False], ids=["rle", "flat"])
@pytest.mark.parametrize("kept", [0.2, 0.6, 0.999])
def test_hdr_cut_short(tmp_path: Path, rle: bool, kept: float) -> None:
    path = write_hdr(tmp_path / "a.hdr", room(32), rle)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * kept)])
    with pytest.raises(errors.FormatError, match=r"a\.hdr: the file is cut short|a\.hdr: its run-length"):
        radiance.read(path)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (b"_rgbe", b"_xyze", "only 32-bit_rle_rgbe"),
        (b"-Y 16", b"+Y 16", "its size reads"),
        (b"-Y 16", b"-Y 99999999999", "claims"),
        (b"-Y 16", b"-Y 0", "claims"),
        (b"\n\n", b"\n", "header is damaged"),
        (b"\x02\x02\x00\x20", b"\x02\x02\x00\x20\x00", "run-length encoding is damaged"),
        (b"\x02\x02\x00\x20", b"\x02\x02\x00\x20\xff\x01\xff\x01", "run-length encoding is damaged"),
    ],
)
def test_hdr_damaged(tmp_path: Path, old: bytes, new: bytes, said: str) -> None:
    path = write_hdr(tmp_path / "a.hdr", room(16))
    path.write_bytes(path.read_bytes().replace(old, new, 1))
    with pytest.raises(errors.FormatError, match=said) as caught:
        radiance.read(path)
    assert len(str(caught.value).splitlines()) == 1


def test_panorama_enlarged_by_interpolation_is_made_small_again(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sharp = torch.from_numpy(rng.uniform(0.1, 1, (1, 3, 64, 2048)).astype(np.float32))
    soft = torch.nn.functional.interpolate(sharp[..., ::4], size=(64, 2048), mode="bicubic").clamp(min=0)
    for pixels, width in ((sharp, 2048), (soft, 1024)):
        path = write_hdr(tmp_path / "wide.hdr", pixels[0].permute(1, 2, 0).numpy().astype(np.float64), rle=False)
        assert scenes.load(path).radiance.shape[2] == width + 2


@pytest.mark.slow
def test_view_looks_where_it_should(tmp_path: Path) -> None:
    """A panorama of its own angles: the middle of a view halves it, and from edge to edge it is the lens's angle."""
    height, width = 256, 512
    longitude = (np.arange(width) + 0.5) / width * 2 * np.pi - np.pi
    latitude = np.pi / 2 - (np.arange(height) + 0.5) / height * np.pi
    grid = np.broadcast_arrays(1 + np.cos(longitude)[None], 1 + np.sin(longitude)[None], 2 + np.sin(latitude)[:, None])
    scene = scenes.load(write_hdr(tmp_path / "angles.hdr", np.stack(grid, -1)))
    view = scenes.view(scene, 96, 25, np.random.default_rng(1)).double().numpy()
    across, up = np.arctan2(view[1] - 1, view[0] - 1), np.arcsin((view[2] - 2).clip(-1, 1))
    forward = np.stack([np.cos(up) * np.sin(across), np.sin(up), np.cos(up) * np.cos(across)], -1)
    between = [np.degrees(np.arccos(np.clip((forward[48, 0] * forward[48, x]).sum(), -1, 1))) for x in (48, 95)]
    assert between[0] == pytest.approx(between[1] / 2, rel=0.05)
    assert between[1] == pytest.approx(2 * np.degrees(np.arctan(18 / 25 * 95 / 96)), abs=0.5)


def test_raw_scene(tmp_path: Path) -> None:
    from paramisp_cli import formats
    from paramisp_cli.types import RawImage

    assert D90 is not None
    assert D90.daylight_neutral is not None
    params = drawn.canonical(D90, 200, D90.daylight_neutral)
    grey = torch.full((3, 240, 260), 0.3)
    mosaic = camera.expose(grey, params, np.zeros((3, 2)), 0, np.random.default_rng(0))
    path = tmp_path / "grey.dng"
    formats.write(RawImage(mosaic, params), path)
    with pytest.raises(errors.FormatError, match="made by paramisp"):
        scenes.load(path)
    path.write_bytes(path.read_bytes().replace(b"paramisp", b"testcamr"))
    scene = scenes.load(path)
    assert not scene.panorama
    assert scene.radiance.shape == (3, 120, 130)
    assert torch.allclose(scene.radiance, torch.tensor(0.3), atol=2e-3)
    assert scenes.view(scene, 96, 50, np.random.default_rng(0)).shape == (3, 96, 96)
    with pytest.raises(errors.FormatError, match="smaller --size"):
        scenes.view(scene, 128, 50, np.random.default_rng(0))


# Shots ---------------------------------------------------------------------------------------------------------------


def test_data_set_for_training(panorama: Path, tmp_path: Path) -> None:
    made = list(shots.make([panorama], tmp_path / "set", plan(3)))
    assert [pair.status for pair in made] == ["pair"] * 3
    assert data.read_index(tmp_path / "set")[0].name == made[0].name
    loaded = data.load(tmp_path / "set")
    for item in loaded:
        assert item.mosaic.dtype == np.uint16
        assert item.srgb.dtype == np.uint8
        assert item.mosaic.shape == item.srgb.shape[:2] == (96, 96)
        assert None not in (item.pair.optical.iso, item.pair.optical.focal_length)
        assert cameras.find(item.pair.camera) in plan().cameras
        assert item.pair.canonical is not None
        assert item.mosaic.max() <= item.pair.canonical.white_level
    batch = crops.Sampler(loaded).batch(2, 88, torch.Generator().manual_seed(0))
    assert batch.srgb.shape == (2, 3, 88, 88)
    assert batch.mosaic.isfinite().all()
    assert (tmp_path / "set" / "contact_sheet.jpg").exists()
    assert [path.name for path in (tmp_path / "set").glob(".*")] == [folder.LOCK]


def test_same_seed_same_shots(panorama: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        list(shots.make([panorama], tmp_path / name, plan(seed=seed)))
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert not {name for name in one if name.endswith(".npz")} & set(contents(tmp_path / "other"))


def test_goes_on_and_grows(panorama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    list(shots.make([panorama], tmp_path / "whole", plan(3)))
    stopped = shots.make([panorama], tmp_path / "set", plan(2))
    first = next(stopped)
    stopped.close()
    shot: list[int] = []
    shoot = shots.shoot
    monkeypatch.setattr(shots, "shoot", lambda p, n, *rest: shot.append(n) or shoot(p, n, *rest))
    again = next(shots.make([panorama], tmp_path / "set", plan(3)))
    assert again.record() == first.record()
    list(shots.make([panorama], tmp_path / "set", plan(3)))
    assert shot == [1, 2]
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")
    (tmp_path / "set" / f"{first.name}.npz").unlink()
    list(shots.make([panorama], tmp_path / "set", plan(3)))
    assert shot == [1, 2, 0]
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


def test_bad_scene_and_the_others(panorama: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.hdr"
    bad.write_bytes(panorama.read_bytes()[:3000])
    made = list(shots.make([bad, panorama], tmp_path / "set", plan(4)))
    assert [pair.status for pair in made] == ["refused", "pair", "pair"]
    assert "cut short" in made[0].reason
    assert len(data.load(tmp_path / "set")) == 2
    bad.write_bytes(panorama.read_bytes())
    assert [pair.status for pair in shots.make([bad, panorama], tmp_path / "set", plan(4))] == ["pair"] * 4
    assert len(data.read_index(tmp_path / "set")) == 4


def colours(size: int = 96) -> torch.Tensor:
    """(3, size, size) linear sRGB: muted patches with edges."""
    rng = np.random.default_rng(2)
    patches = rng.uniform(0.1, 0.35, (3, size // 12, size // 12)).repeat(12, 1).repeat(12, 2)
    return torch.from_numpy(patches.astype(np.float32))


def developed(optical: OpticalParams, name: str = "Nikon D90", noisy: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """(mosaic, picture) of ``colours``; without noise, so that only the processing differs."""
    assert D90 is not None
    assert D90.daylight_neutral is not None
    params = drawn.canonical(D90, optical.iso or 0, D90.daylight_neutral)
    noise = D90.noise_profile(optical.iso) if noisy else np.zeros((3, 2))
    assert noise is not None
    mosaic = camera.expose(colours(), params, noise, 0.4, np.random.default_rng(0))
    return mosaic, camera.develop(mosaic, params, optical, camera.personality(name, 0)).astype(float)


def saturation(picture: np.ndarray) -> float:
    return float((picture.max(-1) - picture.min(-1)).mean())


def edges(picture: np.ndarray) -> float:
    return float(np.abs(np.diff(picture[..., 1], axis=1)).max(1).mean() / picture[..., 1].std())


def test_the_look_follows_the_settings() -> None:
    low, high = (developed(replace(MIDDLE, iso=iso))[1] for iso in (100, 6400))
    assert saturation(low) > 1.2 * saturation(high)
    assert edges(low) > 1.1 * edges(high)
    short, long = (developed(replace(MIDDLE, exposure_time=t))[1] for t in (1 / 4000, 1 / 4))
    assert short.mean() > long.mean() + 15
    for name, value in (("f_number", 1.8), ("focal_length", 200.0)):
        other = developed(replace(MIDDLE, **{name: value}))[1]
        assert np.abs(other - developed(MIDDLE)[1]).mean() > 0.5, name


def test_each_camera_has_a_look_of_its_own() -> None:
    one, again, other = (developed(MIDDLE, name)[1] for name in ("Nikon D90", "Nikon D90", "Canon EOS 60D"))
    assert (one == again).all()
    assert np.abs(one - other).mean() > 2
    assert camera.personality("Nikon D90", 0).settings(MIDDLE) != camera.personality("Nikon D90", 1).settings(MIDDLE)


@pytest.mark.parametrize("settings", [(25600, 4.0, 1.0, 800.0), (50, 1e-4, 32.0, 8.0)])
def test_extreme_settings_give_pictures(settings: tuple[float, ...]) -> None:
    _, picture = developed(OpticalParams(*settings), noisy=True)
    assert 30 < picture.mean() < 225
    assert picture.std() > 8


def test_the_mosaic_has_the_pictures_colours() -> None:
    """Rendered plainly, a mosaic's hues are the scene's: matrix, gains, pattern and levels go together."""
    assert D90 is not None
    assert D90.daylight_neutral is not None
    mosaic, picture = developed(MIDDLE)
    params = drawn.canonical(D90, 800, D90.daylight_neutral)
    raw = torch.from_numpy(mosaic.astype(np.float32))[None, None]
    linear = isp.normalise(raw, torch.tensor(params.black_level, dtype=torch.float32), params.white_level)
    plain = Parametric(Direction.RENDER)(linear, Params.of(params, MIDDLE))[0].permute(1, 2, 0).numpy() * 255
    middles = slice(5, None, 12), slice(5, None, 12)
    opponent = np.array([[1, -1, 0], [0.5, 0.5, -1]]).T
    ours, theirs = ((p[middles] @ opponent).ravel() for p in (plain, picture))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.97


def test_noise_is_the_cameras() -> None:
    assert D90 is not None
    params = drawn.canonical(D90, 3200, np.array([0.5, 1, 0.6]))
    noise = D90.noise_profile(3200)
    assert noise is not None
    mosaic = camera.expose(torch.full((3, 256, 256), 0.4), params, noise, 0, np.random.default_rng(0))
    for place, color in enumerate(params.cfa):
        site = mosaic[place // 2 :: 2, place % 2 :: 2] - params.black_level[0, 0]
        site = site / (params.white_level - params.black_level[0, 0])
        scale, offset = noise["RGB".index(color)]
        assert site.std() == pytest.approx(np.sqrt(scale * site.mean() + offset), rel=0.05)


def test_settings_are_plausible() -> None:
    rng = np.random.default_rng(0)
    for facts in shots.pick_cameras([])[::4]:
        optical = drawn.optical(facts, rng)
        assert optical.iso is not None
        assert optical.exposure_time is not None
        assert optical.f_number is not None
        assert facts.noise_profile(optical.iso) is not None
        ev = np.log2(optical.f_number**2 / optical.exposure_time * 100 / optical.iso)
        assert 4 <= ev <= 15
        neutral = drawn.neutral(facts, rng)
        assert neutral[1] == 1
        assert 0.2 < neutral.min() <= neutral.max() <= 1


# The command ---------------------------------------------------------------------------------------------------------


def test_command(paramisp, panorama: Path, tmp_path: Path) -> None:
    words = (panorama, "-o", tmp_path / "set", "--count", 2, "--size", 96, "--camera", "eos 60d", "--json")
    code, out, _ = paramisp("simulate", *words)
    assert code == 0
    assert [json.loads(line)["camera"]["model"] for line in out] == ["Canon EOS 60D"] * 2


def test_command_with_bad_scenes(paramisp, panorama: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.hdr"
    bad.write_bytes(b"#?RADIANCE\n")
    code, out, said = paramisp("simulate", bad, "-o", tmp_path / "set")
    assert code == 7
    assert len(out) == 1
    assert out[0].startswith(f"refused  {bad}: not a Radiance")
    assert said[0].startswith("0 shots, 1 scenes refused")
    assert paramisp("simulate", bad, panorama, "-o", tmp_path / "set", "--count", 2, "--size", 96)[0] == 0


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--camera", "Nikon D9999"], 2, "not in the camera table"),
        (["--camera", "Fujifilm X-T3"], 2, "does not know its Bayer pattern"),
        (["--count", 0], 2, "--count must be"),
        (["--size", 97], 2, "--size must be even"),
        (["--seed", -1], 2, "--seed must not"),
        (["missing.hdr"], 5, "no such file or folder"),
    ],
)
def test_mistakes_are_one_line(paramisp, panorama: Path, tmp_path: Path, words: list, code: int, said: str) -> None:
    done, out, lines = paramisp("simulate", panorama, "-o", tmp_path / "set", *words)
    assert (done, out, len(lines)) == (code, [], 1)
    assert said in lines[0]


def test_interrupted(paramisp, panorama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shoot = shots.shoot

    def stopped_at_two(made_to: shots.Series, number: int, *rest: object) -> object:
        if number == 2:
            signal.raise_signal(signal.SIGINT)
        return shoot(made_to, number, *rest)

    monkeypatch.setattr(shots, "shoot", stopped_at_two)
    words = ("simulate", panorama, "-o", tmp_path / "set", "--count", 4, "--size", 96)
    code, out, said = paramisp(*words)
    assert code == 130
    assert len(out) == 2
    assert said == ["interrupted after 2 results; run it again to continue"]
    assert len(data.load(tmp_path / "set")) == 2
    assert [path.name for path in (tmp_path / "set").glob(".*")] == [folder.LOCK]
    monkeypatch.setattr(shots, "shoot", shoot)
    assert paramisp(*words)[0] == 0
    assert len(data.load(tmp_path / "set")) == 4


def test_interrupted_between_two_shots(
    paramisp, panorama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paramisp_cli.cli.datasets.result", lambda line: signal.raise_signal(signal.SIGINT))
    assert paramisp("simulate", panorama, "-o", tmp_path / "set", "--count", 3, "--size", 96)[0] == 130
    assert len(data.load(tmp_path / "set")) == 1
    folder.hold(tmp_path / "set", "wait").release()
