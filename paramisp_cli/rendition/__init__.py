"""Closed-form colour rendition between a camera's white-balanced RGB and sRGB, with a prior; numpy alone."""
