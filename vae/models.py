"""Encoders and decoders of images [frames, bins], as pure functions.

Four architectures, chosen by `ModelConfig.architecture`:

* ``residual``: strided convolutions with residual blocks, GroupNorm and SiLU. Nothing
  depends on the rest of the batch. The one to use.
* ``plain``: convolution, ReLU, BatchNorm, as the faithful presets need; it carries
  statistics (``model_state``), stored ones at inference.
* ``mlp``: dense layers, for small outputs such as effect parameters.
* ``linear``: one matrix each way, whose optimum `vae.linear` knows.

Whatever the architecture, the last layers of the encoder are the dense ``mean`` and
``log_variance`` and the first of the decoder is the dense ``from_latent``, so that
`vae.prune` can take latents out of any model.
"""

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from vae.upsampling import transposed_convolution

Architecture = Literal["residual", "plain", "mlp", "linear"]
# Bounds of ln s^2: standard deviations of 1e-3 to 400.
_LOG_VARIANCE = (-14.0, 12.0)


@dataclass(frozen=True)
class ModelConfig:
    """What a VAE is made of.

    Attributes:
      architecture: see the module.
      latents: K.
      channels: of each level of convolutions, from the image inwards.
      strides: (frames, bins) of each level.
      decoder_channels: of the decoder's levels from within outwards, but for the last,
        which is the image; empty for those of the encoder in reverse.
      blocks: residual blocks a level.
      groups: of GroupNorm; lowered to a divisor of the channels.
      hidden: units of each dense layer of ``mlp``.
      linear_path: adds a linear model beside the convolutions: the image itself is
        among what ``mean`` and ``log_variance`` see, and the decoder's first layer also
        makes an image that is added to that of the convolutions, which is zero at the
        start: `vae.start`. For ``residual`` and ``plain``.
      linear_pool: the linear path sees and makes means of blocks of so many frames and
        bins instead of every pixel: large images would give it too many weights.
      linear_gain: what the linear path sees is multiplied by it: below 1 an update of
        Adam, which is as large for every weight, moves means of many pixels less.
      latent_relu: whether the decoder's first layer ends with a ReLU.
      output: ``"linear"``, or ``"sigmoid"`` for images in [0, 1].
    """

    architecture: Architecture = "residual"
    latents: int = 64
    channels: tuple[int, ...] = (32, 64, 96, 128)
    strides: tuple[tuple[int, int], ...] = ((2, 2), (2, 2), (2, 2), (2, 2))
    decoder_channels: tuple[int, ...] = ()
    blocks: int = 1
    groups: int = 8
    hidden: tuple[int, ...] = (256, 256)
    linear_path: bool = False
    linear_pool: tuple[int, int] = (1, 1)
    linear_gain: float = 1.0
    latent_relu: bool = False
    output: Literal["linear", "sigmoid"] = "linear"

    def __post_init__(self):
        if self.architecture not in ("residual", "plain", "mlp", "linear"):
            raise ValueError(
                f"architecture {self.architecture!r} is unknown; choose residual,"
                " plain, mlp or linear"
            )
        if self.latents < 1:
            raise ValueError(f"latents {self.latents} must be 1 or more")
        if len(self.channels) != len(self.strides) or not self.channels:
            raise ValueError(
                f"channels {self.channels} and strides {self.strides} must name the"
                " same levels, one at least"
            )
        if len(self.decoder_channels) not in (0, len(self.channels) - 1):
            raise ValueError(
                f"decoder_channels {self.decoder_channels} must name"
                f" {len(self.channels) - 1} levels, or none"
            )
        if min(self.linear_pool) < 1:
            raise ValueError(f"linear_pool {self.linear_pool} must be 1 or more")
        if not self.linear_gain > 0:
            raise ValueError(f"linear_gain {self.linear_gain} must be positive")


