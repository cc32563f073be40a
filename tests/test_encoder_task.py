"""The encoder's losses against closed forms; one step changes what it should."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.encoder_models import make_trainer
from styletransfer.encoder_task import (
    EncoderRunConfig,
    contrast_loss,
    encoder_task,
    settings_loss,
)
from styletransfer.hosts.response import probe_signal
from styletransfer.models import ControllerConfig, Prediction, make_controller
from styletransfer.pairs import PairConfig

RATE = 16000
SMALL = ControllerConfig(bands=24, channels=(4, 8), embedding=12, hidden=(16,))


def test_contrast_is_the_formula():
    rng = np.random.default_rng(0)
    d = rng.normal(size=(7, 5))
    d /= np.linalg.norm(d, axis=1, keepdims=True)
    setting = np.array([0, 0, 0, 1, 1, 2, 3])
    counted = np.array([True] * 6 + [False])
    found = float(contrast_loss(d, setting, counted, 0.2))
    rows = []
    for i in range(5):  # 5 has no partner, 6 does not count
        others = [k for k in range(6) if k != i]
        below = np.log(np.sum(np.exp(d[others] @ d[i] / 0.2)))
        same = [k for k in others if setting[k] == setting[i]]
        rows.append(-np.mean([d[k] @ d[i] / 0.2 - below for k in same]))
    assert found == pytest.approx(np.mean(rows), rel=1e-5)
    assert float(contrast_loss(d, np.arange(7), counted, 0.2)) == 0.0


def test_contrast_is_least_where_settings_lie_together():
    setting, counted = np.array([0, 0, 1, 1]), np.ones(4, bool)
    axes = np.eye(4)
    together = contrast_loss(axes[[0, 0, 1, 1]], setting, counted, 0.1)
    by_content = contrast_loss(axes[[0, 1, 0, 1]], setting, counted, 0.1)
    assert float(together) < 0.01 and float(by_content) > 5.0


def test_settings_count_where_they_are_known():
    mean = jnp.array([[0.5, 0.5, 0.5], [0.2, 0.4, 0.9]])
    deviation = jnp.full((2, 3), 0.2)
    controls = np.array([[0.7, 0, 0], [0, 0.4, 0.8]], np.float32)
    known = np.array([[True, False, False], [False, True, True]])
    found = settings_loss(Prediction(mean, deviation), controls, known, jnp.ones(2))
    first = 0.2 * (0.2**2 / 0.08 + np.log(0.2))
    second = 0.2 * np.mean([np.log(0.2), 0.1**2 / 0.08 + np.log(0.2)])
    assert float(found) == pytest.approx((first + second) / 2, rel=1e-5)
    # What an effect does not have gets no gradient.
    slope = jax.grad(
        lambda m: settings_loss(Prediction(m, deviation), controls, known, jnp.ones(2))
    )(mean)
    assert (np.asarray(slope)[~known] == 0).all() and slope[0, 0] != 0


@pytest.mark.parametrize("variational", [0.0, 0.5])
def test_a_step_lowers_the_loss_and_evaluation_names_effects(variational):
    config = EncoderRunConfig(
        effects=("compressor", "some/place/own.yaml"),
        model=SMALL,
        variational=variational,
        pairs=PairConfig(share=2),
    )
    specs = tuple(ParameterSpec(f"c{k}") for k in range(3))
    controller = make_controller(SMALL, 3, RATE)
    task = encoder_task(make_trainer(controller, SMALL), specs, (2, 1), config)
    rng = np.random.default_rng(0)
    sounds = np.stack([probe_signal(RATE, 0.3, k)[None] for k in range(8)])
    known = np.repeat([[True, True, False], [False, False, True]], 4, axis=0)
    batch = {
        "audio": sounds,
        "reference": sounds[::-1].copy(),
        "controls": np.where(known, rng.random((8, 3)), 0).astype(np.float32),
        "known": known,
        "effect": np.repeat(np.arange(2, dtype=np.int32), 4),
        "setting": np.repeat(np.arange(4, dtype=np.int32), 2),
        "valid": np.ones(8, bool),
        "labelled": np.ones(8, bool),
        "treated": np.ones(8, bool),
    }
    state = task.init(jax.random.key(0))
    seen = []
    for _ in range(12):
        state, metrics = task.step(state, batch)
        seen.append(float(metrics["loss"]))
    assert min(seen[-3:]) < seen[0] and np.isfinite(seen).all()
    assert (float(metrics["variational"]) > 0) == (variational > 0)
    assert task.evaluate is not None
    found = task.evaluate(state, batch)
    both = np.abs(0.5 - batch["controls"])
    assert found["constant_error"] == pytest.approx(both[known].mean(), rel=1e-5)
    mean = (found["error/compressor"] * 8 + found["error/own"] * 4) / 12
    assert found["control_error"] == pytest.approx(mean, rel=1e-5)


def test_configurations_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match=r"contrast 0\.1 needs settings"):
        EncoderRunConfig(pairs=PairConfig())
    with pytest.raises(ValueError, match="pairs_per_effect 3 must be a multiple"):
        EncoderRunConfig(pairs_per_effect=3)
    with pytest.raises(ValueError, match="name one effect"):
        dataclasses.replace(EncoderRunConfig(), effects=())
