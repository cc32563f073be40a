import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import envelopes
from ddspx.effects import dynamics
from ddspx.effects.limiter import latency_samples, limiter
from ddspx.parameters import default_controls, to_unit

RATE = 24000
FAMILY = {
    "compressor": dynamics.compressor,
    "expander": dynamics.expander,
    "noise_gate": dynamics.noise_gate,
}


def controls_of(effect, **values):
    physical = [values.get(spec.name, spec.default) for spec in effect.specs]
    return jnp.asarray(to_unit(effect.specs, np.asarray(physical)), "float32")


def bursts(rng, channels=2, time=1200):
    """Loud, soft and silent stretches of noise."""
    shape = np.interp(
        np.arange(time) / time, np.linspace(0, 1, 7), [1, 0.1, 0.5, 0, 0, 1, 0.01]
    )
    return (rng.standard_normal((channels, time)) * 0.3 * shape).astype("float32")


def step_of(time_ms):
    return 1.0 - np.exp(-1000.0 / (time_ms * RATE))


def hinge(over, knee):
    """Giannoulis et al., equation 4, by its three cases."""
    if 2 * over > knee:
        return over
    return (over + knee / 2) ** 2 / (2 * knee) if 2 * over >= -knee and knee else 0.0


def gain_loop(name, audio, values, smoothing="gain", ballistics="branching", link=True):
    """Float64, one channel and one sample after the other."""
    if link:
        loudest = np.abs(audio).max(0, keepdims=True)
        return np.repeat(
            gain_loop(name, loudest, values, smoothing, ballistics, False),
            len(audio),
            0,
        )
    attack, release = step_of(values["attack_ms"]), step_of(values["release_ms"])

    def curve(amplitude):
        level = 20 * np.log10(max(amplitude, 1e-6))
        over = level - values["threshold_db"]
        if name == "compressor":
            return (1 / values["ratio"] - 1) * hinge(over, values["knee_db"])
        gain = (1 - values["ratio"]) * hinge(-over, values["knee_db"])
        return max(gain, -values["range_db"])

    sign = -1.0 if name == "compressor" else 1.0
    gain = np.empty(audio.shape)
    for c, channel in enumerate(np.abs(audio.astype(float))):
        held, y = 0.0, 0.0
        for n, x in enumerate(channel):
            target = x if smoothing == "level" else sign * curve(x)
            if ballistics == "branching":
                y += (attack if target > y else release) * (target - y)
            else:
                held = max(target, held + release * (target - held))
                y += attack * (held - y)
            gain[c, n] = curve(y) if smoothing == "level" else sign * y
    return 10 ** ((gain + values.get("make_up_db", 0.0)) / 20)


@pytest.mark.parametrize("name", FAMILY)
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"smoothing": "level", "link": False},
        {"ballistics": "smooth_decoupled", "link": False},
        {"ballistics": "smooth_decoupled", "smoothing": "level"},
    ],
    ids=str,
)
def test_effect_is_its_loop(name, options, rng):
    effect = FAMILY[name](RATE, **options)
    audio = bursts(rng)
    values = {spec.name: spec.default for spec in effect.specs}
    values |= {"release_ms": 20.0, "attack_ms": 1.0}
    if "make_up_db" in values:
        values["make_up_db"] = 3.0
    found = jax.jit(effect.render)(audio, controls_of(effect, **values))
    expected = audio * gain_loop(name, audio, values, **options)
    error = np.sum((found - expected) ** 2) / np.sum(expected**2)
    assert error < 1e-10, f"{-10 * np.log10(error):.0f} dB"


def test_static_curves_are_equation_4():
    level = np.linspace(-60, 0, 121)
    for knee in (0.0, 6.0, 24.0):
        over = [hinge(x + 20.0, knee) for x in level]
        under = [hinge(-20.0 - x, knee) for x in level]
        lower = dynamics.compression_db(level, -20.0, 4.0, knee)
        np.testing.assert_allclose(lower, -0.75 * np.array(over), atol=1e-5)
        lower = dynamics.expansion_db(level, -20.0, 4.0, knee)
        np.testing.assert_allclose(lower, -3.0 * np.array(under), atol=1e-4)


