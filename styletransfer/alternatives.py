"""Other settings than the predicted ones: moved latents, and alternatives.

A prediction is a normal distribution of each control; with latents between, of each
latent first. What a pair does not tell may be set in several ways that sound alike, or
of which another is meant. `candidates` draws from the distributions, truncated to the
unit cube; `medoids` makes a few distinct settings of many, in units of the predicted
deviations; `alternatives` renders these and ranks them by the style distance.

A latent is moved by words: ``3=+1.5`` moves latent 3 up by 1.5 standard deviations of
the prior N(0, 1), ``3=-2`` down by 2, ``3==0.5`` sets it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float
from scipy.spatial.distance import cdist
from scipy.stats import norm, qmc, truncnorm

from ddspx.parameters import ParameterSpec, settings
from ddspx.types import Rate
from styletransfer.controller import LoadedController, at_rate, embed
from styletransfer.controller_task import centred
from styletransfer.hosts import Host
from styletransfer.models import Prediction
from styletransfer.objective import Objective
from styletransfer.transfer import Comparison, TransferError

# Draws, and of these the distinct ones that are rendered, for each alternative wanted.
_DRAWS, _RENDERS = 64, 8
# Draws from 0 to this number of deviations of each other are the same setting.
_SAME = 1e-3
_MOVE = re.compile(r"\s*(\d+)\s*=\s*(=?)\s*([+-]?)\s*(\S+)\s*")


class Move(NamedTuple):
    """A wish about one latent.

    Attributes:
      latent: its index.
      value: standard deviations of the prior.
      relative: whether from where it is predicted, or from 0.
    """

    latent: int
    value: float
    relative: bool


def parse_move(text: str) -> Move:
    """Reads ``3=+1.5``, ``3=-2`` or ``3==0.5``; see the module.

    Raises:
      TransferError: anything else.
    """
    found = _MOVE.fullmatch(text)
    value = np.nan
    if found is not None and (found[2] or found[3]):
        try:
            value = float(found[3] + found[4])
        except ValueError:
            found = None
    if found is None or not np.isfinite(value):
        raise TransferError(
            f"--latent {text}: expected INDEX=+AMOUNT or INDEX=-AMOUNT to move a"
            " latent, INDEX==VALUE to set it, such as 3=+1.5"
        )
    return Move(int(found[1]), value, not found[2])


def check_moves(loaded: LoadedController, moves: Sequence[Move]) -> None:
    """Refuses what cannot be moved.

    Raises:
      TransferError: the controller has no latents, or not that many, or a latent is
        set and moved, or set twice.
    """
    if not moves:
        return
    count = latent_count(loaded)
    if count == 0:
        raise TransferError(
            f"--latent: this controller of {loaded.effect.name} goes from sounds to"
            " controls directly and has no latents; leave --latent out, or give a"
            " controller with latents"
        )
    for move in moves:
        if move.latent >= count:
            raise TransferError(
                f"--latent {move.latent}: this controller has latents 0 to {count - 1}"
            )
    fixed = [move.latent for move in moves if not move.relative]
    for latent in fixed:
        if sum(move.latent == latent for move in moves) > 1:
            raise TransferError(f"--latent {latent}=: set once, or moved; not both")


def latent_count(loaded: LoadedController) -> int:
    """Latents of a controller; 0 for a direct one."""
    controller, params = loaded.controller, loaded.params
    if controller.latents is None:
        return 0
    config = loaded.config
    sound = jax.ShapeDtypeStruct((1, round(config.seconds * config.sample_rate)), "f4")
    code = jax.eval_shape(
        lambda p, a: controller.encode(p, controller.image(a)), params, sound
    )
    return jax.eval_shape(controller.latents, params, code, code)[0].shape[-1]


def moved(
    mean: Float[np.ndarray, "... latents"], moves: Sequence[Move]
) -> Float[np.ndarray, "... latents"]:
    """Latents with the wishes fulfilled; relative ones add up."""
    changed = np.array(mean, np.float32)
    for move in moves:
        before = changed[..., move.latent] if move.relative else 0.0
        changed[..., move.latent] = before + move.value
    return changed


def codes_of(
    loaded: LoadedController,
    audio: Float[np.ndarray, "channels time"],
    reference: Float[np.ndarray, "reference_channels reference_time"],
    rate: Rate,
    reference_rate: Rate,
) -> tuple[np.ndarray, np.ndarray]:
    """The codes [embedding] of input and reference.

    Raises:
      ValueError: a sound is empty.
    """
    return embed(loaded, audio, rate), embed(loaded, reference, reference_rate)


def predict_moved(
    loaded: LoadedController,
    codes: tuple[np.ndarray, np.ndarray],
    rate: Rate,
    moves: Sequence[Move],
) -> Prediction:
    """What a controller with latents says of a pair when latents are moved.

    Args:
      loaded: a controller with latents.
      codes: of input and reference, from `codes_of`.
      rate: at which the effect is rendered, Hz.
      moves: wishes; none gives the prediction itself.

    Returns:
      `Prediction`, NumPy arrays [n], of controls at `rate`.

    Raises:
      TransferError: see `check_moves`.
    """
    check_moves(loaded, moves)
    mean, _ = _posterior(loaded, codes)
    found = _settled(loaded, moved(mean, moves)[None])
    controls = at_rate(loaded, np.asarray(found.controls), rate)
    choices = tuple(np.asarray(shares)[0] for shares in found.choices)
    return Prediction(controls[0], np.asarray(found.deviation)[0], choices)


def candidates(
    loaded: LoadedController,
    codes: tuple[np.ndarray, np.ndarray],
    prediction: Prediction,
    rate: Rate,
    count: int,
    *,
    moves: Sequence[Move] = (),
    seed: int = 0,
) -> np.ndarray:
    """Settings [count, n] drawn from what the controller holds possible.

    With latents, z is drawn from its posterior first, moved latents stay where they
    were moved to, and the controls are drawn from what z says: choices by their
    probabilities, where the controller gives these, other controls from the normal
    distribution, truncated to the cube. Draws are spread evenly (scrambled Sobol).

    Args:
      loaded: a controller.
      codes: of input and reference.
      prediction: what it says of them, controls at `rate`.
      rate: at which the effect is rendered, Hz.
      count: settings wanted.
      moves: wishes about latents.
      seed: of the draws; the same gives the same.
    """
    n = len(prediction.controls)
    latents = latent_count(loaded)
    points = _even(count, latents + n, seed)
    centre, width = (np.asarray(part, np.float64)[None] for part in prediction[:2])
    shares = [np.asarray(share)[None] for share in prediction.choices]
    if latents:
        mean, log_variance = _posterior(loaded, codes)
        drawn = mean + np.exp(0.5 * log_variance) * norm.ppf(points[:, :latents])
        held = [move.latent for move in moves]
        drawn[:, held] = moved(mean, moves)[held]
        said = _settled(loaded, drawn.astype(np.float32))
        centre = at_rate(loaded, np.asarray(said.controls), rate).astype(np.float64)
        width = np.asarray(said.deviation, np.float64)
        shares = said.choices
    low, high = (0.0 - centre) / width, (1.0 - centre) / width
    even = points[:, latents:]
    drawn = truncnorm.ppf(even, low, high, loc=centre, scale=width)
    discrete = [k for k, spec in enumerate(loaded.specs) if spec.choices]
    for k, share in zip(discrete, shares, strict=bool(shares)):
        # The first choice whose cumulated probability exceeds an even number.
        below = np.cumsum(np.exp(np.asarray(share, np.float64)), axis=-1)
        chosen = np.sum(below[:, :-1] < even[:, k, None], axis=-1)
        drawn[:, k] = (chosen + 0.5) / below.shape[-1]
    return np.clip(drawn, 0.0, 1.0).astype(np.float32)


def medoids(
    points: Float[np.ndarray, "m d"], count: int, taken: Float[np.ndarray, "t d"]
) -> np.ndarray:
    """Rows of `points` that stand for the others: k medoids besides those taken.

    Begins with the points farthest from all before, then moves each centre to the
    member of its cluster that is nearest to the others (Park & Jun 2009) until nothing
    changes. Clusters about `taken` keep their centres and give no row.

    Args:
      points: settings, in units in which distances count.
      count: rows wanted.
      taken: points that are chosen already, one or more.

    Returns:
      Indices, at most `count`; fewer where there are not that many distinct points.
    """
    every = np.concatenate([taken, points])
    apart = cdist(every, every)
    fixed = len(taken)
    centres = list(range(fixed))
    for _ in range(count):
        nearest = apart[:, centres].min(axis=1)
        farthest = int(np.argmax(nearest))
        if nearest[farthest] <= _SAME:
            break
        centres.append(farthest)
    for _ in range(50):
        cluster = np.argmin(apart[:, centres], axis=1)
        before = list(centres)
        for place in range(fixed, len(centres)):
            members = np.flatnonzero(cluster == place)
            inner = apart[np.ix_(members, members)].sum(axis=1)
            centres[place] = int(members[np.argmin(inner)])
        if centres == before:
            break
    return np.array(centres[fixed:], int) - fixed


@dataclass(frozen=True)
class Alternative:
    """A setting that might be meant as well.

    Attributes:
      controls: [n] in [0, 1].
      loss: of the excerpt, the same as of the result.
      settings: in physical units, see `ddspx.parameters.settings`.
      differs: where it differs from the result, most first: control, both settings as
        text, and by how many of the prediction's deviations.
    """

    controls: np.ndarray
    loss: float
    settings: dict[str, Any]
    differs: tuple[dict[str, Any], ...]


def alternatives(
    host: Host,
    judged: Comparison,
    drawn: Float[np.ndarray, "m n"],
    chosen: Float[np.ndarray, " n"],
    deviation: Float[np.ndarray, " n"],
    count: int,
) -> list[Alternative]:
    """The best distinct settings besides the chosen one, best first.

    Args:
      host: the effect.
      judged: the excerpt and its score, from `styletransfer.transfer.comparison`.
      drawn: from `candidates`.
      chosen: the controls that the transfer found.
      deviation: of the prediction.
      count: how many.

    Returns:
      At most `count`: fewer where the draws do not differ, or renders fail.
    """
    kept = _distinct(host.specs, drawn, chosen, deviation, _RENDERS * count)
    if not len(kept):
        return []
    tried = drawn[kept]
    objective = Objective(
        host, judged.excerpt, judged.score, budget=len(tried), center=chosen
    )
    loss = objective.losses(tried)
    found: dict[tuple[str, ...], Alternative] = {}
    for k in np.argsort(loss, kind="stable"):
        differs = differences(host.specs, chosen, tried[k], deviation)
        table = settings(host.specs, tried[k])
        # What a person reads as the same is the same.
        said = tuple(entry["text"] for entry in table.values())
        if differs and said not in found and np.isfinite(loss[k]):
            found[said] = Alternative(tried[k], float(loss[k]), table, differs)
    return list(found.values())[:count]


def draws_for(count: int) -> int:
    """Candidates to draw for so many alternatives, a power of two."""
    return 1 << (_DRAWS * count - 1).bit_length()


def differences(
    specs: Sequence[ParameterSpec],
    chosen: Float[np.ndarray, " n"],
    other: Float[np.ndarray, " n"],
    deviation: Float[np.ndarray, " n"],
) -> tuple[dict[str, Any], ...]:
    """Where two settings differ as a person reads them, by most deviations first."""
    specs = tuple(specs)
    both = np.asarray(centred(specs, np.stack([chosen, other])))
    apart = (both[1] - both[0]) / deviation
    rows = []
    for k in np.argsort(-np.abs(apart), kind="stable"):
        before, after = (specs[k].text(float(row[k])) for row in both)
        if before != after:
            rows.append(
                {
                    "control": specs[k].name,
                    "result": before,
                    "here": after,
                    "deviations": round(float(apart[k]), 2),
                }
            )
    return tuple(rows)


def _distinct(specs, drawn, chosen, deviation, count) -> np.ndarray:
    every = np.asarray(centred(tuple(specs), np.concatenate([chosen[None], drawn])))
    scaled = every / np.asarray(deviation, np.float64)
    return medoids(scaled[1:], count, scaled[:1])


def _even(count: int, dimensions: int, seed: int) -> np.ndarray:
    """Points [count, dimensions] in the open unit cube; `count` a power of two."""
    sobol = qmc.Sobol(dimensions, rng=np.random.default_rng(seed))
    return np.clip(sobol.random(count), 1e-6, 1.0 - 1e-6)


def _posterior(
    loaded: LoadedController, codes: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    assert loaded.controller.latents is not None
    found = jax.device_get(loaded.controller.latents(loaded.params, *codes))
    return np.asarray(found[0]), np.asarray(found[1])


def _settled(loaded: LoadedController, latents: np.ndarray) -> Prediction:
    """What the decoder says of latents [m, latents], at the run's rate."""
    settle = loaded.controller.settle
    assert settle is not None
    found = jax.vmap(settle, (None, 0))(loaded.params, jnp.asarray(latents))
    return jax.device_get(found)
