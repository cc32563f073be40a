"""What every effect promises, checked on every effect of the registry.

An effect enters by being in `ddspx.effects.EFFECTS`. What one of them cannot promise is
written in SURROGATE, with the reason. The last tests give the checks effects that break
one promise each: a check that lets its effect pass is itself broken.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.effects import (
    EFFECTS,
    Effect,
    batched,
    bypassable,
    chain,
    dry_wet,
    make,
    make_effect,
    parallel,
    without_memory,
)
from ddspx.parameters import (
    default_controls,
    identity_controls,
    plain,
)

RATE = 16000
TIME = 1200
# Of central differences in float64: so short that hardly any sample of a delayed signal
# crosses from one interval of its interpolation into the next.
STEP = 1e-8
# Programs that run a few times only: LLVM's optimisation costs more than it saves.
QUICKLY = {"xla_backend_optimization_level": 0}
SHAPES = ((1, 1), (2, 1), (2, 1200), (1, 777))
# Controls (and "audio") whose slope is a surrogate, on purpose: rounding has none.
SURROGATE = {"bitcrush": ("audio", "bit_depth", "hold_ms")}
# Another effect here has the same program inside, and goes through all checks; those
# that compile most are left to `make test-all` for these.
RELATIVES = {
    "low_shelf", "high_shelf", "high_pass", "low_pass", "band_pass", "notch",
    "parametric_equalizer", "first_order_high_pass", "first_order_low_pass",
    "graphic_equalizer", "third_octave_equalizer", "expander", "noise_gate",
    "hard_clip", "soft_clip",
    "ping_pong_delay", "flanger", "vibrato", "auto_pan",
}  # fmt: skip


def combination(rate) -> Effect:
    """A latency within a mix, within a switch, beside another effect, in a chain."""
    return chain(
        late=bypassable(dry_wet(make("limiter", rate))),
        both=parallel(one=make("tremolo", rate), other=make("tanh_distortion", rate)),
    )


CASES: dict[str, Callable[[Any], Effect]] = {**EFFECTS, "combination": combination}


def test_signal(time: int, channels: int = 2, dtype: Any = np.float32) -> np.ndarray:
    """Noise that swells from -80 dB to -2 dB and fades, across any threshold."""
    rng = np.random.default_rng(7)
    level_db = -41.0 + 39.0 * np.cos(np.arange(time) * (2 * np.pi / 400))
    level = 10.0 ** (level_db / 20.0)
    return (level * rng.uniform(-1, 1, (channels, time))).astype(dtype)


test_signal.__test__ = False  # pyright: ignore[reportFunctionMemberAccess]


def inner_controls(effect: Effect, count: int, dtype: Any = np.float32) -> np.ndarray:
    """Controls [count, n] away from the faces of the cube, where slopes are one-sided.

    Choices are set in the middle of a choice.
    """
    rng = np.random.default_rng(11)
    controls = rng.uniform(0.1, 0.9, (count, len(effect.specs)))
    for column, spec in enumerate(effect.specs):
        if spec.choices:
            number = len(spec.choices)
            places = rng.integers(number, size=count)
            controls[:, column] = (places + 0.5) / number
    return controls.astype(dtype)


def corner_controls(effect: Effect) -> np.ndarray:
    """All zeros, all ones, defaults, identities and random corners of the cube."""
    number = len(effect.specs)
    corners = np.random.default_rng(3).integers(0, 2, (4, number))
    rows = [np.zeros(number), np.ones(number), *corners]
    rows += [default_controls(effect.specs), identity_controls(effect.specs)]
    return np.stack(rows).astype(np.float32)


class Compiled:
    """One effect and its programs, each compiled once for all tests of a process."""

    def __init__(self, factory: Callable[[Any], Effect], surrogate: tuple = ()):
        self.factory = factory
        self.surrogate = surrogate
        self.effect = factory(RATE)
        self.slope = jax.jit(slope_of(self.effect), compiler_options=QUICKLY)
        self.block = jax.jit(self.effect.render_block, compiler_options=QUICKLY)
        self.render = jax.jit(self.effect.render, compiler_options=QUICKLY)
        rng = np.random.default_rng(5)
        self.weights = rng.standard_normal((2, TIME)).astype(np.float32)

    def run(self, audio, controls):
        """(output, slope to the audio, slope to the controls) of a weighted sum."""
        (_, output), slopes = self.slope(audio, controls, self.weights)
        return (np.asarray(output), *map(np.asarray, slopes))


def slope_of(effect: Effect):
    def value(audio, controls, weights):
        output = effect.render(audio, controls)
        return jnp.sum(output * weights), output

    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)


# The checks, as functions of one effect, so that broken effects can be given to them.


def check_specs(factory: Callable[[Any], Effect]) -> None:
    units = {"Hz": "_hz", "dB": "_db", "ms": "_ms"}
    for rate in (8000, 16000, 44100.0, 96000):
        specs = factory(rate).specs
        names = [spec.name for spec in specs]
        assert len(set(names)) == len(names)
        for spec in specs:
            assert spec.name.endswith(units.get(spec.unit, "")), spec
            if spec.unit == "Hz":
                assert spec.high <= 0.4501 * rate, spec


def check_shapes(factory: Callable[[Any], Effect]) -> None:
    for rate in (16000, 44100, 96000.0):
        effect = factory(rate)
        controls = jnp.zeros(len(effect.specs))
        for shape in SHAPES if rate == 16000 else SHAPES[-1:]:
            audio = jax.ShapeDtypeStruct(shape, jnp.float32)
            found = jax.eval_shape(effect.render, audio, controls)
            assert (found.shape, found.dtype) == (shape, jnp.float32)
            state = jax.eval_shape(lambda c=shape[0], e=effect: e.init_state(c))
            after, found = jax.eval_shape(effect.render_block, state, audio, controls)
            assert (found.shape, found.dtype) == (shape, jnp.float32)
            assert jax.tree.structure(after) == jax.tree.structure(state)
            kinds = [
                [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(tree)]
                for tree in (state, after)
            ]
            assert kinds[0] == kinds[1]


def check_refusals(effect: Effect) -> None:
    number = len(effect.specs)
    controls = jnp.full(number, 0.5)
    for shape in ((100,), (1, 2, 100)):
        with pytest.raises(ValueError, match=r"\[channels, time\].*\(.*100.*vmap"):
            jax.eval_shape(effect.render, jnp.zeros(shape), controls)
    for wrong in (jnp.zeros(number + 1), jnp.zeros(()), jnp.zeros((number, 2, 2))):
        with pytest.raises(ValueError, match=rf"{number} controls.*\[n\].*got shape"):
            jax.eval_shape(effect.render, jnp.zeros((1, 100)), wrong)
    with pytest.raises(ValueError, match=r"one channel or more.*\(0, 100\)"):
        jax.eval_shape(effect.render, jnp.zeros((0, 100)), controls)
    with pytest.raises(ValueError, match=r"float32 or float64, got bfloat16"):
        jax.eval_shape(effect.render, jnp.zeros((1, 100), jnp.bfloat16), controls)


def check_finite(case: Compiled) -> None:
    """Outputs and slopes at corners, on full-scale noise, silence and an impulse."""
    rng = np.random.default_rng(2)
    impulse = np.zeros((2, TIME))
    impulse[:, 5] = 1.0
    noise = rng.choice([-1.0, 1.0], (2, TIME)) * rng.uniform(0.5, 1, TIME)
    for controls in corner_controls(case.effect):
        for audio in (noise, np.zeros_like(noise), impulse):
            for found in case.run(audio.astype(np.float32), controls):
                assert np.all(np.isfinite(found)), controls


def check_other_rates(factory: Callable[[Any], Effect]) -> None:
    """Mono, odd lengths, the rates that recordings have."""
    for rate, time in ((44100, 777), (96000, 1001)):
        effect = factory(rate)
        render = jax.jit(effect.render, compiler_options=QUICKLY)
        for controls in (inner_controls(effect, 1)[0], *corner_controls(effect)[:2]):
            found = np.asarray(render(test_signal(time, 1), controls))
            assert found.shape == (1, time) and found.dtype == np.float32
            assert np.all(np.isfinite(found)), controls


def check_identity(case: Compiled) -> None:
    """Where an identity is declared; nothing is promised elsewhere."""
    declared = any(spec.identity is not None for spec in case.effect.specs)
    if not declared:
        return
    audio = test_signal(TIME)
    found = case.render(audio, identity_controls(case.effect.specs))
    late = case.effect.latency
    wanted = np.pad(audio, ((0, 0), (late, 0)))[:, :TIME]
    np.testing.assert_allclose(found, wanted, atol=1e-5, rtol=0)


def check_deterministic_and_eager(case: Compiled) -> None:
    """Another instance, run eagerly on the beginning, says the same of it.

    This also holds effects to causality, and NaN-hunting to single operations.
    """
    controls = inner_controls(case.effect, 1)[0]
    audio = test_signal(TIME)
    found = case.run(audio, controls)[0]
    np.testing.assert_array_equal(found, case.run(audio, controls)[0])
    few = 40
    with jax.debug_nans(True):
        eager = case.factory(RATE).render(audio[:, :few], controls)
    np.testing.assert_allclose(eager, found[:, :few], rtol=1e-4, atol=1e-5)


def check_vmap(case: Compiled) -> None:
    count = 3
    controls = inner_controls(case.effect, count)
    audio = np.stack([test_signal(TIME) * s for s in (1.0, -0.5, 0.1)])
    audio = audio.astype(np.float32)
    weights = np.broadcast_to(case.weights, audio.shape)
    together = jax.jit(jax.vmap(slope_of(case.effect)), compiler_options=QUICKLY)
    (_, output), slopes = together(audio, controls, weights)
    for row in range(count):
        alone = case.run(audio[row], controls[row])
        for one, many in zip(alone, (output, *slopes), strict=True):
            close(many[row], one, 1e-4)


def check_blocks(case: Compiled) -> None:
    """Any blocks, of one sample or of many, in any order, give the whole."""
    controls = inner_controls(case.effect, 2)
    audio = test_signal(TIME)
    a = TIME // 2 - 1
    for setting, lengths in zip(controls, ((1, a, 1, a), (a, a, 1, 1)), strict=True):
        whole = case.run(audio, setting)[0]
        state, parts, start = case.effect.init_state(2), [], 0
        for length in lengths:
            block = audio[:, start : start + length]
            state, part = case.block(state, block, setting)
            parts.append(np.asarray(part))
            start += length
        close(np.concatenate(parts, axis=-1), whole, 2e-5)


def check_moving(case: Compiled) -> None:
    """Controls [n, frames], where taken: constant as [n], and in blocks as whole."""
    effect, time = case.effect, TIME
    number = len(effect.specs)
    if not number:
        return
    fixed = inner_controls(effect, 1)[0]
    held = np.repeat(fixed[:, None], time, axis=1)
    audio = test_signal(time)
    try:
        jax.eval_shape(effect.render, audio, held)
    except ValueError as refusal:
        assert "one setting [n]" in str(refusal)
        assert str((number, time)) in str(refusal)
        return
    close(case.render(audio, held), case.run(audio, fixed)[0], 1e-4)
    moving = fixed[:, None] + 0.1 * np.sin(
        np.arange(time) / 90 + np.arange(number)[:, None]
    )
    moving = np.where([[bool(s.choices)] for s in effect.specs], held, moving)
    moving = moving.astype(np.float32)
    whole = np.asarray(case.render(audio, moving))
    assert np.all(np.isfinite(whole))
    state, parts, cut = effect.init_state(2), [], time // 2
    for span in (slice(0, cut), slice(cut, time)):
        state, part = case.block(state, audio[:, span], moving[:, span])
        parts.append(np.asarray(part))
    close(np.concatenate(parts, axis=-1), whole, 2e-5)


def check_slopes(case: Compiled) -> None:
    """Slopes are those of float64 central differences, and no control is deaf."""
    effect = case.effect
    heard = {spec.name: False for spec in effect.specs}
    with jax.enable_x64(True):
        audio = test_signal(TIME, dtype=np.float64)
        weights = case.weights.astype(np.float64)
        # In proportion to each sample: no step across the kink of |x| at 0.
        step = audio * np.random.default_rng(1).standard_normal(audio.shape)
        for controls in inner_controls(effect, 4, np.float64):
            (_, output), (to_audio, to_controls) = case.slope(audio, controls, weights)
            assert output.dtype == np.float64

            def value(audio, controls):
                return float(case.slope(audio, controls, weights)[0][0])

            def outcome(controls):
                return np.asarray(case.slope(audio, controls, weights)[0][1])

            if "audio" not in case.surrogate:
                ahead = value(audio + STEP * step, controls)
                behind = value(audio - STEP * step, controls)
                slope = float(np.sum(np.asarray(to_audio) * step))
                assert slope == pytest.approx((ahead - behind) / (2 * STEP), rel=1e-4)
            for place, spec in enumerate(effect.specs):
                move = np.eye(len(controls))[place]
                if spec.choices:
                    others = (np.arange(len(spec.choices)) + 0.5) / len(spec.choices)
                else:
                    others = controls[place] + np.array([0.05])
                for other in others:
                    moved = outcome(controls + move * (other - controls[place]))
                    heard[spec.name] |= float(np.max(np.abs(moved - output))) > 1e-9
                if spec.choices or spec.name in case.surrogate:
                    continue
                ahead = value(audio, controls + STEP * move)
                behind = value(audio, controls - STEP * move)
                assert float(to_controls[place]) == pytest.approx(
                    (ahead - behind) / (2 * STEP), rel=1e-4, abs=1e-5
                ), f"{spec.name} at {controls}"
    deaf = {name for name, any_change in heard.items() if not any_change}
    assert not deaf


def check_size(factory: Callable[[Any], Effect]) -> None:
    """A program hardly grows with the signal, nor with tables as long as it."""
    effect = factory(44100)
    sizes, tables = [], []
    for seconds in (0.5, 8):
        shape = (2, int(44100 * seconds))
        arrays = (shape, (len(effect.specs),), shape)
        arrays = [jax.ShapeDtypeStruct(s, jnp.float32) for s in arrays]
        program = jax.make_jaxpr(slope_of(effect))(*arrays)
        sizes.append(operations(program.jaxpr))
        tables.append(sum(np.size(c) for c in program.consts))
    assert sizes[1] <= min(2 * sizes[0], 20000), sizes
    assert tables[1] <= 2 * tables[0] + 1000, tables


def check_export(factory: Callable[[Any], Effect]) -> None:
    """Output and slope lower for accelerators, none at hand."""
    effect = factory(RATE)
    platforms = ("cpu", "cuda", "tpu")
    arrays = ((2, 600), (len(effect.specs),), (2, 600))
    arrays = [jax.ShapeDtypeStruct(shape, np.float32) for shape in arrays]
    exported = jax.export.export(jax.jit(slope_of(effect)), platforms=platforms)(
        *arrays
    )
    assert exported.platforms == platforms


def operations(jaxpr: Any) -> int:
    """Operations of a program, those of its inner programs included."""
    total = 0
    for equation in jaxpr.eqns:
        total += 1
        for value in jax.tree.leaves(
            equation.params, is_leaf=lambda v: hasattr(v, "eqns") or hasattr(v, "jaxpr")
        ):
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                total += operations(inner)
    return total


def close(found, wanted, relative: float) -> None:
    """Equal but for a share of the largest value: rounding of sums, not of products."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    largest = float(np.max(np.abs(wanted), initial=1e-6))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=relative * largest)