@pytest.mark.parametrize("name", [*FAMILY, "limiter"])
@pytest.mark.parametrize("level", [True, False], ids=["level", "gain"])
def test_every_control_has_its_gradient(name, level, rng):
    """One by one against central differences, in float64."""
    options = {"smoothing": "level"} if level else {"ballistics": "smooth_decoupled"}
    if name == "limiter":
        options = {"lookahead_ms": 0.5 if level else 0.0}
    effect = dynamics.EFFECTS[name](RATE, **options)
    with jax.enable_x64(True):
        audio = jnp.asarray(bursts(rng, 2, 700), "float64") + 1e-4
        weight = jnp.asarray(rng.standard_normal(audio.shape))
        # A level that falls by tens of dB, so that gate and expander open and close.
        middle = {"threshold_db": -12.0, "range_db": 14.0, "attack_ms": 0.6}
        middle |= {
            "release_ms": 15.0,
            "gain_db": 10.0,
            "ceiling_db": -7.0,
            "ratio": 2.3,
        }
        controls = jnp.asarray(controls_of(effect, **middle), "float64")
        loss = jax.jit(lambda u, x: jnp.sum(weight * effect.render(x, u)))
        of_controls, of_audio = jax.jit(jax.grad(loss, (0, 1)))(controls, audio)
        for i, spec in enumerate(effect.specs):
            step = jnp.zeros_like(controls).at[i].set(1e-6)
            slope = (loss(controls + step, audio) - loss(controls - step, audio)) / 2e-6
            assert abs(slope) > 1e-5, f"{spec.name} does nothing"
            np.testing.assert_allclose(
                of_controls[i], slope, rtol=2e-5, err_msg=spec.name
            )
        direction = audio * jnp.asarray(rng.standard_normal(audio.shape))
        change = loss(controls, audio + 1e-6 * direction) - loss(
            controls, audio - 1e-6 * direction
        )
        np.testing.assert_allclose(
            jnp.sum(of_audio * direction), change / 2e-6, rtol=1e-5
        )


OPTIONS = {
    "compressor, rms": ("compressor", {"detector": "rms"}),
    "compressor, rms of a key, unlinked": (
        "compressor",
        {"detector": "rms", "sidechain": True, "link": False, "smoothing": "level"},
    ),
    "compressor, key, decoupled": (
        "compressor",
        {"sidechain": True, "ballistics": "smooth_decoupled"},
    ),
    "compressor, unlinked, parallel": (
        "compressor",
        {"link": False, "method": "parallel"},
    ),
    "expander, rms, level, decoupled": (
        "expander",
        {"detector": "rms", "smoothing": "level", "ballistics": "smooth_decoupled"},
    ),
    "expander, key, parallel": ("expander", {"sidechain": True, "method": "parallel"}),
    "gate, hold, unlinked": ("noise_gate", {"hold_ms": 2.0, "link": False}),
    "gate, hold, rms of a key": (
        "noise_gate",
        {"hold_ms": 2.0, "detector": "rms", "sidechain": True},
    ),
    "limiter, unlinked, parallel": ("limiter", {"link": False, "method": "parallel"}),
}


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(
    "moving",
    [
        pytest.param(False, id="still"),
        pytest.param(True, id="moving", marks=pytest.mark.slow),
    ],
)
def test_slopes_of_every_option_are_those_of_differences(options, moving, rng):
    """Float64, along a random direction in all controls, in all samples, and one by one
    where controls stand still."""
    name, given = OPTIONS[options]
    effect = dynamics.EFFECTS[name](RATE, **given)
    with jax.enable_x64(True):
        audio = jnp.asarray(bursts(rng, 2, 700), "float64") + 1e-4
        weight = jnp.asarray(rng.standard_normal(audio.shape))
        middle = {"threshold_db": -14.0, "range_db": 14.0, "attack_ms": 0.6}
        middle |= {"release_ms": 15.0, "gain_db": 10.0, "ceiling_db": -7.0}
        controls = jnp.asarray(controls_of(effect, **middle, ratio=2.3), "float64")
        if moving:
            controls = controls[:, None] + 0.02 * rng.standard_normal(
                (controls.size, 5)
            )
        loss = jax.jit(lambda u, x: jnp.sum(weight * effect.render(x, u)))
        of_controls, of_audio = jax.jit(jax.grad(loss, (0, 1)))(controls, audio)
        directions = [(rng.standard_normal(controls.shape), 0.0 * audio)]
        directions += [(0.0 * controls, audio * rng.standard_normal(audio.shape))]
        if not moving:
            directions += [(unit, 0.0 * audio) for unit in np.eye(controls.size)]
        for to_controls, to_audio in directions:
            ahead, behind = (
                loss(controls + step * to_controls, audio + step * to_audio)
                for step in (1e-7, -1e-7)
            )
            slope = jnp.sum(of_controls * to_controls) + jnp.sum(of_audio * to_audio)
            assert abs(slope) > 1e-6
            np.testing.assert_allclose(slope, (ahead - behind) / 2e-7, rtol=1e-4)


