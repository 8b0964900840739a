"""Unprocess, render, and synthesize training pairs, as torch modules."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor, nn

from paramisp_cli import confidence as maps
from paramisp_cli import onnx_runner, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel
from paramisp_cli.rendition import develop, parametric
from paramisp_cli.torch.layouts import PACKED, known, layout_of, pack, unpack
from paramisp_cli.torch.noise import AddNoise
from paramisp_cli.torch.shots import Shots, chosen, matching, untraced


def _model(model: str | Path | IspModel, direction: Direction) -> IspModel:
    """Return a frozen model in evaluation mode: gradients flow through it to the pixels, not to its weights."""
    loaded = model if isinstance(model, IspModel) else weights.load_model(model, direction)
    if loaded.direction != direction:
        raise ConfigError(f"{loaded.name} is a model for {loaded.direction}; pass one for {direction}")
    return loaded.eval().requires_grad_(requires_grad=False)


def _checkpoint(model: str | Path | IspModel, direction: Direction) -> Path | None:
    """Return the file of a checkpoint's name; None for a model object or one without weights."""
    if isinstance(model, IspModel):
        return None
    if Path(model).suffix:
        return Path(model)
    name = str(model)
    match = weights.find(name, direction, None, generic=name.lower() == weights.GENERIC, on_request=True)
    return match.path if match is not None else None


def _on_onnx(model: IspModel, checkpoint: Path | None, x: Tensor) -> bool:
    """Tell whether onnxruntime, which takes a third of PyTorch's time, runs a batch of ``fast``: CPU, no gradients."""
    plain = x.device.type == "cpu" and not (torch.is_grad_enabled() and x.requires_grad)
    return plain and not torch.compiler.is_compiling() and onnx_runner.suits(model.name, checkpoint, "cpu", "auto")


def _gain(stops: Tensor) -> Tensor:
    return torch.exp2(stops)[:, None, None, None]


class Made(NamedTuple):
    """A clean RAW, and the half-width of its errors, both of one shape; see ``paramisp.Confidence``."""

    raw: Tensor
    half_width: Tensor


class Unprocess(nn.Module):
    """Pictures (N, 3, H, W), uint8 or float in [0, 1] → clean RAW in [0, 1]; H and W even.

    model       name or file of a checkpoint, "parametric", or a model. "generic" is the fast network for any camera
    layout      "packed" or "mosaic"
    confidence  whether to return ``Made``: the RAW and its confidence map, which holds 90 % of errors. The map is
                computed on the CPU and has no gradient. It is that of the RAW before exposure and headroom

    Values beyond the RAW's white are clipped, as a sensor clips. Differentiable in the pixels (float input).
    """

    def __init__(
        self, model: str | Path | IspModel = "generic", layout: str = PACKED, *, confidence: bool = False
    ) -> None:
        super().__init__()
        self.model, self.layout = _model(model, Direction.UNPROCESS), layout_of(layout)
        self.confidence = confidence
        self._file = _checkpoint(model, Direction.UNPROCESS)

    def forward(self, pictures: Tensor, shots: Shots) -> Tensor | Made:
        """Unprocess a batch with its shots. Raises ConfigError for other shapes and types."""
        shots = matching(pictures, shots)
        if pictures.dtype == torch.uint8 and pictures.device.type == "cpu" and self.model.name == "parametric":
            mosaic = _by_table(pictures, shots)
        elif _on_onnx(self.model, self._file, pictures):
            mosaic = self._by_onnx(pictures, shots)
        else:
            pixels = pictures.float() / 255 if pictures.dtype == torch.uint8 else pictures
            mosaic = self.model(pixels, shots.params(self.model))
        sure = _half_widths(pictures, mosaic, shots, self.model.name) if self.confidence else None
        stops = shots.exposure - shots.headroom
        if bool(stops.any()):
            mosaic = mosaic * _gain(stops)
        raw = self._laid_out(mosaic.clamp(0, 1), shots)
        return raw if sure is None else Made(raw, self._laid_out(sure, shots))

    def _laid_out(self, mosaic: Tensor, shots: Shots) -> Tensor:
        return pack(mosaic, shots.cfa) if self.layout == PACKED else mosaic

    def _by_onnx(self, pictures: Tensor, shots: Shots) -> Tensor:
        size = _even(pictures)
        assert self._file is not None
        runner = onnx_runner.OnnxRunner(onnx_runner.load(self._file, Direction.UNPROCESS))
        made = np.empty((len(shots), 1, *size), np.float32)
        for number, picture in enumerate(_by_pixel(pictures)):
            shot = shots.canonical[number], shots.optical[number]
            made[number, 0] = runner.unprocess(picture, *shot, dtype=np.float32)[0]
        return torch.from_numpy(made)


def _by_pixel(pictures: Tensor) -> np.ndarray:
    """Return pictures (N, H, W, 3) as an array, uint8 or float32."""
    pixels = pictures.detach().permute(0, 2, 3, 1)
    array: np.ndarray = (pixels if pixels.dtype == torch.uint8 else pixels.float()).numpy()
    return array


