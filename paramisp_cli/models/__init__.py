"""Registry of the architectures: name, directions and location of each class. Listing names imports no torch.

To add an architecture: write one file (or folder) here and add one ``Entry``.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any, cast

from paramisp_cli.directions import ISP_DIRECTIONS, Direction
from paramisp_cli.errors import ConfigError

if TYPE_CHECKING:
    from paramisp_cli.models.base import IspModel, Params

__all__ = [
    "REGISTRY", "Entry", "IspModel", "Params", "architecture", "automatic", "check_stage", "entry", "names", "stages",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One architecture: its name in ``--model`` and checkpoint headers, and its class as "module:Class".

    ``published`` is the module that converts checkpoints of its authors' program, or "": it has the functions
    ``count_known`` and ``convert`` (see ``models.paramisp.published``). Weights of an architecture that is not
    ``automatic`` are used only when the architecture or the weights are named: it is there for comparisons.
    ``stages`` names the stages at which rendering can stop (``IspModel.stopping_at``), ``both_ways`` is that of
    ``IspModel``.
    """

    name: str
    where: str
    directions: tuple[Direction, ...] = (Direction.UNPROCESS, Direction.RENDER)
    needs_weights: bool = True
    published: str = ""
    automatic: bool = True
    stages: tuple[str, ...] = ()
    both_ways: bool = False


REGISTRY: tuple[Entry, ...] = (
    Entry("fast", "paramisp_cli.models.fast.network:Fast"),
    Entry("paramisp", "paramisp_cli.models.paramisp:ParamISP", published="paramisp_cli.models.paramisp.published"),
    Entry("parametric", "paramisp_cli.models.parametric:Parametric", needs_weights=False, stages=("restored",)),
    Entry(
        "invisp", "paramisp_cli.models.invisp:InvISP", published="paramisp_cli.models.invisp.published", automatic=False
    ),
    Entry(
        "ciexyz", "paramisp_cli.models.ciexyz:CieXyz", published="paramisp_cli.models.ciexyz.published", automatic=False
    ),
    Entry(
        "cycleisp",
        "paramisp_cli.models.cycleisp:CycleISP",
        directions=(Direction.UNPROCESS,),
        published="paramisp_cli.models.cycleisp.published",
        automatic=False,
    ),
    Entry(
        "cameranet",
        "paramisp_cli.models.cameranet:CameraNet",
        directions=(Direction.RENDER,),
        automatic=False,
        stages=("restored",),
    ),
    Entry("splines", "paramisp_cli.models.splines:Splines", directions=(Direction.TRANSFER,), automatic=False),
    Entry(
        "cstpp",
        "paramisp_cli.models.cstpp:Cstpp",
        directions=(Direction.TRANSFER,),
        published="paramisp_cli.models.cstpp.saved",
        automatic=False,
        both_ways=True,
    ),
    Entry("deblur", "paramisp_cli.models.deblur:Deblur", directions=(Direction.RESTORE,)),
)
"""Every architecture, best first; those for comparisons stand last."""


def names(*, needs_weights: bool | None = None, stage: str | None = None) -> tuple[str, ...]:
    """Return the names of the ISP's architectures, best first: all, or only those that need weights, or need none.

    With ``stage``, only those that can stop there.
    """
    return tuple(
        each.name
        for each in REGISTRY
        if {*ISP_DIRECTIONS} & {*each.directions}
        and needs_weights in (None, each.needs_weights)
        and (stage is None or stage in each.stages)
    )


def stages() -> tuple[str, ...]:
    """Return the names of all stages at which some architecture can stop."""
    return tuple(dict.fromkeys(stage for each in REGISTRY for stage in each.stages))


def check_stage(name: str, stage: str) -> None:
    """Raise ConfigError, with a list of those that can, unless an architecture can stop at a stage."""
    able = names(stage=stage)
    if name not in able:
        raise ConfigError(f"`stop_at` {stage}: {name} has no such stage; the models that have it are {', '.join(able)}")


def automatic() -> tuple[str, ...]:
    """Return the names of the architectures whose weights the search picks by itself, best first."""
    return tuple(name for name in names() if entry(name).automatic)


def entry(name: str) -> Entry:
    """Return the entry of an architecture; raises ConfigError with a list of all names."""
    for each in REGISTRY:
        if each.name == name:
            return each
    raise ConfigError(f"there is no model {name!r}; the models are {', '.join(names())}")


def architecture(name: str) -> type[IspModel]:
    """Import and return the class of an architecture; raises ConfigError with a list of all names."""
    module, _, kind = entry(name).where.partition(":")
    return cast("type[IspModel]", getattr(import_module(module), kind))


def __getattr__(name: str) -> Any:
    """Load ``IspModel`` or ``Params`` on first use (PEP 562): both import torch, which takes seconds."""
    if name not in ("IspModel", "Params"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.base"), name)