@pytest.mark.parametrize("name", dynamics.EFFECTS)
def test_silence_and_corners_have_finite_gradients(name):
    effect = dynamics.EFFECTS[name](RATE)
    count = len(effect.specs)
    corners = np.array([np.zeros(count), np.ones(count), *np.eye(count)], "float32")
    audio = jnp.zeros((1, 64)).at[0, 40:50].set(1.5)
    slope = jax.jit(
        jax.vmap(
            jax.value_and_grad(lambda u, x: jnp.sum(effect.render(x, u)), (0, 1)),
            (0, None),
        )
    )
    for signal in (audio, jnp.zeros((1, 64))):
        for leaf in jax.tree.leaves(slope(corners, signal)):
            assert np.all(np.isfinite(leaf))
    out = effect.render(jnp.zeros((1, 64)), default_controls(effect.specs))
    np.testing.assert_array_equal(out, 0.0)


@pytest.mark.parametrize("detector", ["peak", "rms"])
def test_blocks_are_the_whole(detector, rng):
    audio = bursts(rng)
    effects = [
        dynamics.noise_gate(RATE, hold_ms=2.0, detector=detector),
        dynamics.compressor(RATE, ballistics="smooth_decoupled", detector=detector),
        limiter(RATE, link=detector == "peak"),
    ]
    for effect in effects:
        controls = default_controls(effect.specs)
        whole = effect.render(audio, controls)
        state, parts = effect.init_state(2), []
        for block in np.split(audio, 3, axis=1):
            state, part = effect.render_block(state, block, controls)
            parts.append(part)
        np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-6)


def test_moving_controls_of_one_value_are_that_value(rng):
    audio = bursts(rng, 1, 400)
    for name, make in dynamics.EFFECTS.items():
        effect = make(RATE)
        controls = jnp.asarray(default_controls(effect.specs))
        moving = jnp.broadcast_to(controls[:, None], (controls.size, 400))
        np.testing.assert_allclose(
            effect.render(audio, moving),
            effect.render(audio, controls),
            atol=1e-6,
            err_msg=name,
        )


@pytest.mark.parametrize("lookahead_ms", [0.0, 2.0])
@pytest.mark.parametrize("link", [True, False])
def test_limiter_never_exceeds_its_ceiling(lookahead_ms, link, rng):
    effect = limiter(RATE, lookahead_ms=lookahead_ms, link=link)
    render = jax.jit(effect.render)
    for ceiling_db, gain_db, release_ms in ((-1, 24, 10), (-24, 24, 1000), (0, 0, 50)):
        audio = (rng.standard_cauchy((2, 3000)) * 0.3).astype("float32")
        controls = controls_of(
            effect, ceiling_db=ceiling_db, gain_db=gain_db, release_ms=release_ms
        )
        out = render(audio, controls)
        physical = effect.specs[1].to_physical(controls[1])
        assert np.abs(out).max() <= 10 ** (physical / 20) * (1 + 1e-7)
        # It limits, and does not merely mute.
        assert np.abs(out).max() > 0.9 * 10 ** (ceiling_db / 20)


def test_limiter_below_its_ceiling_is_a_delay(rng):
    audio = rng.uniform(-0.5, 0.5, (2, 500)).astype("float32")
    for lookahead_ms in (0.0, 1.5):
        effect = limiter(RATE, lookahead_ms=lookahead_ms)
        late = latency_samples(RATE, lookahead_ms)
        out = effect.render(audio, default_controls(effect.specs))
        np.testing.assert_allclose(out[:, late:], audio[:, : 500 - late], atol=1e-6)
        np.testing.assert_array_equal(out[:, :late], 0.0)


def test_limiter_gain_falls_before_the_peak():
    """A ramp over the look-ahead that ends at what the peak needs, then the release."""
    late = latency_samples(RATE, 1.0)
    audio = np.full((1, 400), 0.1, "float32")
    audio[0, 200] = 2.0
    effect = limiter(RATE, lookahead_ms=1.0)
    out = effect.render(audio, controls_of(effect, ceiling_db=0.0, release_ms=10.0))
    gain = np.asarray(out)[0, late:] / audio[0, : 400 - late]
    assert gain[199 - late] > 0.999 > gain[200 - late]
    assert np.all(np.diff(gain[200 - late : 201]) < 0)
    np.testing.assert_allclose(gain[200], 0.5, rtol=1e-4)
    assert np.all(np.diff(gain[230:]) > 0)


def test_sidechain_ducks_by_the_key(rng):
    audio, key = bursts(rng, 1), bursts(rng, 1)
    effect = dynamics.compressor(RATE, sidechain=True)
    controls = default_controls(effect.specs)
    out = effect.render(np.concatenate([audio, key]), controls)
    plain = dynamics.compressor(RATE).render(key, controls)
    loud = np.abs(key[0]) > 1e-3
    np.testing.assert_allclose(
        out[0, loud] / audio[0, loud], plain[0, loud] / key[0, loud], rtol=1e-4
    )
    np.testing.assert_array_equal(out[1], key[0])
    with pytest.raises(ValueError, match=r"as many channels of key as of audio, got 3"):
        effect.render(np.zeros((3, 10), "f"), controls)


