"""A trained texture model at work: analysis, and rendering in blocks."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ddspx.control_gains import FrameGains
from ddspx.tasks.noisebandnet_model import NoiseBandRunConfig, make_model
from ddspx.tasks.sound_curves import QUANTILES, measure
from ddspx.tasks.synthesizer import (
    Curves,
    Synthesizer,
    check_curves,
    louder,
    plain_ranges,
    play,
)
from ddspx.tasks.texture_synths import centers_hz, make_source
from ddspx.types import RandomKey

# Rendered at once: enough for products of matrices to be worth it.
_BLOCK_S = 2.0


def loaded(
    config: NoiseBandRunConfig, params: Any, extra: Mapping[str, Any]
) -> Synthesizer:
    """A trained model as a `Synthesizer`.

    Curves that were drawn for the training sounds have to be given to `render` by who
    calls; ``analyze`` finds the others. All are put into the units of the training
    sounds, whatever their own range is, and the sound has the level of the recordings.

    Args:
      config: of the run.
      params: of the network.
      extra: of the train state: ``controls`` and ``gain``.

    Returns:
      A `Synthesizer` of kind ``"noisebandnet"``; its functions are compiled once.
    """
    model = make_model(config)
    source, names = config.source, config.controls.names
    stored = jax.tree.map(jnp.asarray, dict(extra))
    block = max(round(_BLOCK_S * source.sample_rate / source.hop), 1)

    @jax.jit
    def driven(params, memory, part):
        return model.drive(params, stored["controls"], part, memory)

    def first(part, key):
        controls, memory = driven(params, None, part)
        synth = make_source(source, model.bank)
        # Nothing was heard yet.
        return synth.init_state(key, controls), jax.tree.map(jnp.zeros_like, memory)

    @jax.jit
    def next_block(params, bank, state, part, gains):
        sounding, memory = state
        controls, memory = model.drive(params, stored["controls"], part, memory)
        controls = louder(controls, gains)
        sounding, audio = make_source(source, bank).render_block(sounding, controls)
        return (sounding, memory), audio / stored["gain"]

    def blocks(curves: Curves, key: RandomKey, gains: FrameGains | None = None):
        given, _ = check_curves(curves, names)
        return play(
            first,
            lambda state, part, gains: next_block(
                params, model.bank, state, part, gains
            ),
            given,
            key,
            hop=source.hop,
            latency=model.synth.latency,
            block=block,
            gains=gains,
        )

    def render(
        curves: Curves, key: RandomKey, gains: FrameGains | None = None
    ) -> np.ndarray:
        return np.concatenate(list(blocks(curves, key, gains)))

    def controls(curves: Curves) -> dict[str, np.ndarray]:
        given, frames = check_curves(curves, names)
        memory, parts = None, []
        for at in range(0, frames, block):
            part = {name: curve[at : at + block] for name, curve in given.items()}
            found, memory = driven(params, memory, part)
            parts.append(jax.device_get(found))
        return {
            name: np.concatenate([part[name] for part in parts]) for name in parts[0]
        }

    def analyze(audio: np.ndarray) -> dict[str, np.ndarray]:
        audio = np.asarray(audio, np.float32)
        return measure(config.controls, audio, source.sample_rate, source.hop)

    return Synthesizer(
        "noisebandnet",
        source.sample_rate,
        source.hop,
        names,
        plain_ranges(extra["controls"], QUANTILES),
        analyze,
        render,
        blocks,
        controls,
        dict(model.synth.sizes),
        centers_hz(source, model.bank, model.synth.sizes),
    )
