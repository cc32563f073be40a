"""Filtered noise: white noise through a filter that each frame draws by magnitudes.

Magnitudes are real, linear and spread evenly from 0 Hz to half the sample rate. They
become symmetric impulse responses, whose delay is known and taken off exactly.
"""

from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import scipy.fft
from jaxtyping import Float

from ddspx.signal import PRECISE, overlap_add
from ddspx.synths.base import Core, Synth, make_synth
from ddspx.synths.scaling import exp_sigmoid
from ddspx.types import AnyArray, RandomKey, Rate


def filtered_noise(
    sample_rate: Rate,
    hop: int,
    bins: int,
    *,
    taps: int | None = None,
    bias: float = -5.0,
    compat: bool = False,
) -> Synth:
    """White noise whose spectrum follows its frames.

        y = sum_m h_m * x_m,  x_m the noise of hop m, uniform in [-1, 1),
        h_m from the mean of the magnitudes at both ends of the hop

    Control ``noise_magnitudes`` [frames, bins], linear; outputs of that name are scaled
    by `exp_sigmoid` after `bias`. At magnitude 1 everywhere the noise passes as it is,
    with an RMS of 0.577. What a hop draws depends on the key and on its number alone.

    Args:
      sample_rate: Hz; the noise is the same at any, its bins lie sample_rate / 2
        / (bins - 1) apart.
      hop: samples from frame to frame.
      bins: magnitudes of a frame, at least 2.
      taps: of the impulse response; see `frequency_impulse_response`.
      bias: added to outputs, so that an untrained network is nearly silent.
      compat: as magenta/ddsp, which holds magnitudes from their frame on and crops two
        samples too few: its sound is 2 samples late for an even window.

    Returns:
      A `Synth` whose latency is a hop and half of the response.

    Raises:
      ValueError: hop, bins or taps are out of range.

    Reference:
      Engel et al., "DDSP", ICLR 2020, section 3.4.
    """
    del sample_rate
    if hop < 1:
        raise ValueError(f"hop is {hop} samples; it must be 1 or more")
    lags, _ = _window(bins, taps, compat)
    # Position of lag 0; what magenta crops instead.
    delay = (len(lags) - 1) // 2 - 1 if compat else -int(lags[0])
    if delay < 0:
        raise ValueError(
            f"magenta's crop needs a response of 3 samples or more, got {len(lags)};"
            " use more bins or compat=False"
        )

    def init_state(key):
        return key, jnp.zeros((), jnp.uint32), jnp.zeros(len(lags) - 1)

    def process(state, controls):
        key, number, tail = state
        magnitudes = jnp.asarray(controls["noise_magnitudes"])
        if magnitudes.shape[1:] != (bins,):
            raise ValueError(
                f"noise_magnitudes are [frames, {bins}], got shape {magnitudes.shape}"
            )
        ends = magnitudes[:-1], magnitudes[1:]
        held = ends[0] if compat else 0.5 * (ends[0] + ends[1])
        hops = len(held)
        responses = frequency_impulse_response(held, taps=taps, compat=compat)
        noise = noise_hops(key, number, hops, hop).astype(magnitudes.dtype)
        audio = filter_hops(noise, responses)
        audio = audio.at[: len(tail)].add(tail.astype(audio.dtype))
        after = audio[hops * hop :]
        return (key, number + np.uint32(hops), after), audio[: hops * hop]

    def to_controls(outputs):
        scaled = exp_sigmoid(jnp.asarray(outputs["noise_magnitudes"]) + bias)
        return {"noise_magnitudes": scaled}

    return make_synth(
        Core(init_state, process, delay),
        hop,
        sizes={"noise_magnitudes": bins},
        to_controls=to_controls,
    )


def bin_frequencies_hz(bins: int, sample_rate: Rate) -> np.ndarray:
    """Frequencies of the magnitudes of a frame, evenly from 0 Hz to Nyquist [bins]."""
    return np.linspace(0.0, sample_rate / 2, bins)


def noise_hops(key: RandomKey, first: AnyArray, hops: int, hop: int) -> jax.Array:
    """White noise, uniform in [-1, 1), each hop drawn from the key and its number.

    Args:
      key: of the whole sound.
      first: number of the first hop, uint32.
      hops: how many.
      hop: samples in each.

    Returns:
      float32 [hops, hop]; drawn in single precision always, since another noise would
      come of the same key in another.
    """

    def draw(number):
        own = jax.random.fold_in(key, number)
        return jax.random.uniform(own, (hop,), jnp.float32, -1.0, 1.0)

    return jax.vmap(draw)(first + jnp.arange(hops, dtype=jnp.uint32))


