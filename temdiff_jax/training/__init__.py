"""Training of priors: data, state, step, loop, checkpoints."""
