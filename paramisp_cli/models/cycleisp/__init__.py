"""CycleISP: sRGB to RAW with attention over channels and over space."""

from paramisp_cli.models.cycleisp.model import CycleISP

__all__ = ["CycleISP"]
