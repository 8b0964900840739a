"""Closed-form colour rendition between a camera's white-balanced RGB and sRGB, with a prior; numpy alone.

form     the stages, their derivatives, and their guarantees: black, white, order
prior    mean and covariance over cameras (``prior.json``)
fit      pixels → the most probable rendition and its covariance
apply    renditions on pixels, float32
preview  where a RAW lies under its own preview
look     the camera's look, fitted to that preview
develop  mosaic → picture at full size
"""
