"""A fuzz harness of our own: mutated files go through the command line, and a parent watches the worker."""