def frequency_impulse_response(
    magnitudes: Float[AnyArray, "*batch bins"],
    *,
    taps: int | None = None,
    compat: bool = False,
) -> jax.Array:
    """Impulse responses of real magnitudes, by frequency sampling and a Hann window.

        h[l] = w[l] / L sum_k M[k] cos(2 pi k l / L),  L = 2 (bins - 1), k over all L

    Lag 0 lies in the middle: the response is symmetric and delays all frequencies by
    ``taps // 2`` samples. As a product with one small matrix, which beats the FFT.

    Args:
      magnitudes: [..., bins], linear, evenly from 0 Hz to Nyquist.
      taps: odd, at most and if None L - 1; fewer are smoother in frequency.
      compat: as magenta's function of the same name, where `taps` is its window_size:
        L samples with lag 0 at L / 2, or a window that is not symmetric for fewer.

    Returns:
      [..., taps].

    Raises:
      ValueError: there are fewer than two bins, or taps are even or out of range.
    """
    magnitudes = jnp.asarray(magnitudes)
    matrix = _design(magnitudes.shape[-1], taps, compat)
    return jnp.matmul(
        magnitudes, jnp.asarray(matrix, magnitudes.dtype), precision=PRECISE
    )


@jax.jit
def filter_hops(
    audio: Float[AnyArray, "*batch hops hop"],
    responses: Float[AnyArray, "*batch hops taps"],
) -> jax.Array:
    """Each hop of a signal through a filter of its own, tails added.

        y[t] = sum_m sum_k h_m[k] x_m[t - m hop - k]

    By FFTs of a hop and its tail; the Toeplitz product takes 20 times as long.

    Args:
      audio: [..., hops, hop], a signal cut into hops.
      responses: [..., hops, taps].

    Returns:
      [..., hops hop + taps - 1], the last tail included.
    """
    audio, responses = jnp.asarray(audio), jnp.asarray(responses)
    length = audio.shape[-1] + responses.shape[-1] - 1
    size = scipy.fft.next_fast_len(length, real=True)
    spectra = jnp.fft.rfft(audio, size) * jnp.fft.rfft(responses, size)
    pieces = jnp.fft.irfft(spectra, size)[..., :length]
    return jnp.asarray(overlap_add(pieces, audio.shape[-1]))


def _window(bins: int, taps: int | None, compat: bool) -> tuple[np.ndarray, np.ndarray]:
    """Lags of the response and the window's weights at them."""
    if bins < 2:
        raise ValueError(f"a filter needs 2 bins or more, got {bins}")
    size = 2 * (bins - 1)
    if compat:
        width = size if taps is None or taps <= 0 or taps > size else taps
        # TensorFlow's periodic window is periodic for even lengths only.
        period = width - width % 2
        hann = 0.5 - 0.5 * np.cos(2.0 * np.pi * np.arange(width) / max(period, 1))
        if width == size:
            return np.arange(width) - width // 2, hann
        # The window is laid around lag 0 one sample late and cropped once more.
        half = (width + 1) // 2
        lags = np.arange(2 - half, half + 1)
        return lags, np.append(hann, [0.0, 0.0])[lags + half]
    longest = size - 1
    taps = longest if taps is None else taps
    if not 1 <= taps <= longest or taps % 2 == 0:
        raise ValueError(
            f"{bins} bins make a response of an odd number of taps from 1 to {longest},"
            f" got {taps}"
        )
    lags = np.arange(-(taps // 2), taps // 2 + 1)
    return lags, 0.5 + 0.5 * np.cos(2.0 * np.pi * lags / (taps + 1))


@lru_cache(maxsize=32)
def _design(bins: int, taps: int | None, compat: bool) -> np.ndarray:
    """The matrix [bins, taps] from magnitudes to the windowed response, float64."""
    lags, weights = _window(bins, taps, compat)
    size = 2 * (bins - 1)
    # All bins but the first and the last stand for two.
    share = np.full(bins, 2.0 / size)
    share[[0, -1]] = 1.0 / size
    turns = np.arange(bins)[:, None] * lags[None] % size / size
    return share[:, None] * np.cos(2.0 * np.pi * turns) * weights
