"""Many files: `find` names inputs and outputs before any work starts, `run` works on one file after the other."""
