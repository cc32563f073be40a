"""A score that doubts what other content may explain."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from latent_controller import RATE, gain_and_shelf

from styletransfer.hosts import open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.models import Prediction
from styletransfer.scores import StyleScore, TargetScore
from styletransfer.style import StyleDistance
from styletransfer.transfer import TransferConfig, transfer

DISTANCE = StyleDistance(RATE, 0.45 * RATE)


@pytest.fixture(scope="module")
def sounds():
    """A sound, and one of other content: brown where the first is even."""
    dry = 0.2 * probe_signal(RATE, 0.9, 1)[None]
    brown = np.cumsum(probe_signal(RATE, 0.9, 2)[None], axis=1)
    brown = brown - np.mean(brown, axis=1, keepdims=True)
    return dry, (0.1 * brown / np.abs(brown).max()).astype(np.float32)


@pytest.fixture(scope="module")
def judged(sounds):
    """(loss, terms, residuals) of the dry sound by scores of several tolerances."""
    wanted = DISTANCE.features(sounds[1])

    @jax.jit
    def every(render):
        return [
            (*score.loss(render), score.residuals(render))
            for score in (StyleScore(wanted, DISTANCE, t) for t in (math.inf, 1.0, 1e7))
        ]

    return jax.device_get(every(jnp.asarray(sounds[0])))


def test_residuals_are_the_loss_whatever_is_tolerated(judged):
    for loss, _, residuals in judged:
        assert np.sum(np.square(residuals, dtype=float)) == pytest.approx(
            loss, rel=1e-4
        )


def test_terms_are_those_of_the_distance_and_count_by_their_logarithm(judged):
    (plain, terms, _), (robust, same, _), (nearly, _, _) = judged
    terms, same = ({n: float(d) for n, d in t.items()} for t in (terms, same))
    assert terms == pytest.approx(same, rel=1e-5)
    assert plain == pytest.approx(sum(terms.values()), rel=1e-5)
    entries = {name: r.size for name, r in _entries().items()}
    by_hand = sum(
        math.sqrt(entries[name]) * math.log(1.0 + d / math.sqrt(entries[name]))
        for name, d in ((n.removeprefix("style/"), v) for n, v in terms.items())
    )
    assert robust == pytest.approx(by_hand, rel=1e-4) and robust < 0.5 * plain
    assert nearly == pytest.approx(plain, rel=1e-3)


def test_a_fit_that_is_exact_costs_nothing_and_has_a_slope(sounds):
    dry = jnp.asarray(sounds[0])
    score = StyleScore(DISTANCE.features(dry), DISTANCE, 1.0)
    loss = jax.jit(jax.value_and_grad(lambda g: jnp.sum(score.residuals(g * dry) ** 2)))
    value, slope = loss(1.0)
    assert abs(float(value)) < 1e-6 and np.isfinite(float(slope))
    assert float(loss(1.5)[1]) > 0.0 > float(loss(0.7)[1])


def test_a_reference_of_other_content_leads_a_refinement_less_astray(
    sounds, monkeypatch
):
    """The prediction is right, and the reference's spectrum is not the effect's."""
    dry, other = sounds
    hidden = np.array([0.6, 0.5], np.float32)
    said = Prediction(hidden, np.full(2, 0.1, np.float32))
    config = TransferConfig(renders=40)
    found = {}
    with open_host(gain_and_shelf(), RATE, backend="serial") as host:
        reference = host.render(other[None], hidden[None]).audio[0]
        for name, tolerance in (("robust", 1.0), ("plain", math.inf)):
            monkeypatch.setattr("styletransfer.transfer.TOLERANCE", tolerance)
            found[name] = transfer(host, dry, reference, config=config, prediction=said)
    away = {k: float(np.abs(r.controls - hidden).max()) for k, r in found.items()}
    assert away["robust"] < 0.5 * away["plain"]
    # Both tell the distance itself, and began at the same.
    robust, plain = found["robust"].loss, found["plain"].loss
    assert robust["predicted"] == plain["predicted"] and robust["before"] > 0
    assert plain["after"] <= robust["after"] < 1.05 * robust["predicted"]


def test_targets_are_judged_as_they_are(sounds):
    """A target has the input's content: there is nothing to doubt."""
    from styletransfer.transfer import _robust

    score = TargetScore(jnp.asarray(sounds[0]), RATE)
    assert _robust(score) is score


def _entries():
    sound = np.zeros((1, RATE), np.float32)
    sound[:, ::100] = 1.0
    features = DISTANCE.features(sound)
    return DISTANCE.residuals(features, features)
