"""CIE XYZ Net: sRGB to CIE XYZ and back, with a network of its own for each direction."""

from paramisp_cli.models.ciexyz.network import CieXyz

__all__ = ["CieXyz"]
