"""CycleISP: sRGB to RAW with attention over channels and over space; and its rendering, which needs a guide."""

from paramisp_cli.models.cycleisp.model import CycleISP
from paramisp_cli.models.cycleisp.network import GuidedRender
from paramisp_cli.models.cycleisp.published import tensors_of

__all__ = ["CycleISP", "GuidedRender", "tensors_of"]
