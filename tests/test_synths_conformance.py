"""What every synth promises, checked on every synth of the registry.

A synth enters by being in `ddspx.synths.registry.SYNTHS`; some combinations enter here.
The last tests give the checks synths that break one promise each: a check that lets its
synth pass is itself broken.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from test_effects_conformance import QUICKLY, close, operations

from ddspx.synths.base import Core, Synth, make_synth, mix, stream
from ddspx.synths.modulated_delay import modulated_delay
from ddspx.synths.noise import filtered_noise
from ddspx.synths.registry import SYNTHS, make
from ddspx.synths.reverb import partitioned_reverb
from ddspx.synths.through import through

RATE = 16000
HOP = 32
FRAMES = 12
STEP = 1e-7


def in_a_room(rate, hop) -> Synth:
    """A delay that moves and a room, behind a filter that lags."""
    noise = filtered_noise(rate, hop, 33)
    moved = through(
        noise,
        modulated_delay(rate, max_delay_ms=3.0),
        {"delay_gain": 0.7},
        moving={"delay_ms": lambda x: 3.0 * jax.nn.sigmoid(x)},
    )
    response = np.random.default_rng(1).standard_normal(70) * 0.1
    return through(moved, partitioned_reverb(jnp.asarray(response, jnp.float32), hop))


CASES: dict[str, Callable[[Any, int], Synth]] = {**SYNTHS, "in_a_room": in_a_room}
# Others here have the same programs inside, or their own tests check blocks and slopes;
# what compiles most is left to `make test-all` for these.
RELATIVES = {"harmonic_plus_noise", "sinusoidal", "wavetable", "noise_bands"}


def outputs_of(synth: Synth, lead=(), frames=FRAMES, dtype: Any = np.float32):
    """Outputs of a network [..., frames, size], and a frequency that moves."""
    rng = np.random.default_rng(5)
    found: dict[str, np.ndarray] = {
        name: rng.standard_normal((*lead, frames, size)).astype(dtype)
        for name, size in synth.sizes.items()
    }
    f0 = 300.0 * np.exp(0.2 * rng.standard_normal((*lead, frames)))
    return {**found, "f0_hz": f0.astype(dtype)}


def controls_of(synth: Synth, lead=(), frames=FRAMES, dtype: Any = np.float32):
    found = synth.to_controls(outputs_of(synth, lead, frames, dtype))
    return {name: np.asarray(c, dtype) for name, c in found.items()}


def slope_of(synth: Synth):
    def value(controls, key, weights):
        audio = synth.render(controls, key)
        return jnp.sum(audio * weights), audio

    return jax.value_and_grad(value, has_aux=True)


class Compiled:
    """One synth and its programs, each compiled once for all tests of a process."""

    def __init__(self, factory: Callable[[Any, int], Synth]):
        self.factory = factory
        self.synth = factory(RATE, HOP)
        self.slope = jax.jit(slope_of(self.synth), compiler_options=QUICKLY)
        self.block = jax.jit(self.synth.render_block, compiler_options=QUICKLY)
        self.key = jax.random.key(3)
        rng = np.random.default_rng(6)
        self.weights = rng.standard_normal(FRAMES * HOP).astype(np.float32)

    def run(self, controls, key=None):
        """(audio, slopes by control) of a weighted sum."""
        key = self.key if key is None else key
        weights = self.weights.astype(next(iter(controls.values())).dtype)
        (_, audio), slopes = self.slope(controls, key, weights)
        return np.asarray(audio), {name: np.asarray(s) for name, s in slopes.items()}


# The checks, as functions of one synth, so that broken synths can be given to them.


def check_controls(factory) -> None:
    """Any leading dimensions, in the dtype of the outputs, finite for any outputs."""
    synth = factory(RATE, HOP)
    found = controls_of(synth, (2, 3), 4)
    alone = synth.to_controls(
        {name: o[1, 2] for name, o in outputs_of(synth, (2, 3), 4).items()}
    )
    for name, control in found.items():
        assert control.shape[:3] == (2, 3, 4), name
        np.testing.assert_allclose(alone[name], control[1, 2], rtol=1e-5, atol=1e-7)
    for level in (-100.0, 0.0, 100.0):
        outputs = {
            n: np.full_like(o, level) for n, o in outputs_of(synth, (), 4).items()
        }
        outputs["f0_hz"] = np.full(4, 0.5 * RATE, np.float32)
        for name, control in synth.to_controls(outputs).items():
            assert control.dtype == jnp.float32
            assert np.all(np.isfinite(control)), (name, level)


def check_shapes(factory) -> None:
    for rate, hop, frames in ((44100.0, 441, 1), (48000, 1, 3)):
        synth = factory(rate, hop)
        controls = jax.eval_shape(synth.to_controls, outputs_of(synth, (), frames))
        key = jax.random.key(0)
        found = jax.eval_shape(synth.render, controls, key)
        assert (found.shape, found.dtype) == ((frames * hop,), jnp.float32)
        state = jax.eval_shape(synth.init_state, key, controls)
        after, found = jax.eval_shape(synth.render_block, state, controls)
        assert (found.shape, found.dtype) == ((frames * hop,), jnp.float32)
        assert jax.tree.map(lambda a: (a.shape, a.dtype), state) == jax.tree.map(
            lambda a: (a.shape, a.dtype), after
        )
        assert (synth.hop, synth.latency) == (
            hop,
            hop - synth.core.frame_at + (synth.core.delay),
        )


def check_finite(case: Compiled) -> None:
    """Sound and slopes where controls are zero, and frequencies 0 or beyond Nyquist."""
    given = controls_of(case.synth)
    zero = {name: np.zeros_like(c) for name, c in given.items()}
    for f0 in (0.0, 1e-3, 0.5 * RATE, 3.0 * RATE):
        for controls in (given, zero):
            if "f0_hz" in controls:
                controls = {**controls, "f0_hz": np.full(FRAMES, f0, np.float32)}
            audio, slopes = case.run(controls)
            assert np.all(np.isfinite(audio)), f0
            for name, slope in slopes.items():
                assert np.all(np.isfinite(slope)), (name, f0)
            if controls is not given and not any(
                np.any(c) for name, c in controls.items() if name != "f0_hz"
            ):
                assert not np.any(audio), "zero controls sound"


def check_deterministic_and_eager(case: Compiled) -> None:
    """The key alone decides; another instance, run eagerly on the first frames, agrees.

    This also holds synths to causality but for their delay, and hunts NaN.
    """
    controls = controls_of(case.synth)
    audio, _ = case.run(controls)
    np.testing.assert_array_equal(audio, case.run(controls)[0])
    few = FRAMES - 1
    first = {name: jnp.asarray(c[:few]) for name, c in controls.items()}
    with jax.debug_nans(True):
        eager = case.factory(RATE, HOP).render(first, case.key)
    same = (few - 1) * HOP - case.synth.core.delay
    assert same > HOP
    close(eager[:same], audio[:same], 1e-5)


def check_vmap(case: Compiled) -> None:
    count = 2
    controls = controls_of(case.synth, (count,))
    keys = jax.random.split(case.key, count)
    weights = np.broadcast_to(case.weights, (count, len(case.weights)))
    together = jax.jit(jax.vmap(slope_of(case.synth)), compiler_options=QUICKLY)
    (_, audio), slopes = together(controls, keys, weights)
    for row in range(count):
        one, many = case.run({n: c[row] for n, c in controls.items()}, keys[row])
        close(audio[row], one, 1e-5)
        for name, slope in many.items():
            close(slopes[name][row], slope, 1e-4)


def check_blocks(case: Compiled) -> None:
    """Blocks of one frame or of many, in any order, give the whole but for latency."""
    synth = case.synth
    controls = controls_of(synth)
    whole, _ = case.run(controls)
    for lengths in ((1, 5, 1, 5), (5, 5, 1, 1), (1,) * FRAMES):
        assert sum(lengths) == FRAMES
        state, parts, start = synth.init_state(case.key, controls), [], 0
        last = {name: c[-1:] for name, c in controls.items()}
        blocks = []
        for length in lengths:
            blocks.append({n: c[start : start + length] for n, c in controls.items()})
            start += length
        blocks += [last] * -(-synth.latency // HOP)
        for block in blocks:
            state, part = case.block(state, block)
            parts.append(np.asarray(part))
        joined = np.concatenate(parts)[synth.latency :][: len(whole)]
        close(joined, whole, 3e-6)


def check_slopes(case: Compiled) -> None:
    """Slopes are those of float64 central differences, and no control is deaf."""
    rng = np.random.default_rng(9)
    with jax.enable_x64(True):
        controls = controls_of(case.synth, dtype=np.float64)
        audio, slopes = case.run(controls)
        assert audio.dtype == np.float64
        weights = case.weights.astype(np.float64)
        for name, control in controls.items():
            step = STEP * control * rng.uniform(0.5, 1.0, control.shape)

            def value(share, name=name, control=control, step=step):
                moved = {**controls, name: control + share * step}
                return float(case.slope(moved, case.key, weights)[0][0])

            wanted = 0.5 * (value(1.0) - value(-1.0))
            assert wanted != 0.0, f"{name} changes nothing"
            found = float(np.sum(slopes[name] * step))
            assert found == pytest.approx(wanted, rel=1e-4), name


def check_size(factory) -> None:
    """A program hardly grows with the sound, nor with tables as long as it."""
    synth = factory(44100, 64)
    sizes, tables = [], []
    for frames in (20, 700):
        controls = controls_of(synth, (), frames)
        weights = np.zeros(frames * 64, np.float32)
        program = jax.make_jaxpr(slope_of(synth))(controls, jax.random.key(0), weights)
        sizes.append(operations(program.jaxpr))
        tables.append(sum(np.size(c) for c in program.consts))
    assert sizes[1] <= 2 * sizes[0], sizes
    assert tables[1] <= 2 * tables[0] + 1000, tables


def check_export(factory) -> None:
    """Sound and slope lower for accelerators, none at hand."""
    synth = factory(RATE, HOP)
    controls = controls_of(synth)
    kinds = jax.tree.map(lambda c: jax.ShapeDtypeStruct(c.shape, c.dtype), controls)
    weights = jax.ShapeDtypeStruct((FRAMES * HOP,), np.float32)

    def slope(controls, seed, weights):
        return slope_of(synth)(controls, jax.random.key(seed), weights)

    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(slope), platforms=platforms)(
        kinds, jax.ShapeDtypeStruct((), np.uint32), weights
    )
    assert exported.platforms == platforms


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Compiled:
    """Scoped so that all tests of one synth follow each other."""
    return Compiled(CASES[request.param])


# All lists of cases have one order: pytest groups tests by the place in it.
def cases_but_slow(slow):
    return pytest.mark.parametrize(
        "case",
        [
            pytest.param(name, marks=[pytest.mark.slow] if name in slow else [])
            for name in CASES
        ],
        indirect=True,
    )


compiles_much = cases_but_slow(RELATIVES)
# What holds by construction, or fails for all alike, is quickly checked on one.
compiles_most = cases_but_slow(CASES.keys() - {"filtered_noise"})


def test_outputs_become_controls(case):
    check_controls(case.factory)


def test_shape_dtype_and_state_are_kept(case):
    check_shapes(case.factory)


@compiles_much
def test_everything_is_finite_at_extremes(case):
    check_finite(case)


@compiles_most
def test_eager_is_compiled_and_instances_agree(case):
    check_deterministic_and_eager(case)


@compiles_most
def test_vmap_is_a_loop(case):
    check_vmap(case)


@compiles_much
def test_blocks_are_the_whole(case):
    check_blocks(case)


@compiles_much
def test_slopes_are_those_of_float64_differences(case):
    check_slopes(case)


@compiles_most
def test_programs_do_not_grow_with_the_sound(case):
    check_size(case.factory)


@compiles_most
def test_exports_with_its_slope_for_accelerators(case):
    check_export(case.factory)


@pytest.mark.slow
def test_the_mix_of_all_is_their_sum_and_streams():
    synths = [factory(RATE, HOP) for factory in CASES.values()]
    together = mix(*synths)
    controls = controls_of(together)
    key = jax.random.key(4)
    keys = jax.random.split(key, len(synths))
    wanted = np.zeros(FRAMES * HOP, np.float32)
    for synth, own in zip(synths, keys, strict=True):
        render = jax.jit(synth.render, compiler_options=QUICKLY)
        wanted += np.asarray(render(controls, own))
    render = jax.jit(together.render, compiler_options=QUICKLY)
    close(render(controls, key), wanted, 1e-5)
    blocks = ({n: c[m : m + 1] for n, c in controls.items()} for m in range(FRAMES))
    close(jnp.concatenate(list(stream(together, blocks, key))), wanted, 1e-5)


def broken(change: Callable[[Any, Any], Any], **parts) -> Callable[[Any, int], Synth]:
    """A synth of one level a frame that goes wrong."""

    def factory(rate, hop):
        def process(state, controls):
            level = jnp.asarray(controls["level"])
            return state + 1, change(state, jnp.repeat(level[:-1], hop))

        def to_controls(outputs):
            return {"level": jnp.asarray(outputs["level"])[..., 0]}

        core = Core(lambda key: jnp.zeros((), jnp.int32), process)
        made = make_synth(core, hop, sizes={"level": 1}, to_controls=to_controls)
        return made._replace(**parts)

    return factory


def test_a_sound_synth_passes():
    case = Compiled(broken(lambda state, audio: audio))
    for check in (check_finite, check_deterministic_and_eager, check_vmap):
        check(case)
    for check in (check_blocks, check_slopes):
        check(case)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        (check_finite, lambda state, audio: audio / jnp.abs(audio)),
        (check_finite, lambda state, audio: audio + 1.0),
        (check_deterministic_and_eager, lambda state, audio: audio + jnp.mean(audio)),
        (check_blocks, lambda state, audio: audio + state),
        (check_blocks, lambda state, audio: audio + jnp.arange(len(audio)) / 9e3),
        (check_slopes, lambda state, audio: audio * jax.lax.stop_gradient(audio)),
        (check_slopes, lambda state, audio: 0.0 * audio),
    ],
)
def test_checks_fail_synths_that_break_a_promise(check, change):
    case = Compiled(broken(change))
    with pytest.raises(AssertionError):
        check(case)


def test_make_knows_all_names_and_helps_with_others():
    for name in SYNTHS:
        assert isinstance(make(name, RATE, HOP), Synth)
    with pytest.raises(ValueError, match=r"no synth is called 'harmonics'.*'harmonic'"):
        make("harmonics", RATE, HOP)
