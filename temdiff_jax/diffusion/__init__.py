"""Diffusion: schedule x parameterisation x solver x consistency, each a value."""
