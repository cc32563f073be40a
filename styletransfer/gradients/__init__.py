"""Gradients of effects that can only be rendered.

`estimators` turns renders into gradients, `default` says which of them to take,
`staged` and `fused` put a host between a controller and its loss, `chains` takes exact
gradients of the JAX behind it, `unit_interval` keeps controls from getting stuck.
"""

from styletransfer.gradients.chains import (
    Chain,
    chain_black_box,
    chain_black_box_loss,
    chain_halves,
    pass_through,
    split_chain,
)
from styletransfer.gradients.default import (
    DEFAULT_RENDERS,
    DEFAULT_STEP,
    default_estimator,
)
from styletransfer.gradients.estimators import (
    Estimator,
    Plan,
    central_differences,
    coordinates,
    forward_differences,
    orthogonal,
    restricted,
    spsa,
    steps_for,
)
from styletransfer.gradients.fused import black_box, black_box_loss
from styletransfer.gradients.staged import (
    After,
    Staged,
    compile_halves,
    mean_over_valid,
    render_points,
    staged_step,
)
from styletransfer.gradients.unit_interval import (
    controls_from_logits,
    logits_from_controls,
    projected,
)

__all__ = [
    "DEFAULT_RENDERS",
    "DEFAULT_STEP",
    "After",
    "Chain",
    "Estimator",
    "Plan",
    "Staged",
    "black_box",
    "black_box_loss",
    "central_differences",
    "chain_black_box",
    "chain_black_box_loss",
    "chain_halves",
    "compile_halves",
    "controls_from_logits",
    "coordinates",
    "default_estimator",
    "forward_differences",
    "logits_from_controls",
    "mean_over_valid",
    "orthogonal",
    "pass_through",
    "projected",
    "render_points",
    "restricted",
    "split_chain",
    "spsa",
    "staged_step",
    "steps_for",
]
