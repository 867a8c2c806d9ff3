"""Learning: losses, stages, the loop, priors. `copo train` is its command."""
