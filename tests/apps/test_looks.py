"""Exported looks: a known look comes back, held-out colours are apart, other programs show the look, bad input."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import tifffile

import paramisp_cli as paramisp_lib
from paramisp_cli import cameras, color, convert, mosaic
from paramisp_cli.apps import looks
from paramisp_cli.errors import ConfigError, OutputExistsError, ParamispError
from paramisp_cli.formats import lut, tiff
from paramisp_cli.parameters import Settings
from paramisp_cli.types import Camera, CanonicalParams, RawImage

FACTS = cameras.find_by_name("Canon EOS 5D Mark IV")
KNOWN = Settings(model="parametric", exposure=0.5)
"""A look that is a table: half a stop, clipping, and smoothstep on encoded values."""


def shot(path: Path, seed: int = 0, size: tuple[int, int] = (240, 360), model: str = "EOS 5D Mark IV") -> Path:
    """Write a DNG of soft colours, some of them dark, some clipped."""
    rng = np.random.default_rng(seed)
    coarse = rng.uniform(0, 1, (9, 13, 3)) ** 2.2 * rng.uniform(0.1, 1.2, (9, 13, 1))
    rows, columns = (np.linspace(0, n - 1.001, side) for n, side in zip((9, 13), size, strict=True))
    top, left = rows.astype(int), columns.astype(int)
    y, x = (rows - top)[:, None, None], (columns - left)[None, :, None]
    one, two = ((1 - x) * coarse[at][:, left] + x * coarse[at][:, left + 1] for at in (top, top + 1))
    light = np.clip(((1 - y) * one + y * two) * [0.5, 1, 0.7], 0, 1)
    canonical = CanonicalParams("RGGB", 512, 15871, np.array([0.5, 1, 0.7]), FACTS.color_matrix)
    codes = np.rint(mosaic.sampled(light, "RGGB") * (15871 - 512) + 512).astype(np.uint16)
    raw = RawImage(codes, canonical, camera=Camera("Canon", f"Canon {model}"))
    paramisp_lib.write(raw, path, paramisp_lib.WriteOptions(profile="adobe"))
    return path


def smoothstep(x: np.ndarray) -> np.ndarray:
    return x * x * (3 - 2 * x)


def difference(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """ΔE2000 of sRGB-encoded pictures, without their edges."""
    pictures = [color.srgb_to_lab(color.srgb_decode(picture[8:-8, 8:-8])) for picture in (one, other)]
    return color.ciede2000(*pictures)


@pytest.mark.slow
def test_a_known_look_comes_back(tmp_path: Path) -> None:
    gathered = looks.gather([shot(tmp_path / "a.dng")], KNOWN)
    table = looks.fitted(*gathered.fit, gathered.weight, 33)
    grey = np.linspace(0.1, 0.7, 50)[:, None].repeat(3, 1)
    truth = smoothstep(color.srgb_encode(np.clip(color.srgb_decode(grey) * 2**0.5, 0, 1)))
    assert lut.applied(table, grey) == pytest.approx(truth, abs=0.01)
    error = looks.error(gathered, lambda colours: lut.applied(table, colours))
    assert error.median < 0.3
    assert error.neutral > 3
    assert gathered.held_out == "a quarter of the picture"


@pytest.mark.slow
def test_the_fit_never_sees_what_is_held_out(tmp_path: Path) -> None:
    paths = [shot(tmp_path / f"{seed}.dng", seed) for seed in range(3)]
    gathered = looks.gather(paths, KNOWN)
    assert gathered.held_out == "1 of 3 shots"
    seen, held = ({tuple(row) for row in side[0] if row.min() > 0 and row.max() < 1} for side in _both(gathered))
    alone = _both(looks.gather([paths[1]], KNOWN))
    assert held
    assert not seen & held
    assert held <= {tuple(row) for side in alone for row in side[0]}


def _both(look: looks.Look) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    return look.fit, look.held


@pytest.mark.slow
def test_an_error_of_the_table_would_be_seen(tmp_path: Path) -> None:
    gathered = looks.gather([shot(tmp_path / "a.dng")], KNOWN)
    table = looks.fitted(*gathered.fit, gathered.weight, 17)
    swapped = table.transpose(2, 1, 0, 3)
    assert looks.error(gathered, lambda colours: lut.applied(swapped, colours)).median > 5


@pytest.mark.slow
def test_weights_on_a_chart() -> None:
    gathered = looks.gather([], Settings(weights="canon-eos-60d"))
    table = looks.fitted(*gathered.fit, gathered.weight, 33)
    error = looks.error(gathered, lambda colours: lut.applied(table, colours))
    assert error.median < 2
    assert error.neutral > 2 * error.median


def test_weights_of_no_camera() -> None:
    with pytest.raises(ConfigError, match="pass a RAW file, too"):
        looks.gather([], Settings(weights="generic"))


@pytest.mark.slow
def test_the_profile_of_a_brightened_dng_cancels_its_exposure(tmp_path: Path) -> None:
    """The fit begins at the sensor's exposure; a reader adds the file's own and the profile's."""
    raw = paramisp_lib.read(shot(tmp_path / "a.dng"))
    bright = tmp_path / "bright.dng"
    paramisp_lib.write(replace(raw, baseline_exposure=1.0), bright, paramisp_lib.WriteOptions(profile="adobe"))
    settings = Settings(model="parametric", exposure=-0.5)  # and the file's own: half a stop
    plain, gathered = looks.gather([tmp_path / "a.dng"], KNOWN), looks.gather([bright], settings)
    assert gathered.fit[0] == pytest.approx(plain.fit[0], abs=1e-6)
    assert gathered.fit[1] == pytest.approx(plain.fit[1], abs=1e-4)
    (tmp_path / "a.dcp").write_text("an older one")
    looks.export(gathered, tmp_path / "a.dcp", 0, overwrite=True)
    (tags,) = tiff.parse_ifds(b"II*\0" + (tmp_path / "a.dcp").read_bytes()[4:])
    assert tags[51109].values() == (-1.0,)


