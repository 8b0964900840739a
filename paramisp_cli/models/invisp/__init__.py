"""InvISP: an invertible network, one set of weights for both directions."""

from paramisp_cli.models.invisp.network import InvISP

__all__ = ["InvISP"]