class Vae(NamedTuple):
    """A model; weights go in and out as plain dictionaries.

    Attributes:
      init: ``(key) -> (params, model_state)``; the latter is ``{}`` without BatchNorm.
      forward: ``(params, model_state, images[batch, frames, bins], key) -> (Pass,
        model_state)``, as in training: statistics of the batch, one sampled code each.
      encode: ``(params, model_state, images[..., frames, bins]) -> (mean,
        log_variance)``, each [..., latents]; deterministic, image by image.
      decode: ``(params, model_state, codes[..., latents]) -> images``; the same.
      shape: (frames, bins).
      latents: K.
    """

    init: Any
    forward: Any
    encode: Any
    decode: Any
    shape: tuple[int, int]
    latents: int


class Pass(NamedTuple):
    """What one pass gives: mean, log_variance, codes [batch, latents], and images."""

    mean: jax.Array
    log_variance: jax.Array
    codes: jax.Array
    images: jax.Array


def make_vae(config: ModelConfig, shape: tuple[int, int]) -> Vae:
    """A model for images of one size.

    Args:
      config: architecture and sizes.
      shape: (frames, bins).

    Returns:
      A `Vae`.
    """
    encoder, decoder = Encoder(config), Decoder(config, shape)

    def init(key):
        first, second = jax.random.split(key)
        image = jnp.zeros((1, *shape))
        codes = jnp.zeros((1, config.latents))
        both = {
            "encoder": encoder.init(first, image, False),
            "decoder": decoder.init(second, codes, False),
        }
        params = {name: variables["params"] for name, variables in both.items()}
        state = {
            name: variables["batch_stats"]
            for name, variables in both.items()
            if "batch_stats" in variables
        }
        return params, state

    def apply(
        module: nn.Module, name: str, params: Any, state: Any, inputs: Any, train: bool
    ) -> tuple[Any, Any]:
        variables = {"params": params[name]}
        if name not in state:
            return module.apply(variables, inputs, train), state
        variables["batch_stats"] = state[name]
        if not train:
            return module.apply(variables, inputs, train), state
        found, updated = module.apply(variables, inputs, train, mutable=["batch_stats"])
        return found, {**state, name: updated["batch_stats"]}

    def forward(params, state, images, key):
        (mean, log_variance), state = apply(
            encoder, "encoder", params, state, images, True
        )
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        codes = mean + jnp.exp(0.5 * log_variance) * noise
        images, state = apply(decoder, "decoder", params, state, codes, True)
        return Pass(mean, log_variance, codes, images), state

    def encode(params, state, images):
        images = jnp.asarray(images)
        lead = images.shape[:-2]
        flat = images.reshape(-1, *images.shape[-2:])
        found, _ = apply(encoder, "encoder", params, state, flat, False)
        return tuple(value.reshape(*lead, -1) for value in found)

    def decode(params, state, codes):
        codes = jnp.asarray(codes)
        flat = codes.reshape(-1, codes.shape[-1])
        found, _ = apply(decoder, "decoder", params, state, flat, False)
        return found.reshape(*codes.shape[:-1], *shape)

    return Vae(init, forward, encode, decode, shape, config.latents)


class Encoder(nn.Module):
    """Images [batch, frames, bins] to (mean, log_variance), each [batch, latents]."""

    config: ModelConfig

    @nn.compact
    def __call__(self, images, train: bool):
        """See the class."""
        config = self.config
        hidden = images.reshape(len(images), -1)
        if config.architecture == "mlp":
            for size in config.hidden:
                hidden = nn.silu(nn.Dense(size)(hidden))
        elif config.architecture != "linear":
            hidden = images[..., None]
            for channels, stride in zip(config.channels, config.strides, strict=True):
                hidden = _down(config, hidden, channels, stride, train)
            hidden = hidden.reshape(len(images), -1)
            if config.linear_path:
                seen = config.linear_gain * pool(images, config.linear_pool)
                hidden = jnp.concatenate([hidden, seen.reshape(len(images), -1)], -1)
        mean = nn.Dense(config.latents, name="mean")(hidden)
        # A small start: all posteriors near the prior's width.
        log_variance = nn.Dense(
            config.latents,
            name="log_variance",
            kernel_init=nn.initializers.variance_scaling(0.01, "fan_in", "normal"),
        )(hidden)
        return mean, jnp.clip(log_variance, *_LOG_VARIANCE)


