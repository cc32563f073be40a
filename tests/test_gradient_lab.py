"""The gradient laboratory on a tiny effect: it finds the truth, and who is near it."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.data.practice import render_piece
from styletransfer.gradients import central_differences, orthogonal
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect

RATE = 16000
TINY = """
description: drive and gain
slots:
  drive: {plugin: Distortion}
  gain: {plugin: Gain}
"""


@pytest.fixture(scope="module")
def lab():
    """The modules of scripts/benchmarks, importable as the scripts import them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
        from benchmarks import (
            gradient_figures,
            gradient_lab,
            gradient_priors,
            gradient_studies,
        )

        yield gradient_lab, gradient_priors, gradient_studies, gradient_figures


@pytest.fixture(scope="module")
def scene(lab):
    gradient_lab, gradient_priors, _, _ = lab
    table = gradient_lab.loss_table(RATE, ("esr",))
    rng = np.random.default_rng(3)
    with open_host(parse_effect(TINY, "tiny"), RATE, backend="serial") as host:
        questions = []
        for index in range(3):
            audio = render_piece("strings", index, sample_rate=RATE)
            audio = np.float32(audio[:1, RATE : RATE + 8000])
            # Inside, so that steps are not cut at a border.
            controls = rng.uniform(0.2, 0.8, (2, 2)).astype(np.float32)
            target, centre = host.render(audio[None], controls).audio
            questions.append(gradient_lab.Question(audio, controls[1], target, centre))
        yield gradient_priors.set_scene(host, table, questions, questions)


def test_twin_is_the_black_box_and_its_gradient_the_limit_of_differences(lab, scene):
    _, gradient_priors, gradient_studies, _ = lab
    assert gradient_priors.waveform_error(scene) < 1e-5
    rows = gradient_studies.compare_steps(scene, (0.004, 0.05))
    by = {(r.estimator, r.form, r.loss): r.quality for r in rows}
    for form in ("scalar", "vector"):
        assert by["central 0.004", form, "esr"].error.value < 2e-3
        assert by["central 0.004", form, "esr"].cosine.value > 0.999
        # A larger step, a larger error: the differences converge to autodiff.
        coarse = by["forward 0.05", form, "esr"].error
        assert coarse.value > 3 * by["forward 0.004", form, "esr"].error.value
        assert coarse.low <= coarse.value <= coarse.high


def test_numbers_of_a_plan_are_those_of_its_own_estimator(lab, scene):
    """Both forms from inner products equal `scalar` and `vector` from the audio."""
    gradient_lab = lab[0]
    question = scene.tested[0]
    estimator = orthogonal(0.02, 2)
    plan = gradient_lab.make_plans(estimator, [question], 1, 0)
    numbers = scene.judge.numbers([question], {"it": plan})["it"]
    one = jax.tree.map(lambda a: a[0, 0], plan)
    audio = scene.host.render(question.audio[None], np.asarray(one.points)).audio
    for k, loss in enumerate(scene.table.values()):
        want = estimator.vector(one, audio, scene.towards[0, k])
        got = gradient_lab.combine(estimator, plan, numbers.vector, None)[0, 0, k]
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-5)
        losses = np.array([loss(y, question.target) for y in audio])
        want = estimator.scalar(one, losses)
        got = gradient_lab.combine(estimator, plan, numbers.scalar, None)[0, 0, k]
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=1e-4)


def test_points_shared_by_plans_are_rendered_once(lab, scene):
    gradient_lab = lab[0]
    before = scene.judge.renders
    plan = gradient_lab.make_plans(central_differences(0.02), scene.tested, 1, 0)
    scene.judge.numbers(scene.tested, {"one": plan, "same": plan})
    assert scene.judge.renders - before == len(scene.tested) * 5


def test_priors_are_as_good_as_they_are_right(lab, scene):
    _, gradient_priors, gradient_studies, _ = lab
    signs = gradient_priors.signs(2, 0)
    made = {
        f"off by {shift}": gradient_priors.shifted_prior(scene, shift * signs)
        for shift in (0.0, 0.03, 0.2)
    }
    part, kept = gradient_priors.without_slot(scene.host.effect, RATE, "drive")
    made["part"] = gradient_priors.effect_prior(scene, part, kept)
    rows = gradient_studies.compare_priors(scene, made, renders=(3,), step=0.01)
    error = {
        r.estimator: r.quality.error.value
        for r in rows
        if (r.form, r.loss) == ("scalar", "esr") and r.renders in (1, 3)
    }
    assert error["off by 0.0"] < 1e-3
    assert error["off by 0.0"] < error["off by 0.03"] < error["off by 0.2"]
    # Two renders beside the centre measure both controls, whatever the prior says.
    assert error["part"] > 2 * error["part + coordinates"]
    costs = gradient_priors.costs(scene, {"the twin": scene.twin.render}, repeats=1)
    assert all(0 < milliseconds < 1e5 for milliseconds in costs.values())


def test_sizes_and_figures(lab, scene):
    gradient_figures, gradient_studies = lab[3], lab[2]
    found = gradient_studies.compare_sizes(
        scene, (1, 2), renders=(3,), step=0.01, shift=0.03
    )
    error = {r.estimator: r.quality.error.value for r in found[1] if r.loss == "esr"}
    assert error["central differences"] < 0.01
    rows = gradient_studies.compare_estimators(
        scene, renders=(3,), step=0.01, shift=0.03
    )
    steps = gradient_studies.compare_steps(scene, (0.01,))
    report = {
        "options": {"losses": ("esr",), "steps": (0.01,)},
        "effects": {
            "tiny": {
                "controls": 2,
                "estimators": [row.record() for row in rows],
                "steps": [row.record() for row in steps],
            }
        },
        "sizes": {str(n): [r.record() for r in rows] for n, rows in found.items()},
    }
    figures = gradient_figures.draw_figures(report)
    assert set(figures) == {"renders", "map", "steps", "sizes"}


def test_losses_vanish_where_nothing_differs(lab, rng):
    names = ("mrstft", "mel", "esr", "bands")
    audio = jnp.asarray(rng.normal(size=(1, 4000)), jnp.float32)
    for loss in lab[0].loss_table(RATE, names).values():
        assert float(loss(audio, audio)) == pytest.approx(0.0, abs=1e-5)
        assert float(loss(1.1 * audio, audio)) > 1e-3
    with pytest.raises(ValueError, match="losses \\['l0'\\] unknown"):
        lab[0].loss_table(RATE, ("l0",))


def test_void_truths_are_left_out(lab):
    quality = lab[0].quality
    truth = np.array([[1.0, 0.0], [0.0, 2.0], [0.0, 0.0]])
    estimates = np.array([[[1.0, 1.0]], [[0.0, 1.0]], [[5.0, 5.0]]])
    found = quality(estimates, truth)
    assert found.questions == 2
    assert found.cosine.value == pytest.approx((1 + 2**-0.5) / 2)
    assert found.error.value == pytest.approx((1.0 + 0.5) / 2)
    assert quality(estimates, 0 * truth).questions == 0
