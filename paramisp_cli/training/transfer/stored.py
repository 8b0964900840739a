"""Weights of networks from camera to camera: the file of a training, and its check against a data set."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from paramisp_cli import cameras, checkpoint
from paramisp_cli.directions import Direction
from paramisp_cli.errors import WeightsError
from paramisp_cli.models.base import IspModel
from paramisp_cli.models.cstpp import Cstpp
from paramisp_cli.models.splines import Splines
from paramisp_cli.training.simulated import spectral
from paramisp_cli.training.transfer.shots import DataSet


def names(series: spectral.Series) -> list[str]:
    """Return the two cameras' names, as the table of sensitivities has them."""
    return [spectral.sensor(name).name for name in (series.a, series.b)]


def fingerprint(data: DataSet) -> str:
    """Return a number that tells data sets apart: their cameras, seed and shots."""
    return hashlib.sha256(repr((data.series, [shot.name for shot in data.shots])).encode()).hexdigest()[:16]


def save(
    model: IspModel,
    folder: Path,
    data: DataSet,
    facts: Mapping[str, object],
    metrics: Mapping[str, object],
    recipe: str,
) -> Path:
    """Write the weights as ``A-to-B.transfer.safetensors`` → the file. Raises FileAccessError."""
    a, b = names(data.series)
    return checkpoint.save(
        model.cpu().eval(),
        folder / f"{cameras.slug(a)}-to-{cameras.slug(b)}.{Direction.TRANSFER}.safetensors",
        camera=a,
        recipe=recipe,
        training={"to": b, **facts, "shots": len(data.shots), "data": fingerprint(data), "simulated": True},
        metrics=metrics,
        licence="MIT",
    )


def load(path: Path | str, series: spectral.Series) -> Splines | Cstpp:
    """Load trained weights; raises WeightsError for those of other cameras or another architecture.

    Weights of the same cameras in the other order serve if the network maps both ways.
    """
    header = checkpoint.info(Path(path))
    model = checkpoint.load(path, direction=Direction.TRANSFER)
    facts = json.loads(header["training"] or "{}")
    pair, wanted = [header["camera"], facts.get("to", header.get("to"))], names(series)
    if isinstance(model, Cstpp) and pair == wanted[::-1]:
        return model.backwards()
    if not isinstance(model, (Splines, Cstpp)) or pair != wanted:
        raise WeightsError(f"{path}: is for {pair[0]} to {pair[1]}, not {' to '.join(wanted)}")
    return model
