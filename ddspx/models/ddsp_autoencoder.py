"""The networks of DDSP: a decoder from control curves to a synth, an encoder of timbre.

    h_i = FcStack(c_i)                        one for each curve c_i (loudness, f0, z)
    r   = recurrence([h_1 ... h_n])
    out = W FcStack([h_1 ... h_n, r])         one part for each output of the synth

FcStack is Dense, LayerNorm, leaky ReLU, repeated. The encoder hears the MFCC:

    z = W recurrence(norm(mfcc)),   norm over the frames of a sound

Outputs are unbounded; the synth's ``to_controls`` makes amplitudes of them.

Reference: J. Engel et al., DDSP (ICLR 2020), and its code, version 3
(``decoders.RnnFcDecoder``, ``encoders.MfccTimeConstantRnnEncoder``).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ddspx.models.recurrence import GruLayer, ParallelRecurrence
from ddspx.types import AnyArray, RandomKey
from ddspx.units import hz_to_midi

# Keras's LayerNorm, TensorFlow's leaky ReLU, DDSP's instance norm.
_EPSILON, _SLOPE, _INSTANCE_EPSILON = 1e-3, 0.2, 1e-5
# Loudness from -80 dB to 0 dB is 0 to 1 for the network, as in DDSP.
_LOUDNESS_RANGE_DB = 80.0
LATENT = "z"


@dataclass(frozen=True)
class DecoderConfig:
    """What the networks are made of.

    Attributes:
      inputs: curves that drive the decoder, in the order of its stacks.
      channels: units of every stack.
      layers: of every stack; 0 feeds the curves to the recurrence as they are.
      recurrence: ``"gru"``, as published, one frame after the other; ``"parallel"``,
        linear in its state, all frames at once.
      units: of the recurrence.
      latents: of the encoder of timbre; 0 for a decoder alone.
      encoder_units: of the encoder's recurrence.
      coefficients: of the MFCC that it hears.
    """

    inputs: tuple[Literal["loudness_db", "f0_hz", "confidence"], ...] = (
        "loudness_db",
        "f0_hz",
    )
    channels: int = 512
    layers: int = 3
    recurrence: Literal["gru", "parallel"] = "gru"
    units: int = 512
    latents: int = 0
    encoder_units: int = 512
    coefficients: int = 30

    def __post_init__(self):
        least = {
            "channels": 1, "layers": 0, "units": 1, "latents": 0, "encoder_units": 1,
            "coefficients": 1,
        }  # fmt: skip
        for name, low in least.items():
            if getattr(self, name) < low:
                raise ValueError(f"{name} {getattr(self, name)} must be {low} or more")
        if not {"loudness_db", "f0_hz"} <= set(self.inputs):
            raise ValueError(
                f"inputs {self.inputs}: a decoder is driven by loudness_db and f0_hz at"
                " least"
            )

    @property
    def driven_by(self) -> tuple[str, ...]:
        """Inputs of the decoder, the latent curves included."""
        return (*self.inputs, LATENT) if self.latents else self.inputs


class Networks(NamedTuple):
    """Pure functions; weights go in and out as plain dictionaries.

    Attributes:
      init: ``(key) -> params``.
      decode: ``(params, curves, state=None) -> (outputs, state)``: curves by name
        [..., frames] in physical units, z [..., frames, latents]; outputs by name
        [..., frames, size]; the state of the recurrence behind the last frame.
      encode: ``(params, mfcc[..., frames, coefficients]) -> z[..., frames, latents]``;
        None without latents.
      sizes: of the outputs, by name.
    """

    init: Any
    decode: Any
    encode: Any
    sizes: Mapping[str, int]


def make_networks(config: DecoderConfig, sizes: Mapping[str, int]) -> Networks:
    """The networks for a synth.

    Args:
      config: their layers.
      sizes: of the outputs, by name: ``synth.sizes``.

    Returns:
      `Networks`.
    """
    names = config.driven_by
    decoder = _Decoder(config, sum(sizes.values()))
    encoder = _Encoder(config) if config.latents else None
    ends = np.cumsum(list(sizes.values()))[:-1]

    def init(key: RandomKey) -> Any:
        one, two = jax.random.split(key)
        widths = [config.latents if name == LATENT else 1 for name in names]
        empty = [jnp.zeros((1, 2, width)) for width in widths]
        params = {"decoder": decoder.init(one, empty)["params"]}
        if encoder is not None:
            heard = jnp.zeros((1, 2, config.coefficients))
            params["encoder"] = encoder.init(two, heard)["params"]
        return params

    def decode(params: Any, curves: Mapping[str, Any], state: Any = None) -> Any:
        missing = [name for name in names if name not in curves]
        if missing:
            raise ValueError(
                f"no curve for {', '.join(missing)}; the model is driven by"
                f" {', '.join(names)}, got {', '.join(curves) or 'none'}"
            )
        inputs = [network_unit(name, curves[name]) for name in names]
        out, state = decoder.apply({"params": params["decoder"]}, inputs, state)
        outputs = dict(zip(sizes, jnp.split(out, ends, -1), strict=True))
        return outputs, state

    def encode(params: Any, mfcc: Float[AnyArray, "*batch frames n"]) -> Any:
        assert encoder is not None
        return encoder.apply({"params": params["encoder"]}, mfcc)

    return Networks(init, decode, encode if config.latents else None, dict(sizes))


def network_unit(name: str, curve: Any) -> jax.Array:
    """A curve as the network reads it, features last.

        f0: MIDI note / 127,   loudness: dB / 80 + 1,   others as they are

    Args:
      name: of the curve.
      curve: [..., frames], physical; z [..., frames, latents].

    Returns:
      [..., frames, 1], or z as it is.
    """
    curve = jnp.asarray(curve)
    if name == LATENT:
        return curve
    if name == "f0_hz":
        curve = jnp.asarray(hz_to_midi(curve)) / 127.0
    elif name == "loudness_db":
        curve = curve / _LOUDNESS_RANGE_DB + 1.0
    return curve[..., None]


class _Stack(nn.Module):
    """Dense, LayerNorm, leaky ReLU, so many times."""

    channels: int
    layers: int

    @nn.compact
    def __call__(self, x):
        for i in range(self.layers):
            x = nn.Dense(self.channels, name=f"dense_{i}")(x)
            x = nn.LayerNorm(epsilon=_EPSILON, name=f"norm_{i}")(x)
            x = nn.leaky_relu(x, _SLOPE)
        return x


def _recurrence(config: DecoderConfig, units: int) -> Any:
    layer = GruLayer if config.recurrence == "gru" else ParallelRecurrence
    return layer(units, name="recurrence")


class _Decoder(nn.Module):
    config: DecoderConfig
    outputs: int

    @nn.compact
    def __call__(self, inputs, state=None):
        config = self.config
        stacks = [
            _Stack(config.channels, config.layers, name=f"input_{name}")(x)
            for name, x in zip(config.driven_by, inputs, strict=True)
        ]
        x, state = _recurrence(config, config.units)(jnp.concatenate(stacks, -1), state)
        x = jnp.concatenate([*stacks, x], -1)
        x = _Stack(config.channels, config.layers, name="output_stack")(x)
        return nn.Dense(self.outputs, name="output")(x), state


class _Encoder(nn.Module):
    config: DecoderConfig

    @nn.compact
    def __call__(self, mfcc):
        config = self.config
        mean = jnp.mean(mfcc, -2, keepdims=True)
        spread = jnp.var(mfcc, -2, keepdims=True)
        x = (mfcc - mean) * jax.lax.rsqrt(spread + _INSTANCE_EPSILON)
        shape = (config.coefficients,)
        scale = self.param("scale", nn.initializers.ones, shape)
        shift = self.param("shift", nn.initializers.zeros, shape)
        x = x * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(shift, x.shape)
        x, _ = _recurrence(config, config.encoder_units)(x)
        return nn.Dense(config.latents, name="output")(x)


def count_parameters(config: DecoderConfig, sizes: Mapping[str, int]) -> int:
    """Numbers that are trained, without a reverb.

    Args:
      config: of the networks.
      sizes: of the outputs.

    Returns:
      How many.
    """
    networks = make_networks(config, sizes)
    shapes = jax.eval_shape(networks.init, jax.random.key(0))
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(shapes))


def from_keras(weights: list[np.ndarray], config: DecoderConfig) -> dict[str, Any]:
    """Weights of DDSP's ``RnnFcDecoder`` as those of this decoder, with a GRU.

    Args:
      weights: its ``get_weights()``: for each stack kernel, bias, gamma and beta of
        each layer; kernel, recurrent kernel and bias of the GRU; the last stack; kernel
        and bias of the output. The order of its inputs is that of ``config.inputs``.
      config: of the decoder.

    Returns:
      ``params``.

    Raises:
      ValueError: more or fewer weights than the decoder has.
    """
    rest = list(weights)
    wanted = 4 * config.layers * (len(config.driven_by) + 1) + 5
    if len(rest) != wanted:
        raise ValueError(
            f"{len(rest)} arrays of weights; a decoder of {config.layers} layers a"
            f" stack and inputs {config.driven_by} has {wanted}"
        )

    def stack() -> dict[str, Any]:
        found: dict[str, Any] = {}
        for i in range(config.layers):
            kernel, bias, gamma, beta = (rest.pop(0) for _ in range(4))
            found[f"dense_{i}"] = {"kernel": kernel, "bias": bias}
            found[f"norm_{i}"] = {"scale": gamma, "bias": beta}
        return found

    def reset_first(array: np.ndarray) -> np.ndarray:
        # Keras has its gates in the order z, r, n.
        z, r, n = np.split(array, 3, -1)
        return np.concatenate([r, z, n], -1)

    decoder = {f"input_{name}": stack() for name in config.driven_by}
    kernel, own, bias = (reset_first(rest.pop(0)) for _ in range(3))
    decoder["recurrence"] = {
        "input": {"kernel": kernel, "bias": bias[0]},
        "hidden_kernel": own,
        "hidden_bias": bias[1],
    }
    decoder["output_stack"] = stack()
    decoder["output"] = {"kernel": rest.pop(0), "bias": rest.pop(0)}
    return {"decoder": decoder}
