"""A plucked string: noise that goes round in a delay line and dies away.

Frequencies are in Hz, times in seconds, amplitudes linear. The delay lies between
samples and makes up for the filter in the loop, so that the string is in tune.
"""

import jax
import jax.numpy as jnp
import numpy as np

from ddspx import delay_lines
from ddspx.effects.convolution import LN_60_DB
from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.noise import noise_hops
from ddspx.synths.scaling import exp_sigmoid
from ddspx.synths.upsampling import between, crossfade
from ddspx.types import Rate

MAX_DAMPING = 0.9
MAX_DECAY_S = 20.0
CONTROLS = ("pluck_amplitude", "decay_s", "damping", "pluck_position")


def karplus_strong(
    sample_rate: Rate,
    hop: int,
    *,
    lowest_hz: float = 27.5,
    highest_hz: float = 2100.0,
) -> Synth:
    """The plucked string of Karplus and Strong, as Jaffe and Smith tuned it.

        y[n] = x[n] + g[n] w(n - D[n]),  w = x + g v,  v = (1 - a) w(. - D) + a v[. - 1]
        x[n] = e[n] - e(n - position rate / f0),  e = pluck_amplitude noise
        D = rate / f0 - arg(1 - a exp(-j w0)) / w0,  g = 10^(-3 / (f0 decay_s))

    Controls [frames], joined by straight lines: ``f0_hz``, limited to the range;
    ``pluck_amplitude``, of the noise that enters the string, one frame of it for a
    pluck, more for a bowed sound; ``decay_s``, in which the string falls by 60 dB
    without damping; ``damping`` a, 0 to `MAX_DAMPING`, by which high partials die
    sooner; ``pluck_position``, 0 to 0.5 of the string. All have gradients; that by f0
    is exact and as rugged as the sound itself.

    Args:
      sample_rate: Hz, at least four times `highest_hz`.
      hop: samples from frame to frame.
      lowest_hz: lowest frequency, which sets the state.
      highest_hz: highest frequency; the loop runs in blocks of its shortest delay, so
        that it sets the speed.

    Returns:
      A `Synth`.

    Raises:
      ValueError: frequencies are not in order, or too high for the rate.

    Reference:
      Karplus and Strong, "Digital synthesis of plucked-string and drum timbres", CMJ
      7(2), 1983; Jaffe and Smith, "Extensions of the Karplus-Strong plucked-string
      algorithm", the same issue, equations 9 and 18.
    """
    rate = float(sample_rate)
    if not 0.0 < lowest_hz < highest_hz <= rate / 4.0:
        raise ValueError(
            "a string needs 0 < lowest_hz < highest_hz <= sample_rate / 4, got"
            f" {lowest_hz}, {highest_hz} at {sample_rate} Hz"
        )
    weights = crossfade(hop, "linear")
    longest = rate / lowest_hz
    # The filter of the loop delays by less than a quarter of a period.
    shortest = 0.75 * rate / highest_hz - 1e-3
    loop_held = delay_lines.history_length(longest, "lagrange3")
    comb_held = delay_lines.history_length(0.5 * longest + 1.0)

    def init_state(key):
        loop = delay_lines.start_loop(1, loop_held)
        return key, jnp.zeros((), jnp.uint32), jnp.zeros((1, comb_held)), loop

    def process(state, controls):
        key, number, entered, loop = state
        curves = {
            name: between(jnp.asarray(controls[name]), weights).reshape(-1)
            for name in ("f0_hz", *CONTROLS)
        }
        f0 = _within(curves["f0_hz"], lowest_hz, highest_hz)
        damping = _within(curves["damping"], 0.0, MAX_DAMPING)
        decay = jnp.maximum(curves["decay_s"], 1e-3)
        position = _within(curves["pluck_position"], 0.0, 0.5)

        hops = len(f0) // hop
        noise = noise_hops(key, number, hops, hop).reshape(1, -1).astype(f0.dtype)
        noise = noise * curves["pluck_amplitude"][None]
        period = rate / f0
        echo, entered = delay_lines.delay(noise, position * period, entered)
        angle = 2.0 * np.pi * f0 / rate
        lag = jnp.arctan2(damping * jnp.sin(angle), 1.0 - damping * jnp.cos(angle))
        gain = jnp.exp(-0.5 * LN_60_DB / (f0 * decay))
        plucked = noise - echo
        returned, loop = delay_lines.feedback_delay(
            plucked,
            period - lag / angle,
            gain,
            loop,
            min_delay_samples=shortest,
            interpolation="lagrange3",
            damping=damping,
        )
        audio = plucked + gain[None] * returned
        return (key, number + np.uint32(hops), entered, loop), audio[0]

    def to_controls(outputs):
        pluck, decay, damping, position = (
            jnp.asarray(outputs[name])[..., 0] for name in CONTROLS
        )
        return {
            "f0_hz": jnp.asarray(outputs["f0_hz"]),
            "pluck_amplitude": exp_sigmoid(pluck),
            "decay_s": MAX_DECAY_S * jax.nn.sigmoid(decay - 2.0),
            "damping": MAX_DAMPING * jax.nn.sigmoid(damping),
            "pluck_position": 0.5 * jax.nn.sigmoid(position),
        }

    return make_synth(
        Core(init_state, process),
        hop,
        sizes=dict.fromkeys(CONTROLS, 1),
        to_controls=to_controls,
    )


def _within(curve: jax.Array, low: float, high: float) -> jax.Array:
    # Not jnp.clip, whose slope halves at the limits, where controls often lie.
    curve = jnp.where(curve < low, jnp.asarray(low, curve.dtype), curve)
    return jnp.where(curve > high, jnp.asarray(high, curve.dtype), curve)