def test_two_cameras(tmp_path: Path) -> None:
    paths = [shot(tmp_path / "a.dng"), shot(tmp_path / "b.dng", model="EOS 60D")]
    with pytest.raises(ConfigError, match="one camera at a time"):
        looks.gather(paths, KNOWN)


@pytest.mark.slow
def test_no_file_is_replaced(tmp_path: Path) -> None:
    gathered = looks.gather([shot(tmp_path / "a.dng")], KNOWN)
    for suffix, size in ((".cube", 5), (".png", 4), (".dcp", 0)):
        path = tmp_path / f"look{suffix}"
        path.write_text("mine")
        with pytest.raises(OutputExistsError, match=path.name):
            looks.export(gathered, path, size)
        assert path.read_text() == "mine"
        if size:  # a profile is replaced in the test above: its fit takes seconds
            looks.export(gathered, path, size, overwrite=True)
            assert path.stat().st_size > 100


# --- other programs ---------------------------------------------------------------------------------------------------


def need(program: str) -> str:
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    return program


def rawtherapee(dng: Path, profile: str = "") -> np.ndarray:
    """Develop a DNG by RawTherapee's neutral profile and these lines → (H, W, 3) in [0, 1]."""
    out, settings = dng.with_suffix(".rawtherapee.tif"), dng.with_suffix(".pp3")
    settings.write_text(f"[Version]\nAppVersion=5.9\nVersion=349\n\n[RAW Bayer]\nBorder=0\n\n{profile}\n")
    words = [need("rawtherapee-cli"), "-Y", "-t", "-b16", "-o", out, "-p", settings, "-c", dng]
    subprocess.run(words, capture_output=True, check=True, timeout=120)
    return tifffile.imread(out) / 65535


def darktable(dng: Path, table: str) -> np.ndarray:
    """Develop a DNG by darktable, with a table of its folder in the module lut3d (version 3 of its parameters)."""
    values = struct.pack("<512siii12288s128s", table.encode(), 0, 0, 0, b"", b"")  # sRGB, tetrahedral
    sidecar, out = dng.with_suffix(".xmp"), dng.with_suffix(f".{table}.tif")
    sidecar.write_text(
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:darktable="http://darktable.sf.net/" darktable:xmp_version="5" '
        'darktable:auto_presets_applied="1" darktable:history_end="1" darktable:iop_order_version="2">'
        '<darktable:history><rdf:Seq><rdf:li darktable:num="0" darktable:operation="lut3d" darktable:enabled="1" '
        f'darktable:modversion="3" darktable:params="{values.hex()}"/></rdf:Seq></darktable:history>'
        "</rdf:Description></rdf:RDF></x:xmpmeta>"
    )
    words = [
        need("darktable-cli"), dng, sidecar, out, "--apply-custom-presets", "false", "--icc-type", "SRGB",
        "--core", "--configdir", dng.parent / "darktable", "--library", ":memory:",
        "--conf", "plugins/darkroom/workflow=none", "--conf", "plugins/imageio/format/tiff/bpp=16",
        "--conf", f"plugins/darkroom/lut3d/def_path={dng.parent}",
    ]  # fmt: skip
    subprocess.run(words, capture_output=True, check=True, timeout=120)
    return tifffile.imread(out) / 65535


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray, looks.Look]:
    path = shot(tmp_path_factory.mktemp("look") / "a.dng")
    shown = convert.render(path, Settings(model="parametric", exposure=0.5, bit_depth=16)).pixels / 65535
    return path, shown, looks.gather([path], KNOWN)


