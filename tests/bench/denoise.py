"""Train one small denoiser on RAWs made in two ways, and measure it on real RAW files.

    python tests/bench/denoise.py train WORK PICTURE… [--minutes 4] [--seeds 2]
    python tests/bench/denoise.py measure WORK [--sheet sheet.png] [RAW…]

RAWs are made of the pictures, halved to lose their JPEG's traces, by "brooks" (Brooks et al., "Unprocessing Images for
Learned Raw Denoising", CVPR 2019: inverse of a smooth step, gamma 2.2, random matrix and gains) or by "ours"
(``Synthesize("generic")``, all cameras of the table, two stops of exposure). Noise is "brooks" (their random line of
shot and read noise) or "ours" (the camera table's at any of its ISOs). Each pair of the two gets one training: the same
network, pictures, patches and processor time. The network is told the σ of the noise, as in the paper.

Tests, on real RAW files that no training saw:

* "truth": RAW files at low ISO, 2×2 samples of a plane averaged, with the noise that was measured in the flat windows
  of real files at high ISO (bench_noise.py). PSNR in dB of planes, and of pictures by the parametric ISP.
* "real noise": those files of high ISO themselves. Without a truth, the error is estimated by Stein's rule, which needs
  the variance of the noise alone: mean (f(y) − y)² − σ² + 2 σ² ∂f/∂y, the derivative by a random direction.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import bench_noise
import numpy as np
import real_raws
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import paramisp_cli as paramisp
from paramisp_cli import cameras
from paramisp_cli.torch import AddNoise, Render, Shots, Synthesize
from paramisp_cli.types import OpticalParams, RawImage

SIDE, BATCH, POOL = 64, 8, 3000
KINDS = ("brooks", "ours")
MATRIX_CAMERAS = ("Sony ILCE-7R", "Olympus E-M10", "Sony DSC-RX100M4", "Google Pixel 6")
"""Three of the paper's four cameras; the table lacks the Nexus 6P, for which another phone stands."""
FLOOR = 1e-4
HIGH_ISO = 3200
CLIPPED = 0.9
"""Light beyond which the noise of a real file is clipped, so that its variance is not known."""
CROPS, CROP = 6, 256
"""Crops of each test file, and their side in samples of a plane."""


