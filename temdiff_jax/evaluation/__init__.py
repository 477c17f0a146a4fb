"""Scores of a reconstruction against a known truth, and the tables made of them."""

from temdiff_jax.evaluation.protocol import (
    CASES,
    PROTOCOL,
    Case,
    evaluate,
    score,
)

__all__ = ["CASES", "PROTOCOL", "Case", "evaluate", "score"]