@pytest.fixture
def ours(once: tuple[Path, np.ndarray, looks.Look], tmp_path: Path) -> tuple[Path, np.ndarray, looks.Look]:
    """A RAW in a folder of the test's own, the picture that its look shows, and the look."""
    path, shown, gathered = once
    return Path(shutil.copy(path, tmp_path)), shown, gathered


WORKFLOWS = ("scene-referred", "none")
"""Of darktable: with its tone mapper and exposure, and without."""


@pytest.mark.slow
def test_rawtherapee_shows_the_look(ours: tuple[Path, np.ndarray, looks.Look]) -> None:
    path, shown, gathered = ours
    clut = path.with_name("look.png")
    looks.export(gathered, clut, 64)
    plain = difference(rawtherapee(path), shown)
    made = difference(rawtherapee(path, f"[Film Simulation]\nEnabled=true\nClutFilename={clut}\nStrength=100"), shown)
    assert np.median(plain) > 3
    assert np.median(made) < 2


@pytest.mark.slow
def test_rawtherapee_shows_the_profile(ours: tuple[Path, np.ndarray, looks.Look]) -> None:
    path, shown, gathered = ours
    profile = path.with_name("look.dcp")
    error = looks.export(gathered, profile, 0)
    lines = f"[Color Management]\nInputProfile=file:{profile}\nToneCurve=true\nApplyLookTable="
    without, made = (difference(rawtherapee(path, lines + flag), shown) for flag in ("false", "true"))
    assert np.median(made) < 2
    assert np.median(made) < np.median(without)
    assert error.median < 2


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), [("look.cube", 33), ("look.png", 64)])
def test_darktable_shows_the_look(ours: tuple[Path, np.ndarray, looks.Look], name: str, size: int) -> None:
    path, shown, gathered = ours
    looks.export(gathered, path.with_name(name), size)
    assert np.median(difference(darktable(path, name), shown)) < 2


def by_darktable(dng: Path, out: str, *words: object, workflow: str) -> np.ndarray:
    """Develop a DNG by darktable with more words, in a workflow of darktable → (H, W, 3) in [0, 1]."""
    target = dng.with_name(out)
    assert not target.exists()  # darktable would take another name
    command = [
        need("darktable-cli"), dng, *words[:1], target, *words[1:], "--icc-type", "SRGB", "--core",
        "--configdir", dng.parent / "darktable", "--library", ":memory:",
        "--conf", f"plugins/darkroom/workflow={workflow}", "--conf", "plugins/imageio/format/tiff/bpp=16",
        "--conf", f"plugins/darkroom/lut3d/def_path={dng.parent}",
    ]  # fmt: skip
    subprocess.run([word for word in command if word != ""], capture_output=True, check=True, timeout=120)
    return tifffile.imread(target) / 65535


@pytest.mark.slow
def test_darktable_shows_the_sidecar(ours: tuple[Path, np.ndarray, looks.Look]) -> None:
    """The sidecar overrides the tone mapper and the exposure of the workflow."""
    path, shown, gathered = ours
    error = looks.export(gathered, path.with_name("mine.xmp"), 33)
    assert error.median < 1
    for workflow in WORKFLOWS:
        plain = difference(by_darktable(path, f"plain.{workflow}.tif", "", workflow=workflow), shown)
        sidecar = path.with_name("mine.xmp")
        made = difference(by_darktable(path, f"made.{workflow}.tif", sidecar, workflow=workflow), shown)
        assert np.median(plain) > 3, workflow
        assert np.median(made) < 1, workflow


@pytest.mark.slow
def test_darktable_shows_the_style(ours: tuple[Path, np.ndarray, looks.Look]) -> None:
    """darktable imports the style by itself, through its own scripts, and applies it by name."""
    path, shown, gathered = ours
    style = path.with_name("my <look> & more.dtstyle")
    looks.export(gathered, style, 33)
    script = f"require('darktable').styles.import([[{style}]])"
    words = ("", "--style", style.stem, "--style-overwrite")
    by_darktable(path, "first.tif", "", workflow="none")  # makes the settings
    command = ["--luacmd", script]
    subprocess.run(
        [need("darktable-cli"), path, path.with_name("import.tif"), "--core",
         "--configdir", path.parent / "darktable", "--library", ":memory:", *command],
        capture_output=True, check=True, timeout=120,
    )  # fmt: skip
    for workflow in WORKFLOWS:
        made = difference(by_darktable(path, f"{workflow}.tif", *words, workflow=workflow), shown)
        assert np.median(made) < 1, workflow


