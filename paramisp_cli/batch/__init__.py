"""Many files: `find` names inputs and outputs before any work starts, `run` converts one file after the other."""
