"""Gradients of effects that can only be rendered; see `estimators` and `staged`."""

from styletransfer.gradients.estimators import (
    Estimator,
    Plan,
    central_differences,
    forward_differences,
    orthogonal,
    spsa,
)

__all__ = [
    "Estimator",
    "Plan",
    "central_differences",
    "forward_differences",
    "orthogonal",
    "spsa",
]
