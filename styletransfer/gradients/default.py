"""Which estimator to take: a rule by number of controls and renders, from measurements.

`python scripts/benchmark.py gradients --studies sizes` measures every estimator against
autodiff through the twin while pedalboard renders, for 2 to 25 controls of a long
channel strip. Median cosine to the truth, multi-resolution STFT, scalar form:

    controls  renders  SPSA  orthogonal  one-sided   prior  prior + one-sided,
                             pairs       orthogonal  alone  projected (relative error)
    4         3        .54   .43         .71         .975   .971 (.39 alone, .26)
    8         5        .54   .49         .70         .965   .968 (.36 alone, .26)
    13        9        .64   .48         .77         .968   .981 (.32 alone, .22)
    19        17       .54   .60         .93         .989   .982 (.35 alone, .19)
    25        17       .52   .57         .81         .983   .979 (.37 alone, .24)

Forward differences (1 + n renders) have .999 or more, with a relative error of .03 to
.05, central ones (1 + 2 n) 1.000 and .01 to .02, for every n. The prior is a twin
whose every control is off by 3 % of its range.

So one rule holds for every number of controls:

* renders for all controls twice (1 + 2 n): central differences;
* renders for all controls once (1 + n): forward differences, which more directions do
  not improve;
* fewer: one-sided orthogonal directions, each of which tells more than half a pair;
* with a prior the same, projected: what was not measured stays as the prior has it;
* where the typical size of each control's gradient is known: coordinates, which the
  large ones deserve more often (with a prior: always).

The step is 0.005 of the range: forward differences of smooth effects are half as wrong
as at 0.01 (their error is proportional to it), and below it kinks of the loss and
float32 take over. No step helps where the render turns within less of the range, as
with the time of a delay: there autodiff and differences are different questions.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ddspx.parameters import ParameterSpec
from styletransfer.gradients.estimators import (
    Estimator,
    central_differences,
    coordinates,
    forward_differences,
    orthogonal,
    steps_for,
)

# The step with the least error over effects, see the module.
DEFAULT_STEP = 0.005
# What a gradient may cost where nobody says: forward differences up to 8 controls.
DEFAULT_RENDERS = 9


def default_estimator(
    controls: int | Sequence[ParameterSpec],
    renders: int,
    *,
    prior: bool = False,
    sizes: Any = None,
    epsilon: Any = DEFAULT_STEP,
) -> Estimator:
    """The estimator of the smallest error for a budget of renders; see the module.

    Args:
      controls: how many there are, or their specs: then no step is finer than what
        each control can tell apart.
      renders: that a gradient may cost, the centre included; 2 or more.
      prior: whether the gradient of a stand-in will be given.
      sizes: typical size of each control's gradient [n], or of what the prior gets
        wrong of it; None where it is not known.
      epsilon: step, a number or [n].

    Returns:
      An `Estimator` of at most `renders` renders.

    Raises:
      ValueError: no controls, fewer than 2 renders, or sizes of another number.
    """
    if isinstance(controls, int):
        n, step = controls, epsilon
    else:
        n, step = len(controls), steps_for(controls, epsilon)
    if n < 1:
        raise ValueError(f"an estimator needs 1 control or more, got {n}")
    if renders < 2:
        raise ValueError(
            f"renders {renders}: a difference needs the centre and one more, 2 or more"
        )
    if renders > 2 * n:
        return central_differences(step)
    if renders > n:
        return forward_differences(step)
    # Without a prior, what is not measured now must have its turn another time.
    scaling = "projection" if prior else "unbiased"
    if sizes is not None:
        if np.shape(sizes) != (n,):
            raise ValueError(
                f"sizes of shape {np.shape(sizes)} given for {n} controls; give one"
                " number for each"
            )
        return coordinates(step, sizes, renders - 1, scaling=scaling)
    return orthogonal(step, renders - 1, one_sided=True, scaling=scaling)


def chosen_estimator(
    estimator: Estimator | int, n: int, *, prior: bool = False
) -> Estimator:
    """An estimator as it is, or `default_estimator` for that many renders.

    Args:
      estimator: one, or the renders that a gradient may cost.
      n: number of controls.
      prior: see `default_estimator`.

    Returns:
      An `Estimator`.

    Raises:
      ValueError: see `default_estimator`.
    """
    if isinstance(estimator, int):
        return default_estimator(n, estimator, prior=prior)
    return estimator
