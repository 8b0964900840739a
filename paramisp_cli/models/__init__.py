"""The architectures: one file each, and one line here."""

from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import IspModel, Params
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.models.paramisp import ParamISP

ARCHITECTURES: tuple[type[IspModel], ...] = (ParamISP, Parametric)
"""Every architecture, best first."""


def architecture(name: str) -> type[IspModel]:
    """The architecture that ``--model`` and checkpoint headers call ``name``; raises ConfigError naming them all."""
    for candidate in ARCHITECTURES:
        if candidate.name == name:
            return candidate
    known = ", ".join(candidate.name for candidate in ARCHITECTURES)
    raise ConfigError(f"there is no model {name!r}; the models are {known}")


__all__ = ["ARCHITECTURES", "IspModel", "Params", "architecture"]