class Decoder(nn.Module):
    """Codes [batch, latents] to images [batch, frames, bins]."""

    config: ModelConfig
    shape: tuple[int, int]

    @nn.compact
    def __call__(self, codes, train: bool):
        """See the class."""
        config = self.config
        if config.architecture in ("mlp", "linear"):
            sizes = config.hidden[::-1] if config.architecture == "mlp" else ()
            hidden = codes
            for index, size in enumerate((*sizes, math.prod(self.shape))):
                name = None if index else "from_latent"
                hidden = nn.Dense(size, name=name)(hidden)
                hidden = nn.silu(hidden) if index < len(sizes) else hidden
            return _finish(config, hidden.reshape(-1, *self.shape))
        sizes = level_sizes(self.shape, config.strides)
        inner = (*sizes[-1], config.channels[-1])
        size = math.prod(inner)
        blocks = level_sizes(self.shape, (config.linear_pool,))[-1]
        direct = math.prod(blocks) if config.linear_path else 0
        hidden = nn.Dense(size + direct, name="from_latent")(codes)
        hidden, straight = hidden[:, :size], hidden[:, size:]
        hidden = nn.relu(hidden) if config.latent_relu else hidden
        hidden = hidden.reshape(-1, *inner)
        targets = zip(
            (*(config.decoder_channels or config.channels[-2::-1]), 1),
            config.strides[::-1],
            sizes[-2::-1],
            strict=True,
        )
        for channels, stride, size in targets:
            hidden = _up(config, hidden, channels, stride, size, train)
        images = hidden[..., 0]
        if config.linear_path:
            straight = straight.reshape(-1, *blocks)
            images = images + unpool(straight, config.linear_pool, self.shape)
        return _finish(config, images)