@pytest.fixture(scope="module", params=CASES)
def case(request) -> Compiled:
    """Scoped so that all tests of one effect follow each other."""
    return Compiled(CASES[request.param], SURROGATE.get(request.param, ()))


# All lists of cases have one order: pytest groups tests by the place in it.
compiles_much = pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in RELATIVES else [])
        for name in CASES
    ],
    indirect=True,
)


def test_specs_are_named_by_their_units_and_below_the_rate(case):
    check_specs(case.factory)


def test_shape_dtype_and_length_are_kept(case):
    check_shapes(case.factory)


def test_bad_shapes_are_refused_with_a_reason(case):
    check_refusals(case.effect)


@compiles_much
def test_everything_is_finite_at_corners_and_silence(case):
    check_finite(case)


@compiles_much
def test_other_rates_and_mono(case):
    check_other_rates(case.factory)


def test_the_identity_gives_the_input(case):
    check_identity(case)


@compiles_much
def test_eager_is_compiled_and_instances_agree(case):
    check_deterministic_and_eager(case)


@compiles_much
def test_vmap_is_a_loop(case):
    check_vmap(case)


@compiles_much
def test_blocks_are_the_whole(case):
    check_blocks(case)


@compiles_much
def test_moving_controls_are_taken_or_refused(case):
    check_moving(case)