class Denoiser(nn.Module):
    """U-Net of two levels on roots: noisy planes and σ (N, 4, h, w) → clean planes; h and w multiples of 4."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()

        def two(wide: int, out: int) -> nn.Sequential:
            steps = (nn.Conv2d(wide, out, 3, padding=1), nn.ReLU(), nn.Conv2d(out, out, 3, padding=1), nn.ReLU())
            return nn.Sequential(*steps)

        self.first, self.second, self.third = two(8, width), two(width, 2 * width), two(2 * width, 4 * width)
        self.up2, self.up1 = nn.Conv2d(4 * width, 8 * width, 1), nn.Conv2d(2 * width, 4 * width, 1)
        self.fourth, self.fifth = two(4 * width, 2 * width), two(2 * width, width)
        self.tail = nn.Conv2d(width, 4, 3, padding=1)
        nn.init.zeros_(self.tail.weight)

    def roots(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return signed roots of the clean planes."""
        start = root(noisy)
        first = self.first(torch.cat([start, 4 * sigma.sqrt()], 1))
        second = self.second(F.avg_pool2d(first, 2))
        third = F.pixel_shuffle(self.up2(self.third(F.avg_pool2d(second, 2))), 2)
        fourth = F.pixel_shuffle(self.up1(self.fourth(torch.cat([second, third], 1))), 2)
        return start + self.tail(self.fifth(torch.cat([first, fourth], 1)))

    def forward(self, noisy: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean planes."""
        result = self.roots(noisy, sigma)
        return result * (result.abs() + 2 * FLOOR**0.5)


def root(x: Tensor) -> Tensor:
    """Return signed square roots, whose slope is finite at 0."""
    return x.sign() * ((x.abs() + FLOOR).sqrt() - FLOOR**0.5)


def patches(pictures: Sequence[Path], seed: int) -> Tensor:
    """Cut the same uint8 patches (POOL, 3, 2·SIDE, 2·SIDE) of halved pictures for every training."""
    rng = np.random.default_rng(seed)
    halved = []
    for path in pictures:
        picture = Image.open(path).convert("RGB")
        halved.append(np.array(picture.reduce(2)))
    side, made = 2 * SIDE, []
    for number in range(POOL):
        picture = halved[number % len(halved)]
        row, column = (int(rng.integers(0, size - side + 1)) for size in picture.shape[:2])
        made.append(picture[row : row + side, column : column + side])
    return torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2).contiguous()


def brooks_raw(pixels: Tensor, rng: np.random.Generator) -> Tensor:
    """Return planes (4, h, w) of one picture (3, H, W), uint8, by the paper's inverse."""
    x = pixels.double() / 255
    x = 0.5 - torch.sin(torch.asin(1 - 2 * x) / 3)
    x = x.clamp(min=1e-8) ** 2.2
    matrices = [np.asarray(facts.color_matrix) for name in MATRIX_CAMERAS if (facts := cameras.find_by_name(name))]
    shares = rng.uniform(0, 1, len(matrices))
    xyz_to_cam = np.tensordot(shares / shares.sum(), matrices, 1)
    srgb_to_xyz = np.array(
        [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
    )
    matrix = xyz_to_cam @ srgb_to_xyz
    matrix /= matrix.sum(1, keepdims=True)
    x = torch.einsum("ij,jhw->ihw", torch.from_numpy(matrix), x)
    gains = torch.tensor([1 / rng.uniform(1.9, 2.4), 1.0, 1 / rng.uniform(1.5, 1.9)]) * rng.normal(0.8, 0.1)
    grey = x.mean(0, keepdim=True)
    bright = ((grey - 0.9).clamp(min=0) / 0.1) ** 2
    x = x * torch.maximum(bright + (1 - bright) * gains[:, None, None], gains[:, None, None])
    x = x.clamp(0, 1).float()
    return torch.stack([x[0, ::2, ::2], x[1, ::2, 1::2], x[1, 1::2, ::2], x[2, 1::2, 1::2]])


def made(pool: Tensor, raws: str, noise: str, seed: int) -> tuple[Tensor, list[Shots], Tensor]:
    """Return clean planes of the pool, shots of cameras, and the lines of noise (N, 2) of the paper."""
    rng, generator = np.random.default_rng(seed + 1), torch.Generator().manual_seed(seed + 1)
    synthesize = Synthesize("generic", exposure=(-2, 0))
    clean, shots = [], []
    for batch in pool.split(BATCH):
        some = Shots.draw(len(batch), exposure=(-2, 0), generator=generator)
        shots.append(some)
        if raws == "ours":
            with torch.no_grad():
                clean.append(synthesize.unprocess(batch, some))
        else:
            clean.append(torch.stack([brooks_raw(each, rng) for each in batch]))
    shot = rng.uniform(np.log(1e-4), np.log(0.012), len(pool))
    read = rng.normal(2.18 * shot + 1.2, 0.26)
    return torch.cat(clean), shots, torch.from_numpy(np.exp(np.stack([shot, read], 1))).float()


def train(work: Path, pictures: Sequence[Path], minutes: float, seeds: int) -> None:
    """Train what has not been trained."""
    work.mkdir(parents=True, exist_ok=True)
    for seed in range(seeds):
        pool = patches(pictures, seed)
        for raws in KINDS:
            for noise in KINDS:
                path = work / f"{raws}-{noise}-{seed}.pt"
                if not path.exists():
                    torch.save(trained(made(pool, raws, noise, seed), noise, minutes, seed), path)


def trained(data: tuple[Tensor, list[Shots], Tensor], noise: str, minutes: float, seed: int) -> dict:
    """Train a fresh network for some minutes of one core; return its weights and number of steps."""
    clean, shots, lines = data
    torch.manual_seed(seed)
    model = Denoiser()
    optimiser, add = torch.optim.Adam(model.parameters(), 1e-3), AddNoise(shot="gaussian")
    start, step, limit = time.process_time(), 0, 60 * minutes
    while (spent := time.process_time() - start) < limit:
        for group in optimiser.param_groups:
            group["lr"] = 1e-3 * min(1, (step + 1) / 50) * 0.5 * (1 + np.cos(np.pi * spent / limit))
        number = int(torch.randint(len(shots), ()))
        target = clean[number * BATCH : (number + 1) * BATCH]
        if noise == "ours":
            noisy, variance = add(target, shots[number])
        else:
            own = lines[number * BATCH : (number + 1) * BATCH, :, None, None, None]
            variance = own[:, 0] * target + own[:, 1]
            noisy = target + variance.sqrt() * torch.randn_like(target)
        turn = int(torch.randint(2, ()))
        noisy, variance, wanted = ((x.transpose(2, 3) if turn else x) for x in (noisy, variance, target))
        loss = F.l1_loss(model.roots(noisy, variance.sqrt()), root(wanted))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        step += 1
    print(f"{noise} noise: {step} steps, last loss {loss.item():.4f}", flush=True)
    return {"model": model.state_dict(), "steps": step}


def planes(raw: RawImage) -> Tensor:
    """Return the planes R, Gr, Gb, B (4, h, w) of a RAW, linear, black 0, white 1."""
    cfa, black = raw.canonical.cfa, raw.canonical.black_level
    red = cfa.index("R")
    order = [red, red ^ 1, red ^ 2, red ^ 3]
    light = [
        (raw.mosaic[site // 2 :: 2, site % 2 :: 2].astype(np.float32) - black[site // 2, site % 2])
        / np.float32(raw.canonical.white_level - black[site // 2, site % 2])
        for site in order
    ]
    rows, columns = (min(plane.shape[axis] for plane in light) for axis in (0, 1))
    return torch.from_numpy(np.stack([plane[:rows, :columns] for plane in light]).astype(np.float32))


def crops(x: Tensor) -> Iterator[Tensor]:
    """Give crops (1, 4, CROP, CROP) along the diagonals of planes."""
    height, width = (size - CROP for size in x.shape[1:])
    for number in range(CROPS):
        share = (number + 0.5) / CROPS
        row, column = int(share * height), int((share if number % 2 else 1 - share) * width)
        yield x[None, :, row : row + CROP, column : column + CROP]


def measured_noise(raw: RawImage) -> Tensor | None:
    """Return the line of noise (4, 2) of a RAW, from its flat windows; None if it has too few."""
    light, lines = planes(raw).numpy(), []
    for channel in ((0,), (1, 2), (3,)):
        found = [bench_noise.flat_windows(light[each]) for each in channel]
        level, variance = (np.concatenate([each[part] for each in found]) for part in (0, 1))
        if len(level) < 6 * bench_noise.LEVELS:
            return None
        points = bench_noise.by_level(level, variance)
        terms = np.stack([points[:, 0], np.ones(len(points))], 1) / points[:, 1:]
        slope, offset = np.linalg.lstsq(terms, np.ones(len(points)), rcond=None)[0]
        lines += [[max(slope, 1e-7), max(offset, 1e-8)]] * len(channel)
    return torch.tensor(lines, dtype=torch.float32)


def variance_of(line: Tensor, x: Tensor) -> Tensor:
    """Return the variance (1, 4, h, w) of noise at the light of planes."""
    return line[None, :, :1, None] * x.clamp(min=0) + line[None, :, 1:, None]


def db(error: float) -> float:
    """Return 10·log10 of 1 / error."""
    return -10 * float(np.log10(max(error, 1e-12)))


def smoothed(noisy: Tensor, sigma: Tensor) -> Tensor:
    """Return the local Wiener filter of 5×5 samples: a baseline that learns nothing."""
    mean = F.avg_pool2d(F.pad(noisy, (2, 2, 2, 2), "reflect"), 5, 1)
    power = F.avg_pool2d(F.pad(noisy**2, (2, 2, 2, 2), "reflect"), 5, 1) - mean**2
    return mean + (1 - sigma**2 / power.clamp(min=1e-12)).clamp(min=0) * (noisy - mean)


def stein(model, noisy: Tensor, line: Tensor) -> float:
    """Return the estimated squared error of a denoiser on real noise."""
    variance = variance_of(line, smoothed(noisy, variance_of(line, noisy).sqrt()))
    sigma, way = variance.sqrt(), torch.randn(noisy.shape, generator=torch.Generator().manual_seed(0))
    small, inside = 1e-3, F.max_pool2d(noisy, 9, 1, 4) < CLIPPED
    result, moved = model(noisy, sigma), model(noisy + small * sigma * way, sigma)
    error = (result - noisy) ** 2 - variance + 2 * sigma * way * (moved - result) / small
    return float(error[inside].mean())


def measure(work: Path, paths: Sequence[Path], sheet: Path | None) -> None:
    """Print a line of JSON for each test and file, and the table."""
    models = {"noisy": lambda x, sigma: x, "local Wiener filter": smoothed}
    names: dict[str, list[str]] = {name: [name] for name in models}
    for path in sorted(work.glob("*.pt")):
        model = Denoiser()
        model.load_state_dict(torch.load(path, weights_only=True)["model"])
        models[path.stem] = model.eval()
        names.setdefault("RAWs {}, noise {}".format(*path.stem.split("-")), []).append(path.stem)
    raws = {path: paramisp.read(path) for path in paths}
    high = {path: raw for path, raw in raws.items() if (raw.optical.iso or 0) >= HIGH_ISO}
    lines = {path: line for path, raw in high.items() if (line := measured_noise(raw)) is not None}
    found: dict[tuple[str, str], dict[str, float]] = {}
    tiles = []
    with torch.no_grad():
        for path, raw in raws.items():
            if path in lines:
                for name, model in models.items():
                    errors = [stein(model, each, lines[path]) for each in crops(planes(raw))]
                    found[f"real noise: {path.name}, ISO {raw.optical.iso:g}", name] = {"raw": db(np.mean(errors))}
            if path in high:
                continue
            truth = F.avg_pool2d(planes(raw)[None], 2)[0]
            render = Render("parametric")
            for noise_path, line in lines.items():
                for number, clean in enumerate(crops(truth)):
                    shots = shots_of(raw)
                    shown = render(clean.clamp(0, 1), shots)
                    variance = variance_of(line, clean)
                    seed = torch.Generator().manual_seed(number)
                    noisy = (clean + variance.sqrt() * torch.randn(clean.shape, generator=seed)).clamp(max=1)
                    for name, model in models.items():
                        result = model(noisy, variance.sqrt())
                        key = f"truth: {path.name}, noise of {noise_path.name}", name
                        scores = found.setdefault(key, {"raw": 0.0, "picture": 0.0})
                        picture = render(result.clamp(0, 1), shots)
                        scores["raw"] += db(float(((result - clean) ** 2).mean())) / CROPS
                        scores["picture"] += db(float(((picture - shown) ** 2).mean())) / CROPS
                        if sheet and number == 2 and name.endswith("0") | (name == "noisy"):
                            tiles.append(picture[0, :, 200:360, 200:360])
                    if sheet and number == 2:
                        tiles.append(shown[0, :, 200:360, 200:360])
    for (test, name), scores in found.items():
        print(json.dumps({"test": test, "model": name} | scores))
    if sheet:
        columns = len([name for name in models if name.endswith("0")]) + 2
        rows = [torch.cat(tiles[at : at + columns], 2) for at in range(0, len(tiles), columns)]
        pixels = (torch.cat(rows, 1).clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(sheet)
    print(table(names, found))


def shots_of(raw: RawImage) -> Shots:
    """Return the shot of a RAW for ``Render``, its CFA turned to RGGB."""
    canonical = replace(raw.canonical, cfa="RGGB", black_level=np.zeros((2, 2)), white_level=1)
    zero = torch.zeros(1)
    return Shots(("",), (canonical,), (raw.optical or OpticalParams(),), torch.zeros(1, 3, 2), zero, zero)


def table(names: dict[str, list[str]], found: dict[tuple[str, str], dict[str, float]]) -> str:
    """Word the table: mean and worst of the files, mean ± spread of the seeds."""
    text = [
        "| | truth, RAW | worst file | truth, picture | real noise, RAW | worst file |",
        "|---|---|---|---|---|---|",
    ]
    for name, members in names.items():
        cells = [name]
        for kind, measure in (("truth", "raw"), ("truth", "picture"), ("real noise", "raw")):
            tests = sorted({test for test, _ in found if test.startswith(kind)})
            values = np.array([[found[test, member][measure] for test in tests] for member in members])
            means = values.mean(1)
            cells.append(f"{means.mean():.2f}" + (f" ± {means.std(ddof=1):.2f}" if len(means) > 1 else ""))
            if measure == "raw":
                cells.append(f"{values.mean(0).min():.2f}")
        text.append(f"| {' | '.join(cells)} |")
    return "\n".join(text)


def main() -> None:
    """Run a command."""
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb", required=True)
    verb = verbs.add_parser("train")
    verb.add_argument("work", type=Path)
    verb.add_argument("pictures", type=Path, nargs="+")
    verb.add_argument("--minutes", type=float, default=4)
    verb.add_argument("--seeds", type=int, default=2)
    verb = verbs.add_parser("measure")
    verb.add_argument("work", type=Path)
    verb.add_argument("raws", type=Path, nargs="*")
    verb.add_argument("--sheet", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    if chosen.verb == "train":
        train(chosen.work, chosen.pictures, chosen.minutes, chosen.seeds)
    else:
        measure(chosen.work, real_raws.chosen(chosen.raws), chosen.sheet)


if __name__ == "__main__":
    main()
