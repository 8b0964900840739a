"""Reports: one HTML page about a training, a data set, an evaluation or a batch, readable without a network."""