@untraced
def _half_widths(pictures: Tensor, made: Tensor, shots: Shots, model: str) -> Tensor:
    """Return the confidence maps of mosaics (N, 1, H, W), on their device."""
    pixels = _by_pixel(pictures.cpu())
    mosaics = made.detach().float().cpu().numpy()[:, 0].clip(0, 1)
    noise = shots.noise.cpu().numpy()
    found = [
        maps.measure(
            picture, mosaic, shots.canonical[number], model,
            maps.Source(maps.step_of(picture.dtype), noise=noise[number]), threads=torch.get_num_threads(),
        ).half_width
        for number, (picture, mosaic) in enumerate(zip(pixels, mosaics, strict=True))
    ]  # fmt: skip
    return torch.from_numpy(np.stack(found))[:, None].to(made.device)


def _even(x: Tensor) -> tuple[int, int]:
    """Return height and width. Raises ConfigError unless both are even."""
    height, width = x.shape[2:]
    if height % 2 or width % 2 or not height or not width:
        raise ConfigError(f"height and width must be even and at least 2, got {height}×{width}")
    return height, width


def _by_table(pictures: Tensor, shots: Shots) -> Tensor:
    """Unprocess 8-bit pictures with the parametric model by its table of codes, ten times as fast as in floats."""
    size = _even(pictures)
    made = np.empty((len(shots), 1, *size), np.float32)
    for each, picture, canonical in zip(made, _by_pixel(pictures), shots.canonical, strict=True):
        stage = parametric.ParametricUnprocess(canonical)
        each[0] = develop.expose(picture, stage, canonical, size, dtype=np.float32, threads=torch.get_num_threads())
    return torch.from_numpy(made)


class Render(nn.Module):
    """RAW, mosaic or packed, in [0, 1] → pictures (N, 3, H, W) in [0, 1], not rounded.

    ``model``: name or file of a checkpoint, "parametric", or a model. Differentiable in the RAW.
    """

    def __init__(self, model: str | Path | IspModel = "generic") -> None:
        super().__init__()
        self.model, self._file = _model(model, Direction.RENDER), _checkpoint(model, Direction.RENDER)

    def forward(self, raw: Tensor, shots: Shots) -> Tensor:
        """Render a batch with its shots. Raises ConfigError for other shapes and types."""
        shots = matching(raw, shots)
        mosaic = unpack(raw, shots.cfa) if raw.shape[1] == 4 else raw
        if bool(shots.headroom.any()):
            mosaic = (mosaic * _gain(shots.headroom)).clamp(max=1)
        if _on_onnx(self.model, self._file, mosaic):
            assert self._file is not None
            _even(mosaic)
            runner = onnx_runner.OnnxRunner(onnx_runner.load(self._file, Direction.RENDER))
            parts = zip(mosaic.detach().float().numpy()[:, 0], shots.canonical, shots.optical, strict=True)
            pictures = np.stack([runner.render(*each, dtype=np.float32)[0] for each in parts])
            return torch.from_numpy(pictures).permute(0, 3, 1, 2)
        picture: Tensor = self.model(mosaic, shots.params(self.model))
        return picture.clamp(0, 1)


class Synthesize(nn.Module):
    """Pictures → training pairs of clean and noisy RAW: draws shots, unprocesses and adds noise.

    Takes (3, H, W) too, and then returns everything without the batch's dimension: a transform for a data set. Returns
    a dictionary of tensors: "clean", "noisy", "variance", and the parameters of ``Shots.tensors``.

    model, layout                           see ``Unprocess``
    cameras, iso, exposure, headroom, cfa   see ``Shots.draw``
    noise                                   the module that adds noise; None: ``AddNoise()``
    """

    def __init__(
        self,
        model: str | Path | IspModel = "generic",
        layout: str = PACKED,
        *,
        cameras: Sequence[str] | None = None,
        iso: tuple[float, float] | None = None,
        exposure: tuple[float, float] = (0, 0),
        headroom: tuple[float, float] = (0, 0),
        cfa: str = "RGGB",
        noise: AddNoise | None = None,
    ) -> None:
        super().__init__()
        self.unprocess, self.noise = Unprocess(model, layout), AddNoise() if noise is None else noise
        chosen(cameras)  # a wrong name fails here, not in a worker
        self.cameras, self.iso, self.exposure, self.headroom, self.cfa = cameras, iso, exposure, headroom, known(cfa)

    def forward(
        self, pictures: Tensor, shots: Shots | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """Make the RAWs of pictures, with these shots, or with shots drawn at random."""
        one = pictures.ndim == 3
        batch = pictures[None] if one else pictures
        if batch.ndim != 4 or batch.shape[1] != 3:
            raise ConfigError(f"pictures must be (3, H, W) or (N, 3, H, W), got {tuple(pictures.shape)}")
        if shots is None:
            shots = Shots.draw(
                batch.shape[0],
                cameras=self.cameras,
                iso=self.iso,
                exposure=self.exposure,
                headroom=self.headroom,
                cfa=self.cfa,
                generator=generator,
            )
        shots = matching(batch, shots)
        with torch.no_grad():
            clean = cast(Tensor, self.unprocess(batch, shots))
            noisy, variance = self.noise(clean, shots, generator)
        made = {"clean": clean, "noisy": noisy, "variance": variance} | shots.tensors()
        return {name: value[0] for name, value in made.items()} if one else made