def test_rms_detector_reads_the_root_mean_square():
    """A sine's level is 3 dB below its peak's."""
    sine = np.sin(2 * np.pi * 1000 * np.arange(6000) / RATE)[None].astype("float32")
    values = {"threshold_db": -20.0, "ratio": 4.0, "knee_db": 0.0, "attack_ms": 5.0}
    effect = dynamics.compressor(RATE, detector="rms", rms_window_ms=20.0)
    out = np.asarray(effect.render(sine, controls_of(effect, **values)))[0, 4000:]
    gain_db = 20 * np.log10(np.abs(out).max())
    np.testing.assert_allclose(gain_db, -0.75 * (20 - 3.01), atol=0.2)


def test_hold_keeps_the_gate_open():
    audio = np.full((1, 600), 1e-4, "float32")
    audio[0, 100] = 1.0
    values = {"attack_ms": 0.1, "release_ms": 10.0, "ratio": 40.0, "range_db": 60.0}
    gains = {}
    for hold_ms in (0.0, 10.0):
        gate = dynamics.noise_gate(RATE, hold_ms=hold_ms)
        out = gate.render(audio, controls_of(gate, **values))
        gains[hold_ms] = np.asarray(out)[0] / audio[0]
    assert gains[10.0][330] > 0.99 > 0.5 > gains[0.0][330]
    assert gains[10.0][590] < 0.5


def test_unknown_options_are_refused():
    for option in ("detector", "ballistics", "smoothing"):
        path = {"sample_rate": 44100.0, option: "loudest"}
        with pytest.raises(ValueError, match=f"{option} 'loudest' is unknown"):
            dynamics.GainPath(**path)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="must be positive"):
        dynamics.compressor(RATE, detector="rms", rms_window_ms=0.0)
    with pytest.raises(ValueError, match="at least 0"):
        limiter(RATE, lookahead_ms=-1.0)


def test_golden_compexp(golden):
    """torchcomp's compressor-expander gain and its gradient to all parameters."""
    arrays = golden("torchlpc_torchcomp")
    rms = jnp.asarray(arrays["comp_xrms"])
    names = ("comp_thresh", "comp_ratio", "exp_thresh", "exp_ratio", "at", "rt")
    parameters = {n: jnp.asarray(arrays[f"comp_{n}"])[:, None] for n in names}

    def gain(p):
        level = 20.0 * jnp.log10(rms)
        down = dynamics.compression_db(level, p["comp_thresh"], p["comp_ratio"], 0.0)
        # Its expander's ratio is the inverse of ours.
        up = dynamics.expansion_db(level, p["exp_thresh"], 1.0 / p["exp_ratio"], 0.0)
        wanted = 10.0 ** (jnp.minimum(down, up) / 20.0)
        return -envelopes.branching(-wanted, p["at"], p["rt"], -1.0)[0]

    found = gain(parameters)
    np.testing.assert_allclose(found, arrays["comp_gain"], rtol=1e-4)
    # The recorded loss is the mean of the squared gain.
    slopes = jax.jit(jax.grad(lambda p: jnp.mean(gain(p) ** 2)))(parameters)
    for name in names:
        expected = arrays[f"comp_grad_{name}"]
        np.testing.assert_allclose(slopes[name][:, 0], expected, rtol=2e-3, atol=1e-7)


def test_golden_dasp_compressor(golden):
    """dasp-pytorch's: one time constant for both directions, its attack over ln 9."""
    arrays = golden("dasp")
    effect = dynamics.compressor(44100)
    for row in range(2):
        given = {
            k: float(arrays[f"comp__{k}"][row])
            for k in ("threshold_db", "ratio", "knee_db", "attack_ms")
        }
        time_ms = given.pop("attack_ms") / np.log(9.0)
        given |= {"attack_ms": time_ms, "release_ms": max(time_ms, 10.0)}
        given["make_up_db"] = float(arrays["comp__makeup_gain_db"][row])
        expected = arrays["compressor"][row]
        if time_ms < 10.0:
            # Shorter than our shortest release: through the static curve instead.
            x = arrays["xc"][row]
            level = 20 * jnp.log10(jnp.maximum(jnp.abs(x), 1e-8))
            curve = dynamics.compression_db(
                level, given["threshold_db"], given["ratio"], given["knee_db"]
            )
            step = envelopes.time_to_step(time_ms, 44100)
            smooth, _ = envelopes.smooth(curve, step)
            found = x * 10 ** ((smooth + given["make_up_db"]) / 20)
        else:
            found = effect.render(arrays["xc"][row], controls_of(effect, **given))
        # The peer filters in the frequency domain, which wraps around a little.
        np.testing.assert_allclose(found, expected, atol=2e-4)