@pytest.mark.slow
def test_a_style_and_its_table_exist_both_or_neither(tmp_path: Path) -> None:
    gathered = looks.gather([shot(tmp_path / "a.dng")], KNOWN)
    for name in ("look.dtstyle", "look.xmp"):
        (tmp_path / "look.cube").write_text("mine")
        with pytest.raises(OutputExistsError, match=r"look\.cube: exists already"):
            looks.export(gathered, tmp_path / name, 5)
        (tmp_path / "look.cube").unlink()
        (tmp_path / name).write_text("mine")
        with pytest.raises(OutputExistsError, match=name):
            looks.export(gathered, tmp_path / name, 5)
        assert not (tmp_path / "look.cube").exists()
        looks.export(gathered, tmp_path / name, 5, overwrite=True)
        root = ElementTree.parse(tmp_path / name).getroot()
        told = {each.text for each in root.iter("operation")} | {
            each.get("{http://darktable.sf.net/}operation") for each in root.iter()
        }
        assert {"lut3d", "exposure", "filmicrgb", "sigmoid", "basecurve"} <= told
        assert "LUT_3D_SIZE 5" in (tmp_path / "look.cube").read_text()
        (tmp_path / name).unlink()
        (tmp_path / "look.cube").unlink()


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_command(paramisp, tmp_path: Path) -> None:
    out = tmp_path / "look.cube"
    code, told, messages = paramisp("look", "export", shot(tmp_path / "a.dng"), "-o", out, "--size", "9", "--json")
    assert code == 0, messages
    (record,) = map(json.loads, told)
    assert record["output"] == str(out)
    assert 0 < record["delta_e_2000"]["median"] < record["delta_e_2000"]["percentile_95"]
    assert "LUT_3D_SIZE 9" in out.read_text()


@pytest.mark.slow
def test_command_for_darktable(paramisp, tmp_path: Path) -> None:
    out = tmp_path / "look.dtstyle"
    dng = shot(tmp_path / "a.dng")
    code, told, messages = paramisp("look", "export", dng, "-o", out, "--size", "9")
    assert (code, told) == (0, [str(tmp_path / "look.cube"), str(out)]), messages
    assert any("copy look.cube into darktable's folder of 3D LUTs" in line for line in messages)
    code, told, messages = paramisp("look", "export", dng, "-o", tmp_path / "look.xmp")
    assert (code, told) == (6, [])
    assert "look.cube: exists already" in messages[0]


@pytest.mark.slow
def test_messages_of_the_command(paramisp, tmp_path: Path) -> None:
    out = tmp_path / "look.png"
    code, told, messages = paramisp("look", "export", "canon-eos-60d", "-o", out, "--size", "16")
    assert (code, told) == (0, [str(out)])
    assert any("ΔE2000 median" in line and "local changes are lost" in line for line in messages)


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["a.dng", "-o", "look.lut"], 2, "-o look.lut: a look is written as .cube"),
        (["a.dng", "-o", "look.png", "--size", "33"], 2, "--size 33: a HaldCLUT has 4, 9"),
        (["a.dng", "-o", "look.cube", "--size", "1"], 2, "--size 1: a .cube has 2 to 129 steps"),
        (["a.dng", "-o", "no/look.cube"], 4, "no/look.cube: cannot write it: there is no folder no"),
        (["a.dng", "-o", "look.dcp", "--size", "9"], 2, "--size: is for tables"),
        (["photo.jpg", "-o", "look.cube"], 7, "photo.jpg: is a picture; pass a RAW file"),
        (["b.dng", "-o", "look.cube"], 5, "b.dng: no such file"),
        (["a.dng", "-o", "old.cube"], 6, "old.cube: exists already"),
        (["bad.dng", "-o", "look.cube"], 7, "bad.dng: "),
        (["no-such-weights", "-o", "look.cube"], 8, "no-such-weights: no such file or checkpoint"),
        (["generic", "-o", "look.cube"], 2, "generic: weights of no camera"),
        (["generic", "canon-eos-60d", "-o", "look.cube"], 2, "pass one name of weights"),
    ],
)
def test_bad_input(paramisp, tmp_path: Path, monkeypatch, words: list[str], code: int, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    shot(tmp_path / "a.dng")
    (tmp_path / "old.cube").write_text("mine")
    (tmp_path / "bad.dng").write_bytes(b"II*\0nothing")
    found, told, messages = paramisp("look", "export", *words)
    assert (found, told, len(messages)) == (code, [], 1), messages
    assert message in messages[0]
    assert (tmp_path / "old.cube").read_text() == "mine"
    assert not (tmp_path / "look.cube").exists()


def test_errors_are_ours(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    paramisp_lib.write(paramisp_lib.SrgbImage(np.zeros((8, 8, 3), np.uint8)), picture)
    with pytest.raises(ParamispError, match=r"a\.png: is a picture, not a RAW file"):
        looks.gather([picture], KNOWN)
