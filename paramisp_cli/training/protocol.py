"""The protocol of a training: the split of the photographs, the start of the networks, previews, and the result.

The result is a checkpoint with a model card, and scores on photographs, or areas of them, that the training never saw.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch

from paramisp_cli import weights
from paramisp_cli.directions import ISP_DIRECTIONS, Direction, Kind
from paramisp_cli.errors import ConfigError
from paramisp_cli.models import architecture
from paramisp_cli.models.base import IspModel
from paramisp_cli.training import colours, dataset
from paramisp_cli.training.config import Recipe
from paramisp_cli.training.crops import CFA, Sampler, cut, largest_side
from paramisp_cli.training.dataset import LoadedPair, Region
from paramisp_cli.training.loop import Trainer
from paramisp_cli.training.measure import shading
from paramisp_cli.training.measure.predictors import network, target, there_and_back
from paramisp_cli.training.measure.scores import Score, error_map, score, table

_PREVIEW = 512
"""Largest side [px] of a preview."""


# The split ------------------------------------------------------------------------------------------------------------


def hold_out(pairs: Sequence[LoadedPair], fraction: float) -> tuple[list[LoadedPair], list[LoadedPair]]:
    """Split each photograph → (areas to train on, with the simulated pairs; areas to measure on).

    Raises ConfigError for a fraction that leaves one of the areas empty.
    """
    photographs = [item for item in pairs if not item.pair.is_simulated]
    left = [dataset.split(item, "train", fraction) for item in photographs]
    train = [item for item in left if item.pair.regions] + [item for item in pairs if item.pair.is_simulated]
    if not train:
        raise ConfigError(f"--hold-out {fraction:g}: leaves no aligned part to train on")
    return train, [dataset.split(item, "test", fraction) for item in dataset.whole(photographs)]


def cameras(pairs: Iterable[LoadedPair]) -> list[str]:
    """Return the names of the cameras of the photographs, or of the simulated pairs if there are no photographs."""
    pairs = list(pairs)
    photographs = [item for item in pairs if not item.pair.is_simulated]
    return sorted({item.camera for item in photographs or pairs if item.pair.camera})


# The start ------------------------------------------------------------------------------------------------------------


def start(
    recipe: Recipe,
    directions: Direction | Sequence[Direction],
    device: torch.device,
    folder: Path | str,
    lens_shading: Sequence[Sequence[float]] | None = None,
) -> Trainer:
    """Build the networks and begin or resume their training in ``folder``.

    ``lens_shading`` is that of the camera, which the networks do not learn; see ``IspModel``. Raises ConfigError if the
    recipe does not suit the networks, and as ``Trainer`` does.
    """
    recipe = for_device(recipe, device)
    models: dict[Direction, IspModel] = {}
    for direction in (directions,) if isinstance(directions, Direction) else directions:
        first = next(iter(models.values()), None)
        models[direction] = first.other_way() if first is not None and first.serves_both else build(recipe, direction)
        models[direction].lens_shading = lens_shading
    if len({str(model.facts()) for model in models.values()}) > 1:
        raise ConfigError(f"recipe {recipe.name}: the weights of the two directions take different colour matrices")
    return Trainer(recipe, models, device, Path(folder))


def build(recipe: Recipe, direction: Direction) -> IspModel:
    """Make the network to train: from ``recipe.init``, or with fresh weights. Raises ConfigError."""
    if recipe.init:
        model = _load(recipe.init, direction, recipe.architecture)
        if model.name != recipe.architecture:
            raise ConfigError(f"recipe {recipe.name}: is for {recipe.architecture}, but {recipe.init} is {model.name}")
        if {**model.config(), **recipe.model} != model.config():
            raise ConfigError(f"recipe {recipe.name}: its [model] differs from that of {recipe.init}")
    else:
        kind = architecture(recipe.architecture)
        if direction not in kind.directions:
            known = " or ".join(kind.directions)
            raise ConfigError(
                f"recipe {recipe.name}: {kind.name} has no direction {direction}; pass `direction` {known}"
            )
        try:
            model = kind(direction, **recipe.model)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"recipe {recipe.name}: [model]: {error}") from error
        model.initialise(torch.Generator().manual_seed(recipe.seed))
    multiple, smallest = model.geometry.multiple, model.geometry.padded(2)
    for phase in recipe.phases:
        if phase.part not in model.phases():
            known = ", ".join(model.phases())
            raise ConfigError(f"recipe {recipe.name}: part must be one of {known}, got {phase.part!r}")
        if phase.crop < smallest or phase.crop % multiple:
            raise ConfigError(
                f"recipe {recipe.name}: crop must be at least {smallest} px and a multiple of {multiple}, "
                f"got {phase.crop}"
            )
    return model


def _load(init: str, direction: Direction, architecture_name: str) -> IspModel:
    """Load a checkpoint by name, by file, or from the folder of an earlier training, which holds one a direction."""
    if not Path(init).is_dir():
        return weights.load_model(init, direction, architecture=architecture_name)
    paths = [path for way in (direction, weights.BOTH) for path in sorted(Path(init).glob(f"*.{way}.safetensors"))]
    if len(paths) != 1:
        raise ConfigError(f"{init}: holds {len(paths)} checkpoints for {direction}, and one is needed to start from")
    return weights.load_model(paths[0], direction)


def for_device(recipe: Recipe, device: torch.device) -> Recipe:
    """Replace dtype "auto": bf16 on GPUs and on processors with instructions for it, otherwise fp32."""
    if recipe.dtype != "auto":
        return recipe
    able: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch lack it
    fast = device.type == "cuda" or (device.type == "cpu" and (able.get("avx512_bf16") or able.get("amx_bf16")))
    return replace(recipe, dtype="bf16" if fast else "fp32")


def fitted(recipe: Recipe, pairs: Sequence[LoadedPair]) -> tuple[Recipe, list[str]]:
    """Reduce crops that no pair holds → (recipe, a sentence for each change).

    Raises ConfigError if no pair holds the smallest crop that the network takes.
    """
    geometry = architecture(recipe.architecture).geometry
    smallest = geometry.padded(2)
    largest = max(map(largest_side, pairs), default=0) // geometry.multiple * geometry.multiple
    if largest < smallest:
        raise ConfigError(f"no aligned part of any photograph holds a crop of {smallest} px, the smallest to train on")
    large = dict.fromkeys(phase.crop for phase in recipe.phases if phase.crop > largest)
    phases = tuple(replace(phase, crop=min(phase.crop, largest)) for phase in recipe.phases)
    changes = [f"crops of {crop} px fit no photograph: {largest} px instead" for crop in large]
    return replace(recipe, phases=phases), changes


def takes_light(recipe: Recipe) -> bool:
    """Tell whether a training uses the light of simulated shots."""
    return recipe.loss == "own" and architecture(recipe.architecture).takes_restored


def without_light(recipe: Recipe, pairs: Sequence[LoadedPair]) -> list[str]:
    """Return a sentence about simulated shots whose light a training would use, and that have none; [] if all have."""
    simulated = [item for item in pairs if item.pair.is_simulated]
    dark = sum(item.light is None for item in simulated)
    if not dark or not takes_light(recipe):
        return []
    return [
        f"{dark} of {len(simulated)} simulated shots have no light stored: the target of their restoration is a plain "
        "rendering of the noisy mosaic; the same `paramisp simulate` with --with-light adds the light"
    ]


def lens_shading(recipe: Recipe, pairs: Sequence[LoadedPair]) -> list[list[float]] | None:
    """Measure the lens shading, if the recipe asks for it and all pairs are of one camera; None if there is none."""
    one_camera = len({item.pair.camera for item in pairs}) == 1
    return shading.measure(pairs) if recipe.lens_shading == "auto" and one_camera else None


def fit_colours(trainer: Trainer, pairs: Sequence[LoadedPair]) -> None:
    """Let each network fit its colours to the photographs of one camera, before the first step."""
    photographs = [item for item in pairs if not item.pair.is_simulated]
    if trainer.step or len({item.pair.camera for item in photographs}) != 1:
        return
    for direction, model in trainer.models.items():
        if model.fits_colours:
            model.fit_colours([colours.cells_of(item, direction, model.lens_shading) for item in photographs])


def sampler(trainer: Trainer, pairs: Sequence[LoadedPair]) -> Sampler:
    """Make the sampler of a training."""
    model, recipe = next(iter(trainer.models.values())), trainer.recipe
    looks = {model.direction.input: model for model in trainer.models.values()}

    def thumbnail_of(item: LoadedPair, kind: Kind) -> torch.Tensor | None:
        return thumbnail(item, looks[kind]) if kind in looks else None

    return Sampler(
        pairs,
        model.params_of,
        model.lens_shading,
        recipe.simulated,
        recipe.random_balance,
        recipe.extremes,
        recipe.exposures,
        thumbnail_of,
    )


def thumbnail(item: LoadedPair, model: IspModel) -> torch.Tensor | None:
    """Return the thumbnail (1, 3, side, side) that a network makes of its side of a pair; None if it makes none."""
    params = model.params_of(item.canonical, item.pair.optical)
    raw, picture = item.sides()
    side = torch.from_numpy(picture.transpose(2, 0, 1) if model.direction.input == Kind.SRGB else raw[None])[None]
    with torch.no_grad():
        size = side.shape[2] // 2 * 2, side.shape[3] // 2 * 2
        return model.surveyed(lambda first, end: side[:, :, first:end, : size[1]], size, params).thumbnail


# The report -----------------------------------------------------------------------------------------------------------


def preview(trainer: Trainer, direction: Direction, item: LoadedPair, path: Path | str) -> None:
    """Draw prediction, truth and error of the middle of a photograph as a PNG."""
    model = trainer.averaged(direction)
    shading_of_raw, model.lens_shading = model.lens_shading, None  # the crop comes without it
    multiple = model.geometry.multiple
    region = max(item.pair.regions, key=lambda r: r.height * r.width)
    side = min(_PREVIEW, region.height - multiple, region.width - multiple) // multiple * multiple
    spot = (region.height - side) // 4, (region.width - side) // 4
    srgb, mosaic = cut(item, region, spot, side, 1, shading_of_raw)
    canonical = replace(item.canonical, cfa=CFA, black_level=np.zeros((2, 2)), white_level=65535.0)
    pair = replace(item.pair, canonical=canonical, regions=(Region(0, 0, side, side),), size=(side, side))
    middle = LoadedPair(
        pair,
        (np.clip(mosaic[0], 0, 1) * 65535).round().astype(np.uint16),
        (srgb.transpose(1, 2, 0) * 255).round().astype(np.uint8),
    )
    error_map(target(middle, direction), network(model, trainer.device)(middle), path)


def measure(trainer: Trainer, pairs: Sequence[LoadedPair]) -> dict[Direction, list[Score]]:
    """Score the averaged networks on pairs that the training never saw.

    Networks of both directions get, behind their own scores, those of the pictures unprocessed and rendered again.
    """
    predictors = {each: network(trainer.averaged(each), trainer.device) for each in trainer.models}
    trip = None
    if len(predictors) > 1:  # there and back begins with the RAW that was just scored
        predictors[Direction.UNPROCESS] = lru_cache(maxsize=1)(predictors[Direction.UNPROCESS])
        trip = there_and_back(*(predictors[each] for each in ISP_DIRECTIONS))
    scores: dict[Direction, list[Score]] = {each: [] for each in predictors}
    trips = []
    for item in pairs:
        for direction, predict in predictors.items():
            scores[direction].append(score(item, direction, "this", predict))
        if trip is not None:
            trips.append(replace(score(item, Direction.RENDER, "this", trip), direction="there and back"))
    return {direction: [*own, *trips] for direction, own in scores.items()}


def write_weights(
    trainer: Trainer, pairs: Sequence[LoadedPair], scores: Mapping[Direction, Sequence[Score]]
) -> list[Path]:
    """Write the averaged weights of each direction as a checkpoint, with a model card beside it; return the paths.

    Networks that share their weights have one checkpoint, named "both".

    ``pairs`` are those that the networks were trained on, ``scores`` as ``measure`` returns them.
    """
    names = cameras(pairs)
    camera = names[0] if len(names) == 1 else "generic"
    simulated = sum(item.pair.is_simulated for item in pairs)
    shots = f"{simulated} simulated shots"
    if takes_light(trainer.recipe):
        shots += f" ({sum(item.light is not None for item in pairs)} with their light)"
    photographs = sorted(item.name for item in pairs if not item.pair.is_simulated)
    device, threads = trainer.device, torch.get_num_threads()
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} CPU"
    training = {
        "photographs": [*photographs, shots] if simulated else photographs,
        "cameras": names,
        "recipe": trainer.recipe.record(),
        "steps": trainer.step,
        "minutes": round(trainer.seconds / 60, 1),
        "machine": f"{machine}, {threads} thread{'s' if threads > 1 else ''}",
    }
    paths = []
    both = len(trainer.models) > 1 and all(model.serves_both for model in trainer.models.values())
    for direction in list(trainer.models)[: 1 if both else None]:
        own = [each for way in trainer.models if both or way == direction for each in scores[way]]
        whole = [each for each in own if not each.area]
        areas = [each for each in own if each.area]
        way = weights.BOTH if both else str(direction)
        metrics = {"photographs never seen": [each.record() for each in whole]}
        if areas:
            metrics["regions never seen"] = [each.record() for each in areas]
        path = weights.save(
            trainer.averaged(direction).cpu(),
            trainer.folder / f"{weights.slug(camera)}.{way}.safetensors",
            camera=camera,
            recipe=trainer.recipe.name,
            training=training,
            metrics=metrics,
            licence="MIT",
            half=True,
            both=both,
        )
        card = _card(f"{camera}, {'both directions' if both else direction}", trainer.recipe, training, whole, areas)
        path.with_suffix(".md").write_text(card, "utf-8")
        paths.append(path)
    return paths


def _card(
    title: str, recipe: Recipe, training: Mapping[str, Any], whole: Sequence[Score], areas: Sequence[Score]
) -> str:
    """Write the text of a model card."""
    phases = "; ".join(f"{p.steps} steps of {p.batch} × {p.crop}² ({p.part})" for p in recipe.phases)
    blocks = [
        f"# {title}\n\n"
        f"* Trained on {', '.join(training['photographs'])}, of {', '.join(training['cameras'])}.\n"
        f"* Started from: {recipe.init or 'random numbers'}.\n"
        f"* Recipe: {recipe.name}: {phases}; learning rate {recipe.lr:g}, {recipe.dtype}.\n"
        f"* Time and machine: {training['minutes']} minutes on {training['machine']}.\n"
        "* Licence: MIT.\n"
    ]
    if whole:
        blocks.append(f"## Measured on photographs that the training never saw\n\n{table(whole)}")
    if areas:
        photos = ", ".join(dict.fromkeys(each.photo for each in areas))
        blocks.append(
            "## Measured on held-out areas of the training photographs\n\n"
            f"{table(areas)}\nMeasured: {photos}. An area is weaker evidence than a whole photograph, "
            "because its light and settings are those of the training.\n"
        )
    if not whole and not areas:
        blocks.append("## Measured on nothing\n\nThe training saw every photograph.\n")
    return "\n".join(blocks)
