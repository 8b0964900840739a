"""ParamISP: ``network`` defines it; ``model`` has the class for callers."""

from paramisp_cli.models.paramisp.model import ParamISP

__all__ = ["ParamISP"]
