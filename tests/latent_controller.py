"""A controller with latents whose every answer is known: linear, by hand.

A code is the level of a sound and that of its first difference, in units of 20 dB. The
reference's code less the input's gives latents 0 and 1; latents 2 and 3 are told by the
pair as well and change no control. The controls are a gain and a high shelf, each
moved by `SLOPES` of the latents.
"""

import jax.numpy as jnp
import numpy as np

from ddspx.parameters import ParameterSpec
from styletransfer.controller import LoadedController
from styletransfer.controller_task import ControllerRunConfig
from styletransfer.hosts import HostEffect, Slot
from styletransfer.models import (
    Controller,
    ControllerConfig,
    Prediction,
    make_controller,
)

RATE = 16000
# Controls by latents. 20 dB are half of the gain's range of 40 dB.
SLOPES = np.array([[0.5, 0.0, 0.0, 0.0], [0.0, 0.3, 0.0, 0.0]], np.float32)
DEVIATION = np.array([0.05, 0.2], np.float32)
# Variance of the latents that a pair leaves.
VARIANCE = 0.04


def gain_and_shelf() -> HostEffect:
    """A gain of -20 to 20 dB, then a high shelf of -18 to 18 dB at 2 kHz."""
    gain = ParameterSpec("gain_db", -20.0, 20.0, "dB", identity=0.0)
    shelf = ParameterSpec("gain_db", -18.0, 18.0, "dB", identity=0.0)
    fixed = (("cutoff_frequency_hz", 2000.0), ("q", 0.7071))
    return HostEffect(
        "level_and_tilt",
        (
            Slot("level", "Gain", (gain,)),
            Slot("tilt", "HighShelfFilter", (shelf,), fixed),
        ),
    )


def latent_controller(
    slopes: np.ndarray = SLOPES, effect: HostEffect | None = None
) -> LoadedController:
    """The controller of the module, with other slopes [controls, latents] if given."""
    count = slopes.shape[1]

    def image(audio):
        audio = jnp.asarray(audio)
        power = [jnp.mean(x**2) for x in (audio, jnp.diff(audio, axis=-1))]
        return 0.5 * jnp.log10(jnp.stack(power) + 1e-12)[None]

    def latents(params, code, reference):
        apart = params["latents"] @ (reference - code)
        return apart, jnp.full(count, jnp.log(VARIANCE))

    def settle(params, z):
        controls = jnp.clip(0.5 + params["decoder"] @ z, 0.0, 1.0)
        return Prediction(controls, jnp.asarray(DEVIATION))

    def decide(params, code, reference):
        return settle(params, latents(params, code, reference)[0])

    def encode(params, image):
        return image[0] + params["encoder"]

    def predict(params, audio, reference):
        return decide(params, *(encode(params, image(s)) for s in (audio, reference)))

    told = np.zeros((count, 2), np.float32)
    told[0, 0], told[1] = 1.0, (-1.0, 1.0)
    told[2:, 0] = 0.7
    params = {
        "encoder": jnp.zeros(2),
        "latents": jnp.asarray(told),
        "decoder": jnp.asarray(slopes),
    }
    controller = Controller(
        lambda key: params, image, encode, decide, predict, latents, settle
    )
    config = ControllerRunConfig(sample_rate=RATE, seconds=0.5)
    return LoadedController(config, effect or gain_and_shelf(), controller, params)


def direct_controller() -> LoadedController:
    """A controller without latents of the same effect, and without weights."""
    small = ControllerConfig(bands=24, channels=(8, 8), embedding=16, hidden=(16,))
    controller = make_controller(small, 2, RATE)
    config = ControllerRunConfig(sample_rate=RATE, seconds=0.5, model=small)
    return LoadedController(config, gain_and_shelf(), controller, {})
