"""ParamISP: ``network`` says what it is, ``model`` is the class to use."""

from paramisp_cli.models.paramisp.model import ParamISP

__all__ = ["ParamISP"]
