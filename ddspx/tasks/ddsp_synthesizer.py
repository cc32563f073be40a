"""A trained DDSP model at work: analysis, and rendering in blocks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.control_gains import FrameGains
from ddspx.models.ddsp_autoencoder import LATENT
from ddspx.synths.base import Synth
from ddspx.synths.noise import bin_frequencies_hz
from ddspx.tasks.ddsp_model import DdspRunConfig, make_model
from ddspx.tasks.sound_curves import QUANTILES, measure
from ddspx.tasks.synthesizer import (
    Curves,
    Synthesizer,
    check_curves,
    louder,
    plain_ranges,
    play,
)
from ddspx.types import RandomKey

# Rendered at once. Longer blocks make a long room cheaper.
_BLOCK_S = 4.0


def loaded(
    config: DdspRunConfig, params: Any, ranges: Mapping[str, Any]
) -> Synthesizer:
    """A trained model as a `Synthesizer`.

    Latents are curves too: ``z_0``, ``z_1`` and so on.

    Args:
      config: of the run.
      params: of the model.
      ranges: statistics that were stored beside them.

    Returns:
      A `Synthesizer` of kind ``"ddsp"``; its functions are compiled once.
    """
    model = make_model(config)
    rate, hop = config.synth.sample_rate, config.hop
    latents = tuple(f"{LATENT}_{i}" for i in range(config.model.latents))
    names = (*config.model.inputs, *latents)
    block = max(round(_BLOCK_S * rate / hop), 1)
    latency = model.in_room(params).latency
    bins = config.synth.sizes.noise_bins
    centers_hz = {"noise_magnitudes": bin_frequencies_hz(bins, rate)} if bins else {}

    def gathered(curves: Curves) -> dict[str, np.ndarray]:
        found, _ = check_curves(curves, names)
        driven = {name: found[name] for name in config.model.inputs}
        if latents:
            driven[LATENT] = np.stack([found[name] for name in latents], -1)
        return driven

    @jax.jit
    def heard(params, audio):
        given = {name: jnp.zeros(0) for name in config.model.inputs}
        return model.curves(params, audio, given)[LATENT]

    def analyze(audio: np.ndarray) -> dict[str, np.ndarray]:
        audio = np.asarray(audio, np.float32)
        found = measure(config.controls, audio, rate, hop)
        if latents:
            z = np.asarray(heard(params, audio))
            found |= {name: z[:, i] for i, name in enumerate(latents)}
        return found

    def synth_of(params: Any) -> Synth:
        return model.in_room(params)

    @jax.jit
    def first(params, key, part):
        controls, memory = model.controls(params, part)
        state = synth_of(params).init_state(key, controls)
        return state, jax.tree.map(jnp.zeros_like, memory)

    @jax.jit
    def next_block(params, state, part, gains):
        sounding, memory = state
        controls, memory = model.controls(params, part, memory)
        controls = louder(controls, gains)
        sounding, audio = synth_of(params).render_block(sounding, controls)
        return (sounding, memory), audio

    def blocks(curves: Curves, key: RandomKey, gains: FrameGains | None = None):
        return play(
            lambda part, key: first(params, key, part),
            lambda state, part, gains: next_block(params, state, part, gains),
            gathered(curves),
            key,
            hop=hop,
            latency=latency,
            block=block,
            gains=gains,
        )

    def render(
        curves: Curves, key: RandomKey, gains: FrameGains | None = None
    ) -> np.ndarray:
        return np.concatenate(list(blocks(curves, key, gains)))

    @jax.jit
    def driven(params, memory, part):
        return model.controls(params, part, memory)

    def controls(curves: Curves) -> dict[str, np.ndarray]:
        given = gathered(curves)
        memory, parts = None, []
        for at in range(0, len(given["f0_hz"]), block):
            part = {name: curve[at : at + block] for name, curve in given.items()}
            found, memory = driven(params, memory, part)
            parts.append(jax.device_get(found))
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    return Synthesizer(
        "ddsp",
        rate,
        hop,
        names,
        plain_ranges(ranges, QUANTILES),
        analyze,
        render,
        blocks,
        controls,
        dict(model.synth.sizes),
        centers_hz,
    )
