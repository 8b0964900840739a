"""Frames of a video, by PyAV (the optional extra ``paramisp[video]``): sRGB pixels, upright.

Range and matrix come from the stream. Videos of HDR curves (HLG, PQ) are refused: their codes are no sRGB, and a mean
of them no light.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from paramisp_cli.errors import ConfigError, FileAccessError, FormatError

SUFFIXES = (".mp4", ".mov", ".m4v", ".mkv", ".avi", ".webm", ".mts", ".m2ts")
_HDR = {16: "PQ", 18: "HLG"}
"""Codes of transfer characteristics (ITU-T H.273) that are refused."""
_WIDE = {9: "BT.2020"}
"""Codes of colour primaries that are refused."""


def check_installed(path: Path) -> None:
    """Raise ConfigError unless PyAV is installed; this does not import it."""
    if find_spec("av") is None:
        raise ConfigError(
            f"{path}: reading videos needs PyAV: pip install 'paramisp[video]', or pass folders of frames"
        )


def frames_per_second(path: Path) -> float | None:
    """Return the rate at which a video plays, which of slow motion is less than the camera's; None if unknown."""
    with _opened(path) as (_, stream):
        rate = stream.average_rate
        return float(rate) if rate else None


def read(path: Path) -> Iterator[np.ndarray]:
    """Yield the frames of a video, (H, W, 3) uint8 sRGB, upright.

    Raises FormatError for a file without video, without frames, of an HDR curve, or damaged.
    """
    import av

    with _opened(path) as (container, stream):
        count = 0
        try:
            for frame in container.decode(stream):
                count += 1
                yield _pixels(path, frame)
        except av.error.FFmpegError as error:
            raise FormatError(f"{path}: damaged after frame {count}: {_text(error)}") from error
        if count == 0:
            raise FormatError(f"{path}: the video has no frames")


class _opened:  # noqa: N801 – used as a function
    """Open a video → (container, its first video stream)."""

    def __init__(self, path: Path) -> None:
        check_installed(path)
        self.path = path

    def __enter__(self) -> tuple[Any, Any]:
        import av

        try:
            self.container = av.open(str(self.path))
        except av.error.FFmpegError as error:
            raise FormatError(f"{self.path}: not a readable video: {_text(error)}") from error
        except OSError as error:
            raise FileAccessError.of(error, self.path, "read it") from error
        if not self.container.streams.video:
            self.container.close()
            raise FormatError(f"{self.path}: has no video stream")
        stream = self.container.streams.video[0]
        stream.thread_type = "AUTO"
        return self.container, stream

    def __exit__(self, *_: object) -> None:
        self.container.close()


def _text(error: Exception) -> str:
    return str(getattr(error, "strerror", "") or error)


def _pixels(path: Path, frame: Any) -> np.ndarray:
    """Convert a frame by its own range and matrix, and turn it upright."""
    transfer, primaries = int(frame.color_trc), int(frame.color_primaries)
    if name := _HDR.get(transfer) or _WIDE.get(primaries):
        raise FormatError(
            f"{path}: is {name} video, whose codes cannot be averaged as sRGB; convert it to SDR (BT.709) first"
        )
    matrix = {1: 1, 5: 5, 6: 5, 7: 7}.get(int(frame.colorspace), 1 if frame.height >= 720 else 5)  # untagged: by size
    pixels: np.ndarray = frame.to_ndarray(format="rgb24", src_colorspace=matrix, src_color_range=_range(frame))
    turns = round(frame.rotation / 90) % 4  # counter-clockwise quarters that make it upright
    return np.ascontiguousarray(np.rot90(pixels, turns))


def _range(frame: Any) -> int:
    """Return the range of a frame's codes: 1 limited (also if unknown), 2 full."""
    full = int(frame.color_range) == 2 or frame.format.name.startswith("yuvj")
    return 2 if full else 1
