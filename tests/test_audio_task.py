"""Training by sound: gradients against differences, what is frozen, what counts."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from ddspx.training.checkpoint import load_frozen, restore_params
from ddspx.training.configuration import FitConfig
from ddspx.training.fit import fit
from ddspx.training.optimizer import OptimizerConfig
from ddspx.training.parallel import make_mesh, shard_batch
from ddspx.training.task import Task
from styletransfer.audio_gradients import (
    AudioTaskConfig,
    StandIn,
    gradient_sizes,
    make_estimator,
    renders_of,
)
from styletransfer.audio_losses import AudioLossConfig, make_audio_loss
from styletransfer.audio_task import audio_task
from styletransfer.frozen_parts import cut_controller
from styletransfer.hosts import HostEffect, Rendered, Slot, open_host
from styletransfer.hosts.host import BaseHost
from styletransfer.hosts.response import probe_signal
from styletransfer.models import Controller, Prediction
from styletransfer.objective import GRADIENT_RENDERS

RATE, BATCH, TIME = 16000, 4, 1200
SGD = OptimizerConfig(name="sgd", learning_rate=1.0, b1=0.0, clip_norm=None)
WAVEFORM = AudioLossConfig(stft=0.0, waveform=1.0)
DRIVE = ParameterSpec("drive_db", 0.0, 24.0, "dB")
GAIN = ParameterSpec("gain_db", -12.0, 12.0, "dB")
SWITCH = ParameterSpec("mode", choices=("odd", "even"), default=0.0)


def driven(audio, controls, xp=jnp):
    """What `TinyHost` renders, of NumPy or JAX: a soft clipper and a gain."""
    drive, gain = controls[-2], controls[-1]
    wet = xp.tanh((1.0 + 4.0 * drive) * audio) * (0.2 + gain)
    return wet + 0.1 * wet**2 * (controls[0] > 0.5) if len(controls) > 2 else wet


EXACT = StandIn(lambda params, audio, controls: driven(audio, controls), {})


class TinyHost(BaseHost):
    """A host in NumPy, with `driven` as its exact double.

    Args:
      switch: whether a discrete control goes in front.
      bad: the input whose renders fail.
    """

    def __init__(self, switch: bool = False, bad: np.ndarray | None = None):
        controls = (SWITCH, DRIVE, GAIN) if switch else (DRIVE, GAIN)
        super().__init__(HostEffect("tiny", (Slot("t", "Gain", controls),)), RATE)
        self.bad = bad

    def _render(self, request):
        audio = request.audio[request.source]
        wet = np.stack(
            [driven(a, c, np) for a, c in zip(audio, request.controls, strict=True)]
        )
        hit = [self.bad is not None and np.array_equal(a, self.bad) for a in audio]
        wet[hit] = 0.0
        return Rendered(wet.astype(np.float32), np.where(hit, 2, 0).astype(np.int32)), {
            item: "told to" for item in np.flatnonzero(hit)
        }


def shifted_controller(n: int = 2) -> Controller:
    """The input's code, moved by the head: its answers are known.

    The code is given with the batch and holds the settings; or else is a level.
    """

    def image(audio):
        return jnp.full((1, n), jnp.sqrt(jnp.mean(jnp.square(audio))))

    def encode(params, image):
        return params["encoder"]["scale"] * image[0]

    def decide(params, code, reference):
        head = params["head"]
        controls = code + head["shift"] + head["slope"] * (reference - 0.5)
        return Prediction(controls, jnp.exp(head["log_deviation"]) + 0.0 * code)

    def predict(params, audio, reference):
        codes = (encode(params, image(sound)) for sound in (audio, reference))
        return decide(params, *codes)

    return Controller(lambda key: weights(n), image, encode, decide, predict)


def weights(n: int = 2) -> dict[str, Any]:
    return {
        "encoder": {"scale": jnp.full(n, 0.5)},
        "head": {
            "shift": jnp.full(n, 0.1),
            "slope": jnp.zeros(n),
            "log_deviation": jnp.full(n, jnp.log(0.3)),
        },
    }


def pairs(host: Any, seed: int = 0) -> dict[str, np.ndarray]:
    """Pairs of a batch whose codes are the settings of the targets."""
    rng = np.random.default_rng(seed)
    audio = np.stack([probe_signal(RATE, TIME / RATE, k)[None] for k in range(BATCH)])
    controls = rng.uniform(0.3, 0.6, (BATCH, len(host.specs))).astype(np.float32)
    target = host.render(audio, controls).audio
    return {
        "audio": audio,
        "reference": audio[::-1].copy(),
        "target": target,
        "controls": controls,
        "labelled": np.ones(BATCH, bool),
        "valid": np.ones(BATCH, bool),
        "dry_code": controls,
        "reference_code": controls,
    }


def gradient(task: Task, batch: Any, seed: int = 0) -> tuple[Any, dict[str, float]]:
    """The gradient of a step, which SGD of rate 1 takes off, and its metrics."""
    state = task.init(jax.random.key(seed))
    before = jax.device_get(state.params)
    state, metrics = task.step(state, batch)
    after = jax.device_get(state.params)
    found = jax.tree.map(lambda a, b: a - b, before, after)
    return found, {k: float(v) for k, v in metrics.items()}


def make(host: Any, gradient: Any = "proxy_half", **changes: Any) -> Task:
    options = {"loss": WAVEFORM, "likelihood": 0.0, **changes}
    words = {"stand_in": EXACT}
    words |= {k: options.pop(k) for k in ("stand_in", "mesh") if k in options}
    config = AudioTaskConfig(gradient=gradient, **options)
    n = len(host.specs)
    return audio_task(shifted_controller(n), host, weights(n), config, SGD, **words)


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def apart(found: Any, wanted: Any) -> float:
    """Relative error of a gradient."""
    return float(
        np.linalg.norm(flat(found) - flat(wanted)) / np.linalg.norm(flat(wanted))
    )


@pytest.fixture(scope="module")
def host():
    return TinyHost()


@pytest.fixture(scope="module")
def batch(host):
    return pairs(host)


@pytest.fixture(scope="module")
def exact(host, batch):
    """The gradient by JAX from end to end, and its metrics."""
    return gradient(make(host), batch)


@pytest.fixture(scope="module")
def measured(host):
    """The task with one-sided differences of both controls: what it says is exact."""
    return make(host, "finite_differences", renders=3)


def test_autodiff_is_the_slope_of_what_the_host_renders():
    gain = HostEffect("gain", (Slot("g", "Gain", (GAIN,), kind="jax"),))
    with open_host(gain, RATE) as host:
        batch = pairs(host)
        found, metrics = gradient(make(host, "autodiff"), batch)

        def rendered(shift):
            audio = host.render(batch["audio"], batch["controls"] + shift).audio
            apart = np.abs(audio - batch["target"]).mean((1, 2), dtype=np.float64)
            size = np.abs(batch["target"]).mean((1, 2), dtype=np.float64) + 1e-4
            return np.mean(apart / size)

        assert metrics["loss"] == pytest.approx(rendered(0.1), rel=1e-4)
        slope = (rendered(0.11) - rendered(0.09)) / 0.02
        # Central differences err by the third derivative times the step squared.
        assert found["head"]["shift"][0] == pytest.approx(slope, rel=0.01)


@pytest.mark.parametrize(
    "method,renders,form",
    [("finite_differences", 5, "vector"), ("orthogonal", 3, "scalar")],
)
def test_as_many_renders_as_controls_are_the_exact_gradient(
    host, batch, exact, method, renders, form
):
    found, metrics = gradient(make(host, method, renders=renders, form=form), batch)
    assert metrics["loss"] == pytest.approx(exact[1]["loss"], rel=1e-4)
    # One-sided differences err by half the curvature times the step, 0.005.
    assert apart(found, exact[0]) < 0.03


@pytest.mark.parametrize(
    "method", ["spsa", "orthogonal", "coordinates", "control_variate"]
)
def test_few_renders_are_right_on_average(host, batch, exact, method):
    # With one direction of n = 2 the squared error of one estimate is that of the
    # truth (or of what the stand-in gets wrong): of 36 keys and 4 examples of their
    # own directions the mean keeps about 1 / 12 of its root.
    truth, _ = exact
    detuned = StandIn(lambda p, a, u: driven(a, u + 0.2 - 0.5 * (u - 0.5)), {})
    words: dict[str, Any] = {"renders": 3 if method == "spsa" else 2}
    if method == "control_variate":
        words |= {"stand_in": detuned, "scaling": "unbiased"}
    task = make(host, method, **words)
    found = [gradient(task, batch, seed)[0] for seed in range(36)]
    mean = jax.tree.map(lambda *all: np.mean(all, axis=0), *found)
    assert apart(mean, truth) < 0.2
    if method == "control_variate":
        alone, _ = gradient(make(host, "proxy_half", stand_in=detuned), batch)
        assert apart(mean, truth) < 0.5 * apart(alone, truth)
    else:
        assert np.mean([apart(one, truth) for one in found]) > 0.2


def test_sizes_are_those_of_the_gradients(host, batch):
    loss, controls = make_audio_loss(WAVEFORM, RATE), batch["controls"] + 0.1

    @jax.vmap
    def slope(audio, target, controls):
        return jax.grad(lambda u: loss(driven(audio, u), {"target": target}))(controls)

    some = {**batch, "valid": np.array([True, True, True, False])}
    slopes = jax.jit(slope)(batch["audio"], batch["target"], controls)[:3]
    sizes = gradient_sizes(host, loss, some, controls)
    np.testing.assert_allclose(sizes, np.sqrt(np.mean(slopes**2, 0)), rtol=0.05)


@pytest.mark.parametrize("method", ["proxy_full", "control_variate"])
def test_an_exact_stand_in_makes_every_hybrid_exact(host, batch, exact, method):
    found, _ = gradient(make(host, method, renders=2), batch)
    assert apart(found, exact[0]) < 0.02


def test_at_the_true_settings_the_loss_is_zero(measured, batch):
    at_truth = {**batch, "dry_code": batch["controls"] - np.float32(0.1)}
    _, metrics = gradient(measured, at_truth)
    assert metrics["loss"] < 1e-6
    assert measured.evaluate is not None
    judged = measured.evaluate(measured.init(jax.random.key(0)), at_truth)
    assert judged["loss"] < 1e-5 and judged["control_error"] < 1e-6
    assert judged["do_nothing"] > 0.1 and judged["failed"] == 0.0


def test_what_fails_or_is_not_valid_counts_for_nothing_and_is_counted(
    host, measured, batch
):
    wrong = {**batch, "valid": np.array([True, True, False, True])}
    wrong["target"] = batch["target"].copy()
    wrong["target"][2] = np.nan
    before = host.counts["items"]
    host.bad = batch["audio"][1]
    try:
        found, metrics = gradient(measured, wrong)
    finally:
        host.bad = None
    assert (metrics["failed"], metrics["invalid"]) == (0.25, 0.25)
    assert host.counts["items"] - before == 3 * 3  # what is not valid is not rendered
    wrong["valid"] = np.array([True, False, False, True])
    alone, other = gradient(measured, wrong)
    assert (other["failed"], other["invalid"]) == (0.0, 0.5)
    assert metrics["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert apart(found, alone) < 1e-5
    # The mean is over those two: that of all is the mean of both halves.
    rest, third = gradient(measured, {**batch, "valid": ~wrong["valid"]})
    whole, all_of_them = gradient(measured, batch)
    halves = jax.tree.map(lambda a, b: (a + b) / 2, alone, rest)
    assert apart(whole, halves) < 1e-4
    assert all_of_them["loss"] == pytest.approx((other["loss"] + third["loss"]) / 2)
    # A target next to silent has a loss, relative to it, that outweighs all others.
    quiet = {**batch, "target": batch["target"].copy()}
    quiet["target"][1:3] *= 1e-5
    some, other_loss = gradient(measured, quiet)
    assert apart(some, alone) < 1e-5 and other_loss["invalid"] == 0.5
    # None at all: nothing moves, and nothing is divided by nothing.
    nothing, metrics = gradient(measured, {**batch, "valid": np.zeros(BATCH, bool)})
    assert not flat(nothing).any() and metrics["invalid"] == 1.0


def test_micro_batches_and_a_mesh_change_nothing(host, measured, batch):
    some = {**batch, "valid": np.array([False, True, True, True])}
    whole, one = gradient(measured, some)
    words = {"gradient": "finite_differences", "renders": 3, "micro_batches": 2}
    parts, two = gradient(make(host, **words), some)
    assert apart(parts, whole) < 1e-5
    assert {k: pytest.approx(v, rel=1e-4) for k, v in one.items()} == two
    mesh = make_mesh()
    shared, _ = gradient(make(host, mesh=mesh, **words), shard_batch(some, mesh))
    assert apart(shared, whole) < 1e-5
    with pytest.raises(ValueError, match=r"batch of 4 .* into 3"):
        gradient(make(host, "orthogonal", micro_batches=3), batch)


def test_discrete_controls_follow_their_labels_and_deviations_the_errors():
    words: dict[str, Any] = {"gradient": "finite_differences", "renders": 4}
    with TinyHost(switch=True) as host:
        batch = pairs(host)
        batch["controls"] = batch["controls"].copy()
        batch["controls"][:, 0] = 0.2  # the switch was at its first: the middle is 1/4
        by_sound, _ = gradient(make(host, **words), batch)
        both, _ = gradient(make(host, likelihood=1.0, **words), batch)
        pulled, _ = gradient(make(host, likelihood=1.0, pull=1.0, **words), batch)
    sound, known, drawn = (g["head"]["shift"] for g in (by_sound, both, pulled))
    assert sound[0] == 0.0 and np.all(sound[1:] != 0.0)
    assert not by_sound["head"]["log_deviation"].any()
    # Codes are 0.3 to 0.6, moved up by 0.1: the switch has to go down, the other means
    # stay the sound's, deviations of 0.3 about errors of 0.1 have to shrink.
    assert known[0] > 0.0
    np.testing.assert_allclose(known[1:], sound[1:], rtol=1e-5)
    assert np.all(both["head"]["log_deviation"][1:] > 0.0)
    assert np.all(drawn[1:] > known[1:])


@pytest.fixture(scope="module")
def trained(host, tmp_path_factory):
    """The start of a controller, what runs it, and a run of 4 steps."""
    controller, start = shifted_controller(), weights()
    batches = [
        {k: v for k, v in pairs(host, seed).items() if not k.endswith("_code")}
        for seed in range(4)
    ]

    def run(steps: int, folder: Any) -> Any:
        config = AudioTaskConfig(gradient="orthogonal", renders=2, loss=WAVEFORM)
        adam = OptimizerConfig(learning_rate=1e-2)
        plan = FitConfig(steps=steps, save_every=2, log_every=2, quiet=True)
        with audio_task(controller, host, start, config, adam) as task:
            return fit(task, batches, plan, folder)

    folder = tmp_path_factory.mktemp("audio_task") / "run"
    return start, run, run(4, folder), folder


def test_frozen_parts_stay_bit_for_bit_and_are_saved_beside_the_trained(trained):
    start, _, state, folder = trained
    kept = load_frozen(folder)
    jax.tree.map(np.testing.assert_array_equal, kept, {"encoder": start["encoder"]})
    params = restore_params(folder, which="last")
    assert set(params) == {"head"} == set(state.params)
    jax.tree.map(np.testing.assert_array_equal, params, state.params)
    moved = jax.tree.map(
        lambda a, b: bool(np.any(a != b)), params["head"], start["head"]
    )
    assert all(jax.tree.leaves(moved))


def test_a_run_goes_on_exactly(trained, tmp_path):
    _, run, state, _ = trained
    run(2, tmp_path / "run")
    again = run(4, tmp_path / "run")
    assert int(again.step) == 4
    jax.tree.map(np.testing.assert_array_equal, again.params, state.params)


def test_the_table_and_the_sounds_are_there(measured, batch):
    assert measured.show is not None
    shown = measured.show(measured.init(jax.random.key(0)), batch)
    names = {"input", "reference", "target", "prediction"}
    assert {tag.rpartition("/")[2] for tag in shown.audio} == names
    rows = shown.text["example/settings"].splitlines()
    assert len(rows) == 4 and rows[2].startswith("| t.drive_db | ")
    assert "+0.100" in rows[2] and "0.300" in rows[2]


def test_a_controller_is_cut_in_front_of_what_trains():
    direct = shifted_controller()
    latent = direct._replace(
        latents=lambda params, code, reference: (2.0 * code, code),
        settle=lambda params, z: Prediction(z + params["decoder"], z),
    )
    params = {"encoder": 1.0, "latents": 2.0, "decoder": 3.0}
    halves = cut_controller(latent, params, ("decoder",))
    assert halves.frozen == {"encoder": 1.0, "latents": 2.0}
    example = {"dry_code": jnp.ones(2), "reference_code": jnp.ones(2)}
    (z,) = halves.features(halves.frozen, example)
    assert halves.predict(halves.trained, z).controls.tolist() == [5.0, 5.0]
    for wrong in ((), ("head",), ("latents",)):
        with pytest.raises(ValueError, match="give the last ones"):
            cut_controller(latent, params, wrong)


def test_too_few_renders_and_wrong_words_are_refused(host):
    with pytest.raises(ValueError, match="give 3 or more"):
        make(host, "finite_differences", renders=2)
    with pytest.raises(ValueError, match=r"pull 2\.0 from 0 to 1"):
        AudioTaskConfig(pull=2.0)
    with pytest.raises(ValueError, match="'proxy_half' goes without renders"):
        make_estimator(AudioTaskConfig(gradient="proxy_half"), host.specs)
    # A gradient in JAX counts as several renders.
    specs = host.specs
    costs = {
        method: renders_of(AudioTaskConfig(gradient=method, renders=3), specs)  # type: ignore
        for method in (
            "autodiff",
            "spsa",
            "proxy_half",
            "proxy_full",
            "control_variate",
        )
    }
    assert costs == {
        "autodiff": GRADIENT_RENDERS,
        "spsa": 3,
        "proxy_half": GRADIENT_RENDERS,
        "proxy_full": 1 + GRADIENT_RENDERS,
        "control_variate": 3 + GRADIENT_RENDERS,
    }
