"""CSTPP: a network that gives every patch a polynomial from one camera's colours to another's (ACM MM 2024)."""

from paramisp_cli.models.cstpp.network import Cstpp

__all__ = ["Cstpp"]