def level_sizes(
    shape: tuple[int, int], strides: tuple[tuple[int, int], ...]
) -> list[tuple[int, int]]:
    """Sizes of the image at every level, the image itself first."""
    sizes = [shape]
    for rows, columns in strides:
        frames, bins = sizes[-1]
        sizes.append((-(-frames // rows), -(-bins // columns)))
    return sizes


def pool(images: jax.Array, size: tuple[int, int]) -> jax.Array:
    """Means over blocks of an image, each times the root of the pixels in its block.

    That makes the blocks coordinates: squares over them are squares over the image that
    `unpool` makes, the nearest of those that are flat in every block.

    Args:
      images: [batch, frames, bins].
      size: frames and bins of a block; the last ones may have fewer.

    Returns:
      [batch, blocks in time, blocks in frequency].
    """
    if size == (1, 1):
        return images
    batch, *shape = images.shape
    rows, columns = level_sizes((shape[0], shape[1]), (size,))[-1]
    missing = rows * size[0] - shape[0], columns * size[1] - shape[1]
    padded = jnp.pad(images, [(0, 0), (0, missing[0]), (0, missing[1])])
    sums = padded.reshape(batch, rows, size[0], columns, size[1]).sum((2, 4))
    return sums / _roots((shape[0], shape[1]), size)


def unpool(
    blocks: jax.Array, size: tuple[int, int], shape: tuple[int, int]
) -> jax.Array:
    """The image that is flat in every block: transpose of `pool`.

    Args:
      blocks: [batch, blocks in time, blocks in frequency].
      size: as given to `pool`.
      shape: frames and bins of the image.

    Returns:
      [batch, frames, bins].
    """
    if size == (1, 1):
        return blocks
    levels = blocks / _roots(shape, size)
    wide = jnp.repeat(jnp.repeat(levels, size[0], 1), size[1], 2)
    return wide[:, : shape[0], : shape[1]]


def _roots(shape: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """Roots of the number of pixels in each block, [1, rows, columns]."""
    counts = [
        np.minimum(step, length - np.arange(0, length, step))
        for length, step in zip(shape, size, strict=True)
    ]
    return np.sqrt(np.outer(*counts)).astype(np.float32)[None]


def _finish(config: ModelConfig, images: jax.Array) -> jax.Array:
    return nn.sigmoid(images) if config.output == "sigmoid" else images


def _down(config, hidden, channels, stride, train):
    if config.architecture == "plain":
        # As PyTorch pads by one where the size is odd, as TensorFlow where it is even.
        hidden = nn.Conv(channels, (3, 3), stride, padding="SAME")(hidden)
        return nn.BatchNorm(not train, momentum=0.9)(nn.relu(hidden))
    # A kernel as wide as two strides sees every pixel equally often.
    kernel = tuple(max(3, 2 * step) for step in stride)
    hidden = nn.Conv(channels, kernel, stride)(hidden)
    return _blocks(config, hidden, channels)


def _up(config, hidden, channels, stride, size, train):
    last = channels == 1
    if config.architecture == "plain":
        # Undoes the convolution that went down: the same pixels meet the same taps.
        skip = [
            min(1, n * s - m)
            for n, s, m in zip(hidden.shape[1:3], stride, size, strict=True)
        ]
        hidden = TransposedConvolution(channels, stride)(hidden, train)
        hidden = hidden[:, skip[0] : skip[0] + size[0], skip[1] : skip[1] + size[1]]
        return (
            hidden if last else nn.BatchNorm(not train, momentum=0.9)(nn.relu(hidden))
        )
    hidden = nn.silu(_norm(config, hidden))
    silent = last and config.linear_path
    init = nn.initializers.zeros if silent else nn.initializers.lecun_normal()
    # A convolution of the small image makes all pixels that come of each of its own: on
    # a CPU the gradient of a transposed convolution costs several times as much.
    hidden = nn.Conv(channels * math.prod(stride), (3, 3), kernel_init=init)(hidden)
    hidden = _spread(hidden, stride)
    hidden = hidden[:, : size[0], : size[1]]
    return hidden if last else _blocks(config, hidden, channels)


class TransposedConvolution(nn.Module):
    """A 3 x 3 transposed convolution, as ``flax.linen.ConvTranspose`` with ``SAME``.

    [batch, rows, columns, channels] to [batch, rows s, columns t, features] for strides
    (s, t) of 1 or 2; the same parameters, initialisation and values. In training its
    gradient is that of `transposed_convolution`; elsewhere it is XLA's, which has a
    forward mode as well.
    """

    features: int
    strides: tuple[int, int]

    @nn.compact
    def __call__(self, images, train: bool):
        """See the class."""
        shape = (3, 3, images.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        if train:
            made = transposed_convolution(images, kernel, self.strides)
        else:
            made = jax.lax.conv_transpose(
                images,
                kernel,
                self.strides,
                "SAME",
                dimension_numbers=("NHWC", "HWIO", "NHWC"),
            )
        return jnp.asarray(made) + bias[None, None, None]


def _spread(hidden: jax.Array, stride: tuple[int, int]) -> jax.Array:
    """Channels of a pixel to the ``stride`` pixels that it becomes."""
    batch, rows, columns, channels = hidden.shape
    split = hidden.reshape(batch, rows, columns, *stride, channels // math.prod(stride))
    moved = split.transpose(0, 1, 3, 2, 4, 5)
    return moved.reshape(batch, rows * stride[0], columns * stride[1], -1)


def _blocks(config, hidden, channels):
    for _ in range(config.blocks):
        inner = nn.Conv(channels, (3, 3))(nn.silu(_norm(config, hidden)))
        # Each block starts as the identity.
        inner = nn.Conv(channels, (3, 3), kernel_init=nn.initializers.zeros)(
            nn.silu(_norm(config, inner))
        )
        hidden = hidden + inner
    return hidden


def _norm(config, hidden):
    return nn.GroupNorm(math.gcd(config.groups, hidden.shape[-1]))(hidden)
