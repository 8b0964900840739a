"""Build the wheel, install it into an empty virtual environment, and use it there, away from the checkout.

    python tests/distribution/try_wheel.py

pip resolves every dependency that the wheel declares. PyTorch alone, with its own dependencies, is borrowed from the
environment that runs this script: links to its folders spare the largest download. Prints a line for each step.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
START = time.monotonic()
NETWORKS = {"fast", "paramisp"}


def step(text: str) -> None:
    print(f"{time.monotonic() - START:5.1f} s  {text}", flush=True)


def run(*words: object, cwd: Path) -> str:
    """Run a command with an environment that leads to no checkout, weights or user folder; return its stdout."""
    left = {"PYTHONPATH", "PARAMISP_WEIGHTS", "VIRTUAL_ENV", "XDG_DATA_HOME"}
    environment = {name: value for name, value in os.environ.items() if name not in left}
    # pip's settings lie in the real home folder; paramisp must not find the user's weights there.
    home = {} if "pip" in map(str, words) else {"HOME": str(cwd)}
    done = subprocess.run(
        [*map(str, words)], cwd=cwd, env=environment | home, capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, words))}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def needed_by(name: str) -> set[str]:
    """Return a distribution and everything installed that it requires, however indirectly; extras apart."""
    found: set[str] = set()
    left = [name]
    while left:
        name = left.pop()
        try:
            requires = metadata.distribution(name).requires or []
        except metadata.PackageNotFoundError:  # for another system
            continue
        if name not in found:
            found.add(name)
            left += [re.split(r"[^\w.-]", each)[0] for each in requires if "extra ==" not in each]
    return found


def borrow(name: str, folder: Path) -> None:
    """Link the files of a distribution and of its requirements into a folder."""
    folder.mkdir()
    for each in sorted(needed_by(name)):
        distribution = metadata.distribution(each)
        home = Path(str(distribution.locate_file("")))
        tops = {Path(file).parts[0] for file in distribution.files or ()}
        for top in sorted(tops - {"..", "__pycache__"}):
            link = folder / top
            if (home / top).exists() and not link.exists():
                link.symlink_to(home / top)


def site_packages(python: Path, cwd: Path) -> Path:
    return Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=cwd).strip())


def main() -> None:
    """Run the steps; any failure ends the program with its output."""
    with tempfile.TemporaryDirectory(prefix="paramisp-wheel-") as name:
        folder = Path(name)
        work = folder / "work"
        work.mkdir()

        run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=work)
        (wheel,) = folder.glob("*.whl")
        step(f"built {wheel.name}, {wheel.stat().st_size / 1e6:.1f} MB")

        run(sys.executable, "-m", "venv", folder / "env", cwd=work)
        python = folder / "env" / "bin" / "python"
        site = site_packages(python, work)
        assert not list(site.glob("*torch*"))
        borrow("torch", folder / "borrowed")
        (site / "borrowed.pth").write_text(f"{folder / 'borrowed'}\n")
        run(python, "-m", "pip", "install", "-q", "--no-compile", wheel, cwd=work)
        installed = run(python, "-m", "pip", "list", "--path", site, cwd=work)
        assert "paramisp" in installed
        assert "torch" not in installed
        run(python, "-m", "pip", "check", cwd=work)
        step("installed it with its dependencies; PyTorch is borrowed")

        paramisp = folder / "env" / "bin" / "paramisp"
        assert (folder / "env" / "share" / "man" / "man1" / "paramisp.1").read_text().startswith('.\\"')
        (version,) = re.findall(r'__version__ = "(.*)"', (ROOT / "paramisp_cli" / "__init__.py").read_text())
        assert run(paramisp, "--version", cwd=work) == f"paramisp {version}\n"
        where = run(python, "-c", "import paramisp_cli as p; print(p.__file__)", cwd=work)
        assert where.startswith(str(site)), where
        assert (site / "paramisp_cli" / "py.typed").exists()
        step(f"paramisp {version} runs, and has its man page")

        listed = run(paramisp, "weights", "list", cwd=work)
        shipped = sorted(path.relative_to(ROOT / "weights") for path in (ROOT / "weights").rglob("*.safetensors"))
        for path in shipped:
            assert path.name.split(".")[0] in listed, f"{path} is not listed:\n{listed}"
            assert (site / "paramisp_cli" / "shipped_weights" / path).is_file(), path
        assert len(shipped) >= 2
        assert str(ROOT) not in listed, listed
        step(f"lists the {len(shipped)} files of weights")

        y, x = np.mgrid[:96, :128]
        pixels = np.stack([60 + x, 40 + y, 90 + (x + y) // 4], -1).astype(np.uint8)
        Image.fromarray(pixels).save(work / "photo.jpg", quality=95)
        told = run(paramisp, "unprocess", "photo.jpg", "--json", "--on-exists", "error", cwd=work)
        assert json.loads(told.splitlines()[0])["model"] in NETWORKS, f"a network should have made the DNG:\n{told}"
        run(paramisp, "render", "photo.dng", "-o", "again.png", cwd=work)
        with Image.open(work / "again.png") as picture:
            again = np.asarray(picture.convert("RGB")).astype(int)
        off = float(np.abs(again - pixels).mean())
        assert again.shape == pixels.shape
        assert off < 10, f"there and back differs by {off:.1f} codes of 255"
        step(f"photo.jpg → photo.dng → again.png; {off:.1f} codes of 255 apart")

        (work / "log.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
        run(paramisp, "report", work, "-o", "report.html", cwd=work)  # its style and script are files of the package
        assert "data-chooser" in (work / "report.html").read_text("utf-8")
        step("writes a report")
    step("the wheel works")


if __name__ == "__main__":
    main()
