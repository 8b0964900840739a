"""Fast: a closed-form rendition and a small network of local corrections; ``network`` describes it."""

from paramisp_cli.models.fast.network import Fast

__all__ = ["Fast"]
