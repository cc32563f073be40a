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
    make_estimator,
    renders_of,
)
from styletransfer.audio_losses import AudioLossConfig
from styletransfer.audio_task import audio_task
from styletransfer.frozen_parts import cut_controller
from styletransfer.hosts import HostEffect, Rendered, Slot, open_host
from styletransfer.hosts.host import BaseHost
from styletransfer.hosts.response import probe_signal
from styletransfer.models import (
    Controller,
    ControllerConfig,
    Prediction,
    make_controller,
)
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


@pytest.fixture(scope="module")
def host():
    return TinyHost()


def shifted_controller() -> Controller:
    """What a pair's code says, moved by the head: its answers are known.

    The code of the input is given with the batch and holds the settings.
    """

    def decide(params, code, reference):
        head = params["head"]
        controls = code + head["shift"] + head["slope"] * (code - 0.5)
        return Prediction(controls, jnp.exp(head["log_deviation"]) + 0.0 * code)

    return Controller(
        lambda key: {}, lambda audio: audio, lambda params, image: image, decide, decide
    )


def weights(n: int = 2, shift: float = 0.1) -> dict[str, Any]:
    return {
        "encoder": {"nothing": jnp.ones(3)},
        "head": {
            "shift": jnp.full(n, shift),
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
    return audio_task(
        shifted_controller(), host, weights(len(host.specs)), config, SGD, **words
    )


def flat(tree: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


def apart(found: Any, wanted: Any) -> float:
    """Relative error of a gradient."""
    return float(
        np.linalg.norm(flat(found) - flat(wanted)) / np.linalg.norm(flat(wanted))
    )


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
    [
        ("finite_differences", 5, "vector"),
        ("orthogonal", 3, "scalar"),
        ("coordinates", 3, "scalar"),
    ],
)
def test_as_many_renders_as_controls_are_the_exact_gradient(
    host, method, renders, form
):
    batch = pairs(host)
    exact, metrics = gradient(make(host), batch)
    found, measured = gradient(make(host, method, renders=renders, form=form), batch)
    assert measured["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    # One-sided differences err by half the curvature times the step, 0.005.
    assert apart(found, exact) < 0.03


@pytest.mark.parametrize("method", ["spsa", "orthogonal", "coordinates", "variate"])
def test_few_renders_are_right_on_average(host, method):
    # With one direction of n = 2 the squared error of one estimate is that of the
    # truth (that of what the stand-in gets wrong): 1 / 12 of it is left by the mean
    # of 36 keys and 4 examples of different settings, or less.
    batch = pairs(host)
    exact, _ = gradient(make(host), batch)
    detuned = StandIn(lambda p, a, u: driven(a, u + 0.2 - 0.5 * (u - 0.5)), {})
    words: dict[str, Any] = {"renders": 3 if method == "spsa" else 2}
    if method == "variate":
        words |= {"stand_in": detuned, "scaling": "unbiased"}
        method = "control_variate"
    task = make(host, method, **words)
    found = [gradient(task, batch, seed)[0] for seed in range(36)]
    mean = jax.tree.map(lambda *all: np.mean(all, axis=0), *found)
    single = np.mean([apart(one, exact) for one in found])
    assert apart(mean, exact) < 0.2 < single if method != "control_variate" else 0.2
    if method == "control_variate":
        alone, _ = gradient(make(host, "proxy_half", stand_in=detuned), batch)
        assert apart(mean, exact) < 0.5 * apart(alone, exact)


def test_a_twin_as_stand_in_makes_every_hybrid_exact(host):
    batch = pairs(host)
    exact, _ = gradient(make(host), batch)
    for method in ("proxy_half", "proxy_full", "control_variate"):
        found, _ = gradient(make(host, method, renders=2), batch)
        assert apart(found, exact) < 0.02, method


def test_at_the_true_settings_the_loss_is_zero(host):
    batch = pairs(host)
    config = AudioTaskConfig(renders=2, loss=WAVEFORM)
    task = audio_task(shifted_controller(), host, weights(shift=0.0), config, SGD)
    _, metrics = gradient(task, batch)
    assert metrics["loss"] < 1e-12
    assert task.evaluate is not None
    judged = task.evaluate(task.init(jax.random.key(0)), batch)
    assert judged["loss"] < 1e-6 and judged["control_error"] == 0.0
    assert judged["do_nothing"] > 0.1 and judged["failed"] == 0.0


def test_what_fails_or_is_not_valid_counts_for_nothing_and_is_counted(host):
    batch = pairs(host)
    words: dict[str, Any] = {"renders": 3}
    failing = TinyHost(bad=batch["audio"][1])
    batch["valid"][2] = False
    batch["target"][2] = np.nan
    found, metrics = gradient(make(failing, "finite_differences", **words), batch)
    assert (metrics["failed"], metrics["invalid"]) == (0.25, 0.25)
    assert failing.counts["items"] == 3 * 3  # what is not valid is not rendered
    kept = {name: values[[0, 3]] for name, values in batch.items()}
    alone, other = gradient(make(host, "finite_differences", **words), kept)
    assert metrics["loss"] == pytest.approx(other["loss"], rel=1e-5)
    assert apart(found, alone) < 1e-4
    # All of them: nothing moves, and nothing is divided by nothing.
    batch["valid"][:] = False
    nothing, metrics = gradient(make(host, "orthogonal", **words), batch)
    assert not flat(nothing).any() and metrics["invalid"] == 1.0


def test_micro_batches_change_nothing(host):
    batch = pairs(host)
    batch["valid"][0] = False
    whole, one = gradient(make(host, "finite_differences", renders=3), batch)
    task = make(host, "finite_differences", renders=3, micro_batches=2)
    parts, two = gradient(task, batch)
    assert apart(parts, whole) < 1e-5
    assert {k: pytest.approx(v, rel=1e-4) for k, v in one.items()} == two
    with pytest.raises(ValueError, match=r"batch of 4 .* into 3"):
        gradient(make(host, "orthogonal", micro_batches=3), batch)


def test_a_mesh_changes_nothing(host):
    batch, mesh = pairs(host), make_mesh()
    words = {"gradient": "finite_differences", "renders": 3, "micro_batches": 2}
    one, _ = gradient(make(host, **words), batch)
    several, _ = gradient(make(host, mesh=mesh, **words), shard_batch(batch, mesh))
    assert apart(several, one) < 1e-5


def test_discrete_controls_follow_their_labels_and_deviations_the_errors():
    with TinyHost(switch=True) as host:
        batch = pairs(host)
        batch["controls"] = batch["controls"].copy()
        batch["controls"][:, 0] = 0.2  # the switch was on: its interval's middle is 1/4
        by_sound, _ = gradient(make(host, "finite_differences", renders=4), batch)
        assert by_sound["head"]["shift"][0] == 0.0
        assert np.all(by_sound["head"]["shift"][1:] != 0.0)
        assert not by_sound["head"]["log_deviation"].any()
        both, _ = gradient(
            make(host, "finite_differences", renders=4, likelihood=1.0), batch
        )
        # Codes are 0.3 to 0.6, moved up by 0.1: the switch has to go down, the other
        # means stay the sound's, deviations of 0.3 about errors of 0.1 have to shrink.
        assert both["head"]["shift"][0] > 0.0
        np.testing.assert_allclose(
            both["head"]["shift"][1:], by_sound["head"]["shift"][1:], rtol=1e-5
        )
        assert np.all(both["head"]["log_deviation"][1:] > 0.0)
        pulled, _ = gradient(
            make(host, "finite_differences", renders=4, likelihood=1.0, pull=1.0), batch
        )
        assert np.all(pulled["head"]["shift"][1:] > both["head"]["shift"][1:])


@pytest.fixture(scope="module")
def trained(host, tmp_path_factory):
    """A direct controller, its start, and a run of 4 steps."""
    small = ControllerConfig(bands=16, channels=(8,), embedding=8, hidden=(16,))
    controller = make_controller(small, 2, RATE)
    start = controller.init(jax.random.key(3))
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


def test_the_table_and_the_sounds_are_there(host):
    task = make(host)
    assert task.show is not None
    shown = task.show(task.init(jax.random.key(0)), pairs(host))
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
