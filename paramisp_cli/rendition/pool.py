"""Looks pooled over the RAW files of a batch, for the files whose own preview is unusable or small."""

from __future__ import annotations

import hashlib
import threading
from dataclasses import dataclass, field

import numpy as np

from paramisp_cli.directions import Direction
from paramisp_cli.rendition.fit import Cells, Fitted, fit
from paramisp_cli.rendition.form import Rendition
from paramisp_cli.rendition.look import aligned_preview, cells_of, fit_aligned
from paramisp_cli.rendition.preview import Misfit
from paramisp_cli.rendition.prior import Prior, shipped
from paramisp_cli.types import Notice, RawImage

_SMALL = 160
"""Shorter side [px] of a preview below which the other files of its camera help to fit its look."""
_GREY = 0.01
"""Mean range of a pixel's channels up to which a preview is black and white: such a style is not lent."""
_POOLED = 32
"""Most photographs of a camera in a pool: more change little, and memory must not grow with a batch."""


Shots = dict[str, dict[str, Cells]]
"""Name of a camera → digest of a shot's pixels → its colours."""


class Deferred(Exception):  # noqa: N818 - a finding, not a fault
    """The look of a shot must wait until its pool is complete."""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """A shot's look; ``origin`` is empty if it comes from the shot's own preview alone."""

    rendition: Rendition
    origin: str = ""
    notices: tuple[str, ...] = ()


@dataclass(slots=True)
class Pool:
    """Looks of a batch's shots by camera, for the shots whose own preview is unusable or small.

    Two passes: until ``close``, shots are fitted and collected, and shots in need of the others raise Deferred; then
    these are fitted. A look depends on the set of shots, not on their order: of many, those whose
    pixels have the smallest digests count.
    """

    closed: bool = False
    _shots: Shots = field(default_factory=dict)
    _fitted: dict[str, Fitted] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def close(self) -> None:
        """End the collection."""
        self.closed = True

    def shots(self) -> Shots:
        """Return the shots collected."""
        with self._lock:
            return {name: dict(shots) for name, shots in self._shots.items()}

    def merge(self, shots: Shots) -> None:
        """Add the shots of another pool, as if they had been collected here."""
        with self._lock:
            for name, others in shots.items():
                own = self._shots.setdefault(name, {})
                own |= others
                for digest in sorted(own)[_POOLED:]:
                    del own[digest]

    def fit(self, raw: RawImage) -> Look:
        """Fit the look of a shot. Raises Misfit if there is no usable preview at all, and Deferred."""
        try:
            aligned = aligned_preview(raw)
            small = min(aligned.size) < _SMALL
            if small and not self.closed:
                raise Deferred
            others = self._of(raw) if small else None
            fitted, report = fit_aligned(raw, aligned, _as_prior(others) if others else None)
            if fitted is None:
                raise Misfit(report.reason)
        except Misfit as misfit:
            return self._borrowed(raw, misfit)
        if others is not None:
            size = f"{aligned.size[1]}×{aligned.size[0]}"
            notice = Notice(
                f"its preview has only {size} pixels: fitted with the looks of the other files of {_name(raw)}",
                "small previews: fitted with the looks of the other files of the camera",
            )
            return Look(fitted.rendition, "the JPEG inside the file and the camera's other files", (notice,))
        if not small and np.ptp(aligned.srgb, -1).mean() > _GREY:
            self._add(raw, cells_of(raw, aligned, Direction.RENDER))
        return Look(fitted.rendition)

    def _borrowed(self, raw: RawImage, misfit: Misfit) -> Look:
        """Return the look of the other files of a camera."""
        if not self.closed:
            raise Deferred from misfit
        others = self._of(raw)
        if others is None:
            raise misfit
        notice = Notice(
            f"{misfit}: used the look of the other files of {_name(raw)}",
            "no usable preview: used the look of the other files of the camera",
        )
        return Look(others.rendition, "the camera's other files", (notice,))

    def _add(self, raw: RawImage, gathered: Cells) -> None:
        if raw.camera is None:
            return
        digest = hashlib.sha256(raw.mosaic[:: max(raw.mosaic.shape[0] // 64, 1)].tobytes()).hexdigest()
        with self._lock:
            shots = self._shots.setdefault(_name(raw), {})
            shots[digest] = gathered
            if len(shots) > _POOLED:
                del shots[max(shots)]

    def _of(self, raw: RawImage) -> Fitted | None:
        """Return the pooled look of a camera, fitted on first use; None without one."""
        if raw.camera is None:
            return None
        name = _name(raw)
        with self._lock:
            if name not in self._fitted and self._shots.get(name):
                shots = [cells for _, cells in sorted(self._shots[name].items())]
                self._fitted[name] = fit(shots, shipped(Direction.RENDER), camera=name)
            return self._fitted.get(name)


def _name(raw: RawImage) -> str:
    return raw.camera.name if raw.camera else "an unknown camera"


def _as_prior(others: Fitted) -> Prior:
    return Prior(Direction.RENDER, others.rendition.vector, others.covariance)
