"""RAW files and the camera's JPEGs of the same shots: found, aligned, and stored as a data set."""
