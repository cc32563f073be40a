"""Learned stand-ins as control variates, against the converged difference.

What can be had where an effect has no twin. The gradient is that of the
multi-resolution STFT distance between the effect's output at a random setting and at
another, hidden one, with respect to the controls in the unit cube. The truth is a
central difference of every control; it is checked against half and double its step.
Renders count the centre: 8 renders are the centre and 7 one-sided directions, or 3
pairs with one render to spare. Plain pairs, which do not need their centre, get 4.

Stand-ins are trained on the train split, and the sizes that `coordinates` wants are
measured on the valid split; the table is on the test split. Medians over (clip,
setting) draws, with bootstrap 95 % intervals that resample the draws.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from benchmarks.gradient_lab import interval

from ddspx.data.dataset import CropConfig, audio_dataset, sections
from ddspx.data.manifest import Clip
from ddspx.training.fit import fit
from styletransfer.gradients import (
    Estimator,
    central_differences,
    coordinates,
    orthogonal,
    render_points,
    spsa,
)
from styletransfer.hosts import Host, open_host
from styletransfer.presets import load_effect
from styletransfer.proxy import Proxy, distance, make_proxy
from styletransfer.proxy_task import (
    ProxyRunConfig,
    load_proxy,
    proxy_task,
    rendered_batches,
)

TRUTH_STEP = 0.004
STEP = 0.01


@dataclass(frozen=True)
class StandInOptions:
    """What is measured.

    Attributes:
      renders: renders of a step, the centre included.
      draws: (clip, setting) pairs of the table.
      calibration: pairs that the sizes for `coordinates` are measured on.
      keys: random directions drawn for each pair.
      seconds: length of a clip.
      sample_rate: Hz.
      proxy_steps: training steps of the stand-in.
      seed: of the directions.
    """

    renders: tuple[int, ...]
    draws: int
    calibration: int
    keys: int
    seconds: float
    sample_rate: int
    proxy_steps: int
    seed: int


@dataclass(frozen=True)
class Draws:
    """Clips, settings and hidden targets, and what is exact about them.

    Attributes:
      audio: [draws, 1, time].
      controls: [draws, n].
      target: [draws, 1, time].
      truth: converged gradients [draws, n].
      proxy: the stand-in's gradients [draws, n].
    """

    audio: np.ndarray
    controls: np.ndarray
    target: np.ndarray
    truth: np.ndarray
    proxy: np.ndarray


def measure(
    name: str, splits: dict[str, tuple[Clip, ...]], runs: Path, options: StandInOptions
) -> dict[str, Any]:
    """One effect: trains its stand-in, checks the truth, prints its table."""
    with open_host(load_effect(name), options.sample_rate) as host:
        proxy, params, seconds = train_stand_in(
            name, host, splits["train"], runs, options.proxy_steps
        )
        print(f"\n{name}: {len(host.specs)} controls; stand-in: {seconds}", flush=True)
        losses = _loss_of_renders()
        slope = _proxy_gradient(proxy, params)
        tools = (losses, slope, options)
        known = _draw(host, splits["valid"], options.calibration, 1, *tools)
        tested = _draw(host, splits["test"], options.draws, 2, *tools, check=True)
        rows = _rows(host, known, tested, losses, options)
    for row in rows:
        print(_line(row), flush=True)
    return {"controls": len(host.specs), "stand_in": seconds, "rows": rows}


def _rows(host, known, tested, losses, options) -> list[dict[str, Any]]:
    size = np.sqrt(np.mean(known.truth**2, 0)) + 1e-6
    unknown = np.sqrt(np.mean((known.truth - known.proxy) ** 2, 0)) + 1e-6
    n = len(host.specs)
    rows = [_row("stand-in alone", 1, tested.proxy[:, None], tested.truth)]
    memory: dict[bytes, np.ndarray] = {}

    def remembered(host, draws, points):
        """Estimators that differ only in their weights share their renders."""
        key = points.tobytes()
        if key not in memory:
            memory[key] = losses(host, draws, points)
        return memory[key]

    for renders in options.renders:
        pairs, ahead = max((renders - 1) // 2, 1), renders - 1
        few = min(ahead, n)
        table: list[tuple[str, Estimator, bool]] = [
            ("SPSA", spsa(STEP, max(renders // 2, 1)), False),
            ("orthogonal pairs", orthogonal(STEP, max(renders // 2, 1)), False),
            ("orthogonal forward", orthogonal(STEP, ahead, one_sided=True), False),
            ("coordinates", coordinates(STEP, size, few), False),
            ("stand-in + SPSA", spsa(STEP, pairs), True),
            ("stand-in + orthogonal, unbiased", orthogonal(STEP, pairs), True),
            (
                "stand-in + forward, projection",
                orthogonal(STEP, ahead, one_sided=True, scaling="projection"),
                True,
            ),
            ("stand-in + coordinates", coordinates(STEP, unknown, few), True),
        ]
        for name, estimator, with_prior in table:
            if with_prior and estimator.renders(n) > max(renders, 1 + few):
                continue  # a pair and the centre are 3 renders
            prior = tested.proxy if with_prior else np.zeros_like(tested.proxy)
            found = _estimates(host, tested, estimator, prior, remembered, options)
            rows.append(_row(name, renders, found, tested.truth))
    return rows


def _estimates(host, draws, estimator, prior, losses, options) -> np.ndarray:
    """Estimates [draws, keys, n]."""
    count, keys = len(draws.controls), options.keys
    seeds = jax.random.split(jax.random.key(options.seed), (count, keys))
    plan = jax.jit(jax.vmap(jax.vmap(estimator.plan, (0, None))))
    plans = plan(seeds, draws.controls)
    values = losses(host, draws, np.asarray(plans.points))
    scalar = jax.vmap(jax.vmap(estimator.scalar, (0, 0, None)))
    return np.asarray(jax.jit(scalar)(plans, values, prior))


def _loss_of_renders() -> Callable[..., np.ndarray]:
    compare = jax.jit(
        lambda audio, target: jax.lax.map(lambda one: distance(one, target), audio)
    )

    def losses(host: Host, draws: Any, points: np.ndarray) -> np.ndarray:
        """Losses [draws, ...] of points [draws, ..., n]; each point rendered once."""
        found = []
        for audio, target, rows in zip(draws.audio, draws.target, points, strict=True):
            flat = rows.reshape(1, -1, rows.shape[-1])
            unique, back = np.unique(flat[0], axis=0, return_inverse=True)
            rendered, status = render_points(host.render, audio[None], unique[None])
            if np.any(status):
                raise RuntimeError(f"{host.effect.name}: renders failed, {status}")
            padded = _padded(rendered[0])
            values = np.asarray(compare(padded, target))[: len(unique)]
            found.append(values[back.ravel()].reshape(rows.shape[:-1]))
        return np.stack(found)

    return losses


def _padded(audio: np.ndarray) -> np.ndarray:
    """Rows repeated up to a multiple of 16, so that few shapes are compiled."""
    missing = -len(audio) % 16
    return np.concatenate([audio, np.repeat(audio[-1:], missing, 0)])


def _proxy_gradient(proxy: Proxy, params: Any) -> Callable[..., np.ndarray]:
    @jax.jit
    def one(audio, controls, target):
        return jax.grad(lambda u: distance(proxy.render(params, audio, u), target))(
            controls
        )

    return lambda *rows: np.stack([one(*row) for row in zip(*rows, strict=True)])


def _draw(
    host: Host,
    clips: Sequence[Clip],
    count: int,
    seed: int,
    losses: Any,
    slope: Any,
    options: StandInOptions,
    check: bool = False,
) -> Draws:
    rng = np.random.default_rng(seed)
    rate, seconds = options.sample_rate, options.seconds
    found: list[np.ndarray] = []
    # Clip by clip in turn, so that few draws still meet every speaker.
    for index in rng.permutation(len(clips)):
        parts = sections(clips[index], seconds, sample_rate=rate, channels=1)
        if parts:
            found.append(parts[rng.integers(len(parts))].samples)
        if len(found) == count:
            break
    audio = np.stack([found[i % len(found)] for i in range(count)])
    controls = rng.random((count, len(host.specs)), dtype=np.float32)
    target = host.render(audio, rng.random(controls.shape, dtype=np.float32))[0]
    draws = Draws(audio, controls, target, controls, controls)
    truth = _differences(host, draws, losses, TRUTH_STEP)
    if check:
        for factor in (0.5, 2.0):
            other = _differences(host, draws, losses, factor * TRUTH_STEP)
            row = _row("", 0, other[:, None], truth)
            print(
                f"  truth at step {factor * TRUTH_STEP:g} against {TRUTH_STEP:g}:"
                f" cosine {row['cosine'][0]:.4f}, lowest {row['lowest']:.3f}, relative"
                f" error {row['error'][0]:.4f}",
                flush=True,
            )
    return replace(draws, truth=truth, proxy=slope(audio, controls, target))


def _differences(host, draws, losses, step) -> np.ndarray:
    estimator = central_differences(step)
    plan = jax.vmap(lambda u: estimator.plan(jax.random.key(0), u))(draws.controls)
    values = losses(host, draws, np.asarray(plan.points))
    return np.asarray(jax.vmap(estimator.scalar)(plan, values))


def train_stand_in(
    name: str, host: Host, clips: tuple[Clip, ...], runs: Path, steps: int
) -> tuple[Proxy, Any, str]:
    """Trains the stand-in of a preset by the fit loop, or resumes it.

    Args:
      name: of the preset.
      host: the preset, open.
      clips: of the train split.
      runs: folder of trained stand-ins.
      steps: of training.

    Returns:
      (stand-in, its parameters, what it took in words).
    """
    folder, rate = runs / f"{name}-{steps}", int(host.sample_rate)
    config = ProxyRunConfig(effect=name, sample_rate=rate)
    config = replace(
        config,
        fit=replace(config.fit, steps=steps, evaluate_every=steps, quiet=True),
        optimizer=replace(config.optimizer, decay_steps=steps),
    )
    proxy = make_proxy(host.effect, rate, config.proxy)
    began = time.perf_counter()
    crops = CropConfig(sample_rate=rate, seconds=config.seconds)
    dataset = audio_dataset(clips, crops)
    batches = rendered_batches(dataset, host, config.batch_size, gain_db=config.gain_db)
    with proxy_task(proxy, config.optimizer) as task:
        fit(task, batches, config.fit, folder, run_config=config)
    took = time.perf_counter() - began
    params = load_proxy(folder, "last")[1]
    return proxy, params, f"{steps} steps of training, {took:.0f} s"


def _row(name, renders, estimates, truth) -> dict[str, Any]:
    """Cosine and relative error of estimates [draws, keys, n], with intervals."""
    wanted = truth[:, None].astype(np.float64)
    length = np.linalg.norm(estimates, axis=-1) * np.linalg.norm(wanted, axis=-1)
    cosine = np.sum(estimates * wanted, -1) / np.maximum(length, 1e-12)
    error = np.linalg.norm(estimates - wanted, axis=-1)
    error = error / np.maximum(np.linalg.norm(wanted, axis=-1), 1e-12)
    return {
        "estimator": name,
        "renders": renders,
        "cosine": interval(cosine, np.median),
        "mean_cosine": interval(cosine, np.mean),
        "error": interval(error, np.median),
        "lowest": float(cosine.min()),
    }


def _line(row: dict[str, Any]) -> str:
    cosine, mean, error = row["cosine"], row["mean_cosine"], row["error"]
    return (
        f"  {row['renders']:3d} renders  {row['estimator']:32s}"
        f" cosine {cosine[0]:6.3f} [{cosine[1]:.3f}, {cosine[2]:.3f}]"
        f"  mean {mean[0]:6.3f}  relative error {error[0]:6.3f}"
        f" [{error[1]:.3f}, {error[2]:.3f}]"
    )
