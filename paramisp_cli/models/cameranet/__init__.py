"""CameraNet: a two-stage network that renders RAW files (Liang et al., IEEE TIP 2021)."""

from paramisp_cli.models.cameranet.network import CameraNet

__all__ = ["CameraNet"]
