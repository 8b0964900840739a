"""Fast: a closed-form rendition and a small network of local corrections; ``network`` describes it.

``graph`` builds the same model as an ONNX graph, without PyTorch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from paramisp_cli.models.fast.network import Fast

__all__ = ["Fast"]


def __getattr__(name: str) -> Any:
    """Load ``Fast`` on first use (PEP 562): it imports torch, which takes seconds."""
    if name != "Fast":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from paramisp_cli.models.fast.network import Fast

    return Fast