@compiles_much
def test_slopes_are_those_of_float64_differences(case):
    check_slopes(case)


def test_programs_do_not_grow_with_the_signal(case):
    check_size(case.factory)


@compiles_much
def test_exports_with_its_slope_for_accelerators(case):
    check_export(case.factory)


def test_batched_is_vmap_over_any_leading_dimensions():
    process = without_memory(lambda x, v: v["gain"] * x)
    effect = chain(a=make_effect((plain("gain", 0.0, 2.0),), process))
    audio = np.stack([test_signal(50), 2 * test_signal(50)])[:, None]
    controls = np.array([[0.5], [0.25], [0.0]], np.float32)
    found = np.asarray(batched(effect)(audio, controls))
    assert found.shape == (2, 3, 2, 50)
    np.testing.assert_allclose(found[1, 1], 0.5 * audio[1, 0], rtol=1e-6)


def test_make_knows_all_names_and_helps_with_others():
    for name in EFFECTS:
        assert isinstance(make(name, RATE), Effect)
    with pytest.raises(
        ValueError, match=r"no effect is called 'Xcompresor'.*known are"
    ):
        make("Xcompresor", RATE)
    for rate in (0, -44100, float("nan"), float("inf")):
        with pytest.raises(ValueError, match=r"positive number of Hz.*got"):
            make("tremolo", rate)
