"""CONTRIBUTING.md's recipes, followed step by step in a copy of the checkout: the steps named there are enough."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from paramisp_cli import cameras

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def steps(title: str) -> list[str]:
    """Return the numbered steps of a recipe, each in one line; a test that follows them fails when they change."""
    section = GUIDE.split(f"## {title}\n")[1].split("\n## ")[0]
    found = re.findall(r"^\d\. (.*(?:\n   .*)*)", section, re.MULTILINE)
    return [" ".join(step.split()) for step in found]


class Checkout:
    """A copy of the package and its tests, without weights and without real photographs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("paramisp_cli", "tests"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        shutil.copy(ROOT / "pyproject.toml", folder)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text(encoding="utf-8")
        assert text.count(old) == 1, f"{name}: {old!r}"
        self.write(name, text.replace(old, new))

    def python(self, *words: object) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(self.folder), "HOME": str(self.folder), "COLUMNS": "200"}
        for name in ("PARAMISP_WEIGHTS", "PARAMISP_SAMPLES", "XDG_DATA_HOME", "PYTEST_ADDOPTS"):
            environment.pop(name, None)
        command = [sys.executable, *map(str, words)]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, timeout=300, check=False
        )

    def commands(self, *lines: list[object]) -> list[tuple[object, str]]:
        """Run command lines one after the other in one interpreter; return each exit code with all that it printed."""
        script = (
            "import contextlib, io, json, sys\n"
            "from paramisp_cli.cli import app\n"
            "for words in json.loads(sys.argv[1]):\n"
            "    sys.argv, told = ['paramisp', *words], io.StringIO()\n"
            "    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(told):\n"
            "        try:\n"
            "            app.main()\n"
            "        except SystemExit as stop:\n"
            "            code = stop.code\n"
            "    print(json.dumps([code, told.getvalue()]))\n"
        )
        done = self.python("-c", script, json.dumps([[str(word) for word in line] for line in lines]))
        assert done.returncode == 0, done.stderr
        return [tuple(json.loads(line)) for line in done.stdout.splitlines()]

    def tests(self, *words: str) -> int:
        """Run tests of the copy, none of which may fail; return how many passed."""
        done = self.python("-m", "pytest", "-q", "-p", "no:cacheprovider", *words)
        assert done.returncode == 0, done.stdout[-4000:]
        return int(re.search(r"(\d+) passed", done.stdout)[1])


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def photo(path: Path, **more: object) -> Path:
    """Write a picture of odd size."""
    y, x = np.mgrid[:117, :203]
    pixels = np.stack([40 + x, 30 + y, 90 + (x + y) // 4], -1).astype(np.uint8)
    Image.fromarray(pixels).save(path, **more)
    return path


# --- an architecture --------------------------------------------------------------------------------------------------

TOY = '''
"""A small strided network: cells of 8 × 8 px, each of which sees its neighbours."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from paramisp_cli import isp
from paramisp_cli.models.base import Geometry, IspModel, Params
from paramisp_cli.directions import Direction, Kind


class Toy(IspModel):
    """Features of cells, mixed with those of the cells beside them, added to the plain pixels."""

    name = "toy"
    geometry = Geometry(multiple=8, halo=8, smallest=8)

    def __init__(self, direction: Direction) -> None:
        super().__init__(direction)
        self.down = nn.Conv2d(self.direction.input.channels, 16, 8, stride=8)
        self.mix = nn.Conv2d(16, 16, 3, padding=1)
        self.up = nn.Conv2d(16, 64 * self.direction.output.channels, 1)

    def compute(self, x: Tensor, params: Params) -> Tensor:
        """Return the output for sides that are multiples of 8."""
        plain = isp.mosaic(x, params.cfa) if self.direction.input == Kind.SRGB else x.expand(-1, 3, -1, -1)
        features = torch.tanh(self.down(x) + params.iso.log2()[:, None, None, None] / 16)
        return plain + F.pixel_shuffle(self.up(torch.tanh(self.mix(features))), 8)
'''

RECIPE = """
architecture = "toy"
lr = 1e-3
warmup = 1
dtype = "fp32"
evaluate_every = 4
checkpoint_every = 2
[[phases]]
steps = 4
crop = 32
batch = 2
"""


def radiance(path: Path, pixels: np.ndarray) -> Path:
    """Write (H, W, 3) linear light as Radiance RGBE, not compressed: a scene for `paramisp simulate`."""
    mantissa, exponent = np.frexp(pixels.max(-1))
    codes = np.concatenate([pixels * (256 * mantissa / pixels.max(-1))[..., None], 128 + exponent[..., None]], -1)
    head = f"#?RADIANCE\nFORMAT=32-bit_rle_rgbe\n\n-Y {pixels.shape[0]} +X {pixels.shape[1]}\n"
    path.write_bytes(head.encode() + codes.clip(0, 255).astype(np.uint8).tobytes())
    return path


@pytest.fixture
def with_toy(checkout: Checkout) -> Checkout:
    """Follow the steps."""
    first, second, third = steps("Add an architecture")
    assert first.startswith("A file (or a folder) in `models/` with a subclass of `IspModel` (`models/base.py`).")
    checkout.write("paramisp_cli/models/toy.py", TOY)
    assert second.startswith("An `Entry` in `REGISTRY` of `models/__init__.py`, best first")
    last = '    Entry("parametric", '
    line = '    Entry("toy", "paramisp_cli.models.toy:Toy"),\n'
    checkout.edit("paramisp_cli/models/__init__.py", last, line + last)
    assert third.startswith("Its name among the choices of `--model` in `cli/options.py`")
    choices = 'Literal["fast", "paramisp", "parametric"'
    checkout.edit("paramisp_cli/cli/options.py", choices, f'{choices}, "toy"')
    return checkout


@pytest.mark.slow
def test_an_architecture_passes_the_contracts(with_toy: Checkout) -> None:
    """Sizes, CFAs, training phases, and strips and tiles that are no multiples of its period."""
    contracts = (
        "tests/models/test_registry.py",
        "tests/models/test_contract.py",
        "tests/models/test_full_resolution.py",
    )
    assert with_toy.tests(*contracts, "-k", "toy or registry or unknown") >= 60


@pytest.mark.slow
def test_an_architecture_is_trained_and_used(with_toy: Checkout) -> None:
    folder = with_toy.folder
    rng = np.random.default_rng(0)
    scene = radiance(folder / "room.hdr", rng.uniform(0.05, 1, (16, 32, 3)).repeat(12, 0).repeat(12, 1))
    with_toy.write("toy.toml", RECIPE)
    pictures = [photo(folder / f"{name}.jpg", quality=95) for name in ("whole", "strips")]
    own = folder / "weights" / "toy"
    own.mkdir(parents=True)
    trained = folder / "run" / "nikon-d90.unprocess.safetensors"
    train = ["train", "pairs", "--direction", "unprocess", "--recipe", "toy.toml", "--init", "none", "-o", "run"]
    done = with_toy.commands(
        ["simulate", scene, "-o", "pairs", "--count", 3, "--size", 96, "--camera", "Nikon D90"],
        [*train, "--leave-out", "00002"],
        ["weights", "verify", trained],
        ["weights", "info", trained, "--json"],
        ["evaluate", "pairs", "--direction", "unprocess", "--weights", trained, "--json"],
    )
    assert [code for code, _ in done] == [0] * 5, done
    assert json.loads(done[3][1].splitlines()[0])["architecture"] == "toy"
    assert "nikon-d90.unprocess" in done[4][1]

    shutil.copy(trained, own)  # as `weights/` of a checkout holds them
    model = ["--model", "toy", "--camera", "Nikon D90", "--json"]
    done = with_toy.commands(
        ["weights", "list"],
        ["unprocess", pictures[0], *model],
        ["unprocess", pictures[1], *model, "--max-memory", "1MB"],
    )
    assert [code for code, _ in done] == [0] * 3, done
    assert re.search(r"nikon-d90.*toy|toy.*nikon-d90", done[0][1]), done[0][1]
    assert all('"toy"' in told for _, told in done[1:]), done
    script = (
        "import sys, numpy as np, paramisp_cli as paramisp\n"
        "whole, strips = (paramisp.read(name).mosaic.astype(int) for name in sys.argv[1:])\n"
        "assert whole.shape == strips.shape, (whole.shape, strips.shape)\n"
        "assert abs(whole - strips).max() <= 1, abs(whole - strips).max()\n"
    )
    compared = with_toy.python("-c", script, "whole.dng", "strips.dng")
    assert compared.returncode == 0, compared.stderr


# --- a camera ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_camera_is_a_line(checkout: Checkout) -> None:
    first, second, third, fourth = steps("Add a camera")
    assert first == "Add the line, and to `about` at the head of the file the source that it names."
    required = re.search(r"(`name`, .*) are required", GUIDE)
    assert required
    assert set(re.findall(r"`(\w+)`", required[1])) == {"name", "make", "model", "source"}
    average = cameras.GENERIC  # a camera like the average does not move the medians
    assert average.color_matrix is not None
    assert average.daylight_neutral is not None
    row = {
        "name": "Toy Camera One",
        "make": "Toyworks",
        "model": "TC-1",
        "aliases": ["TC-1 Kiss"],
        "cfa": "GBRG",
        "cfa_area": "full",
        "levels": [{"black": 128, "white": 4095}],
        "matrix": [round(10_000 * value) for value in average.color_matrix.flat],
        "daylight": [*(1 / average.daylight_neutral[::2]), "Daylight"],
        "source": "cfa toy, levels toy, matrix toy, daylight toy",
    }
    table = "paramisp_cli/cameras/cameras.json"
    checkout.edit(table, '"cameras": [\n', f'"cameras": [\n{json.dumps(row, separators=(",", ":"))},\n')
    checkout.edit(table, '"about": [\n', '"about": [\n "toy: this test",\n')
    assert second.startswith("Run `pytest tests/test_cameras.py`.")
    assert checkout.tests("tests/test_cameras.py") >= 20
    assert third.startswith("Update the number of cameras in [docs/parameters.md]")
    assert fourth.startswith("`paramisp cameras NAME` now lists it. `paramisp inspect` of a JPEG")
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Toyworks", "TC-1 Kiss"
    photo(checkout.folder / "photo.jpg", exif=exif)
    done = checkout.commands(
        ["cameras", "Toy Camera"], ["inspect", "photo.jpg"], ["unprocess", "photo.jpg"], ["inspect", "photo.dng"]
    )
    assert [code for code, _ in done] == [0] * 4, done
    assert "Toy Camera One" in done[0][1]
    for told in (done[1][1], done[3][1]):
        assert re.search(r"camera +Toyworks TC-1 Kiss", told), told
        assert re.search(r"cfa +GBRG", told), told
        assert re.search(r"white_level +4095", told), told
    assert len(re.findall(r"camera table \(Toy Camera One\)", done[1][1])) == 5, done[1][1]


# --- a format ---------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_format_of_pillow_is_a_branch_and_a_record(checkout: Checkout) -> None:
    """BMP, which is read only: its suffix is among those that paramisp knows but cannot read."""
    first, second, third, fourth, fifth = steps("Add a format")
    folder = "paramisp_cli/formats"
    assert first.startswith(
        "Write the reader. A picture that Pillow decodes needs a branch in `_decoded` of `formats/raster_read.py`"
    )
    last = '    raise FormatError("not a JPEG, PNG, TIFF'
    branch = (
        "    if is_bmp(head):\n"
        "        from PIL.BmpImagePlugin import BmpImageFile\n\n"
        '        return _by_pillow(BmpImageFile, data, "BMP", max_pixels)\n'
    )
    checkout.edit(f"{folder}/raster_read.py", last, branch + last)
    checkout.edit(f"{folder}/raster_read.py", ", is_avif, is_heic, is_webp\n", ", is_avif, is_bmp, is_heic, is_webp\n")

    assert second.startswith("Recognise it: a function of the first bytes in `formats/kinds.py`.")
    before = "def is_avif("
    test = 'def is_bmp(head: bytes) -> bool:\n    """Whether it is BMP."""\n    return head[:2] == b"BM"\n\n\n'
    checkout.edit(f"{folder}/kinds.py", before, test + before)
    checkout.edit(f"{folder}/kinds.py", '    ".bmp": "BMP",\n', "")

    assert third.startswith("Register it: pictures in `FORMATS` of `formats/raster.py`")
    checkout.edit(f"{folder}/raster.py", "HEIC)\n", "HEIC, BMP)\n")
    checkout.edit(f"{folder}/raster.py", "\nFORMATS = (", '\nBMP = _format("BMP", (".bmp",), is_bmp)\nFORMATS = (')
    checkout.edit(f"{folder}/raster.py", ", is_avif, is_heic, is_webp\n", ", is_avif, is_bmp, is_heic, is_webp\n")

    assert fourth.startswith("Test it in `tests/formats/`")
    checkout.edit("tests/formats/test_formats.py", '".hif"}', '".hif", ".bmp"}')
    assert checkout.tests("tests/formats/test_formats.py") >= 20
    assert "help of `unprocess`" in fifth

    pictures = checkout.folder / "pictures"
    pictures.mkdir()
    photo(pictures / "photo.bmp")
    photo(pictures / "same.png")
    damaged = checkout.folder / "damaged.bmp"
    damaged.write_bytes((pictures / "photo.bmp").read_bytes()[:400])
    done = checkout.commands(
        ["unprocess", pictures, "-o", "raws"], ["unprocess", damaged], ["unprocess", damaged, "--max-pixels", "1000"]
    )
    assert [code for code, _ in done] == [0, 7, 7], done
    assert "damaged.bmp" in done[1][1]
    assert "megapixels allowed" in done[2][1]
    script = (
        "import paramisp_cli as paramisp\n"
        "one, two = (paramisp.read(f'raws/{name}.dng').mosaic for name in ('photo', 'same'))\n"
        "assert (one == two).all()\n"
    )
    assert checkout.python("-c", script).returncode == 0
