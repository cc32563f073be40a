"""A controller that needs no training, for tests of what uses controllers."""

import jax.numpy as jnp

from styletransfer.controller import LoadedController
from styletransfer.controller_task import ControllerRunConfig
from styletransfer.models import Controller, Prediction
from styletransfer.presets import parse_effect

RATE = 16000
EFFECT = "slots: {gain: {plugin: Gain}, low: {plugin: LowShelfFilter}}"


def level_controller() -> LoadedController:
    """A controller that turns the gain by the levels of the two sounds."""

    def encode(params, image):
        return jnp.log(jnp.mean(image**2) + 1e-6)[None]

    def decide(params, code, reference):
        controls = 0.5 + 0.1 * jnp.tanh(reference - code) * jnp.ones(4)
        return Prediction(controls, jnp.full(4, 0.2))

    def predict(params, audio, reference):
        return decide(params, encode(params, audio), encode(params, reference))

    controller = Controller(lambda key: {}, lambda x: x, encode, decide, predict)
    config = ControllerRunConfig(effect="tone", sample_rate=RATE, seconds=0.4)
    return LoadedController(config, parse_effect(EFFECT, "tone"), controller, {})
