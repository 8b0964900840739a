"""Blurs of clips: consecutive frames, unprocessed and averaged in RAW."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from paramisp_cli import drawn
from paramisp_cli.cameras import CameraFacts
from paramisp_cli.errors import FormatError
from paramisp_cli.training.blurred import motion, sources, video
from paramisp_cli.training.blurred.series import (
    Series,
    Shot,
    clipped,
    noisy,
    random_of,
    unprocessed,
    white_sites,
)
from paramisp_cli.training.blurred.sources import Kind, Source
from paramisp_cli.types import CanonicalParams, OpticalParams


def blurs(source: Source, names: dict[int, str], missing: set[int], series: Series) -> Iterator[Shot | str]:
    """Yield the blurs of a clip in order: a shot, or the reason of a refusal; an empty text for those not missing.

    Each frame is decoded once and unprocessed at most once; only the frames of one blur are held.
    """
    rng = random_of(source, -1, series)
    facts = series.cameras[int(rng.integers(len(series.cameras)))]
    iso_of_levels = float(np.sqrt(series.iso[0] * series.iso[1]))
    params = drawn.canonical(facts, iso_of_levels, drawn.neutral(facts, rng))
    rate = series.rate
    if rate is None and source.kind == Kind.VIDEO:
        rate = video.frames_per_second(source.path)
    low, high = _frame_counts(source, rate, series)
    stride = series.stride or high
    window = _Window(sources.frames(source), params, facts, series)
    for place, number in enumerate(names):
        own = random_of(source, number, series)
        count = int(low + 2 * own.integers((high - low) // 2 + 1))
        if not window.move(place * stride, count):
            if place == 0:
                raise FormatError(f"{source.path}: has {window.seen} frames, fewer than the {count} of one blur")
            return
        yield window.shot(count, rate, own) if number in missing else ""


def _frame_counts(source: Source, rate: float | None, series: Series) -> tuple[int, int]:
    """Return the least and most frames of a blur."""
    if series.exposure is None:
        return series.frames
    if rate is None:
        raise FormatError(f"{source.path}: --exposure needs the rate of the frames; pass --fps")
    count = 2 * round((series.exposure * rate - 1) / 2) + 1
    if count < 3:
        raise FormatError(
            f"{source.path}: {series.exposure:g} s are {series.exposure * rate:.1f} frames at {rate:g} a second; "
            "a blur has at least 3"
        )
    return count, count


class _Window:
    """A stretch of consecutive frames of a clip, with their mosaics and the motion between them."""

    def __init__(
        self, pictures: Iterator[np.ndarray], params: CanonicalParams, facts: CameraFacts, series: Series
    ) -> None:
        self.pictures, self.params, self.facts, self.series = pictures, params, facts, series
        self.frames: dict[int, np.ndarray] = {}
        self.mosaics: dict[int, np.ndarray] = {}
        self.small: dict[int, np.ndarray] = {}
        self.steps: dict[int, float] = {}
        self.first = self.seen = 0

    def move(self, first: int, count: int) -> bool:
        """Move to ``count`` frames from ``first`` on; False if the clip has fewer."""
        for store in (self.frames, self.mosaics, self.small, self.steps):
            for number in [number for number in store if number < first]:
                del store[number]
        self.first = first
        while self.seen < first + count:
            pixels = next(self.pictures, None)
            if pixels is None:
                return False
            if self.seen >= first:
                self.frames[self.seen] = pixels[: pixels.shape[0] // 2 * 2, : pixels.shape[1] // 2 * 2]
            self.seen += 1
        return True

    def shot(self, count: int, rate: float | None, rng: np.random.Generator) -> Shot | str:
        """Return the blur of the window, or the reason of its refusal."""
        numbers = range(self.first, self.first + count)
        steps = [self._step(number) for number in numbers[:-1]]
        if max(steps) > self.series.most_step:
            return (
                f"frames {numbers[0]} to {numbers[-1]} move by more than {self.series.most_step:g} px from one to the "
                "next, which would leave ghosts; take more frames a second, or pass a larger --max-step"
            )
        iso = float(np.exp(rng.uniform(*np.log(self.series.iso))))
        total = np.zeros(self._mosaic(numbers[0]).shape)
        lit = np.zeros_like(total)
        for number in numbers:
            total += self._mosaic(number)
            lit += clipped(self.frames[number])
        alpha = float(rng.uniform(*self.series.saturation))
        frame = self.frames[numbers[0]]
        white = white_sites(self.params, (frame.shape[0], frame.shape[1]))
        blurred = np.clip((total + alpha * lit * white) / count, 0, 1).astype(np.float32)
        told = {
            "frames": [numbers[0], count], "alpha": alpha, "motion": round(float(sum(steps)), 2),
            "step": round(max(steps), 2),
        }  # fmt: skip
        optical = OpticalParams(iso=iso, exposure_time=None if rate is None else count / rate)
        seen = noisy(blurred, self.params, self.facts, iso, rng) if self.series.noise else blurred
        return Shot(seen, self._mosaic(numbers[count // 2]), self.params, optical, self.facts, told)

    def _step(self, number: int) -> float:
        """Return the motion [px] from a frame to the next one."""
        if number not in self.steps:
            for each in (number, number + 1):
                if each not in self.small:
                    self.small[each] = motion.reduced(self.frames[each])
            self.steps[number] = motion.between(self.small[number], self.small[number + 1], self.series.most_step)
        return self.steps[number]

    def _mosaic(self, number: int) -> np.ndarray:
        """Return the linear mosaic (H, W) float32 of a frame."""
        if number not in self.mosaics:
            self.mosaics[number] = unprocessed(self.frames[number], self.params, self.facts, self.series)
        return self.mosaics[number]
