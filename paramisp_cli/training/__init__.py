"""Training of networks: data sets of aligned pairs, recipes, the training loop, and measurement of the results."""
