"""Sound from a trained VAE: reconstruct, sample, interpolate, traverse.

    python scripts/generate.py RUN --out DIR --reconstruct FILE
    python scripts/generate.py RUN --out DIR --sample 8 --seed 1
    python scripts/generate.py RUN --out DIR --interpolate FROM TO --steps 7
    python scripts/generate.py RUN --out DIR --traverse --latents 5 0 12 --base FILE

RUN is a folder that `train.py vae` wrote. Each of the four writes .wav files, mono at
the model's rate, and one .png of the images; several may be asked for at once. A
recording longer than an example is reconstructed in halves that overlap; the other
three take its start. The same command gives the same bytes. Bad input: one line, exit
code 2.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import compiler
import jax
import jax.numpy as jnp
import numpy as np
import tyro

from ddspx import audio, plotting
from vae.pictures import image_grid
from vae.run import Image, LoadedVae, decode_audio, encode_audio, load_vae
from vae.spectrogram import Normalization

# Examples decoded at once, so that memory does not grow with the recording.
_AT_ONCE = 8
_GAP_S = 0.15


@dataclass(frozen=True)
class Arguments:
    """Command line of generate.py."""

    run: tyro.conf.Positional[Path]
    """Run folder of a trained VAE."""
    out: Path
    """Folder to write."""
    reconstruct: Path | None = None
    """A recording to encode and decode."""
    sample: int = 0
    """How many draws of the prior to decode."""
    interpolate: tuple[Path, Path] | None = None
    """Two recordings, between whose codes a straight line is drawn."""
    traverse: bool = False
    """Move one latent after the other, the rest held at the base."""
    base: Path | None = None
    """Recording whose code a traversal starts from; the prior's mean without it."""
    latents: tuple[int, ...] = ()
    """Latents to traverse, in this order; all, by index, when none is named."""
    steps: int = 5
    """Steps of an interpolation or of a traversed latent."""
    span: float = 2.0
    """A traversal goes from minus to plus this, in deviations of the prior."""
    phase: Literal["kept", "found"] = "kept"
    """Of a reconstruction: the recording's, or one found by Griffin-Lim."""
    iterations: int = 64
    """Of Griffin-Lim."""
    which: Literal["best", "last"] = "best"
    """Checkpoint."""
    seed: int = 0
    """Of samples."""
    overwrite: bool = False
    """Replace existing output."""


def main(arguments: list[str] | None = None) -> int:
    """Checks, loads, writes; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        _check(options)
        loaded = load_vae(options.run, options.which)
        _check_latents(options, loaded)
        options.out.mkdir(parents=True, exist_ok=True)
        if options.reconstruct is not None:
            _reconstruct(options, loaded, options.reconstruct)
        if options.sample:
            _sample(options, loaded)
        if options.interpolate is not None:
            _interpolate(options, loaded, options.interpolate)
        if options.traverse:
            _traverse(options, loaded)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"generate.py: {error}", file=sys.stderr)
        return 2
    return 0


def _check(options: Arguments) -> None:
    asked = (options.reconstruct, options.interpolate)
    if not (any(asked) or options.sample or options.traverse):
        raise ValueError(
            "nothing to do: give --reconstruct, --sample, --interpolate or --traverse"
        )
    if options.sample < 0 or options.steps < 2 or options.iterations < 1:
        raise ValueError(
            f"--sample {options.sample} must be 0 or more, --steps {options.steps} 2 or"
            f" more and --iterations {options.iterations} 1 or more"
        )
    if (options.latents or options.base) and not options.traverse:
        raise ValueError("--latents and --base belong to --traverse")


def _check_latents(options: Arguments, loaded: LoadedVae) -> None:
    wrong = [i for i in options.latents if not 0 <= i < loaded.vae.latents]
    if wrong:
        raise ValueError(
            f"--latents {wrong}: the model has latents 0 to {loaded.vae.latents - 1}"
        )


def _reconstruct(options: Arguments, loaded: LoadedVae, path: Path) -> None:
    front = loaded.config.front
    sound = audio.load(path, sample_rate=front.sample_rate, channels=1).samples[0]
    length, hop = front.samples, (front.samples + 1) // 2
    if sound.size == 0:
        raise ValueError(f"{path}: holds no samples")
    count = 1 if sound.size <= length else 1 + -(-(sound.size - length) // hop)
    padded = np.pad(sound, (0, (count - 1) * hop + length - sound.size))
    pieces = np.stack([padded[i * hop : i * hop + length] for i in range(count)])
    made: list[np.ndarray] = []
    images = seen = np.zeros((0, *loaded.vae.shape))
    for start in range(0, count, _AT_ONCE):
        code = encode_audio(loaded, jnp.asarray(pieces[start : start + _AT_ONCE]))
        sounds = decode_audio(
            loaded,
            code.mean,
            code.source,
            keep_phase=options.phase == "kept",
            iterations=options.iterations,
        )
        made.append(np.asarray(sounds))
        if start == 0:
            decoded = loaded.vae.decode(loaded.params, loaded.model_state, code.mean)
            images, seen = np.asarray(decoded)[:4], np.asarray(code.source.image)[:4]
    # Pieces fade into each other where they overlap.
    ramp = np.minimum(np.arange(length) + 0.5, length - np.arange(length) - 0.5)
    whole, weight = np.zeros(padded.size), np.zeros(padded.size)
    for index, piece in enumerate(np.concatenate(made)):
        place = slice(index * hop, index * hop + length)
        whole[place] += ramp * piece
        weight[place] += ramp
    result = (whole / weight)[: sound.size].astype(np.float32)
    _write(options, "input", [sound], front.sample_rate)
    _write(options, "reconstruction", [result], front.sample_rate)
    named = {f"input {i}": image for i, image in enumerate(seen)}
    named |= {f"reconstruction {i}": image for i, image in enumerate(images)}
    _picture(options, "reconstruction", named, loaded, columns=len(seen))
    print(f"mean square error of the images {np.mean(np.square(images - seen)):.4g}")


def _sample(options: Arguments, loaded: LoadedVae) -> None:
    key = jax.random.key(options.seed)
    codes = jax.random.normal(key, (options.sample, loaded.vae.latents))
    sounds, images = _decode(options, loaded, codes)
    for index, sound in enumerate(sounds):
        _write(options, f"sample_{index}", [sound], loaded.config.front.sample_rate)
    named = {f"sample {i}": image for i, image in enumerate(images)}
    _picture(options, "samples", named, loaded, columns=4)


def _interpolate(
    options: Arguments, loaded: LoadedVae, paths: tuple[Path, Path]
) -> None:
    ends = jnp.asarray(np.stack([_start(path, loaded) for path in paths]))
    code = encode_audio(loaded, ends)
    share = jnp.linspace(0.0, 1.0, options.steps)

    def line(ends: Any) -> jax.Array:
        pair = jnp.asarray(ends)
        weights = jnp.stack([1.0 - share, share], 1)
        flat = jnp.matmul(weights, pair.reshape(2, -1), precision="highest")
        return flat.reshape(options.steps, *pair.shape[1:])

    source = code.source._replace(
        normalization=Normalization(*(line(v) for v in code.source.normalization)),
        gain=jnp.exp(line(jnp.log(code.source.gain))),
    )
    sounds, images = _decode(options, loaded, line(code.mean), source)
    for index, sound in enumerate(sounds):
        name = f"interpolation_{index}"
        _write(options, name, [sound], loaded.config.front.sample_rate)
    named = {f"{100 * float(s):.0f} %": i for s, i in zip(share, images, strict=True)}
    _picture(options, "interpolation", named, loaded, columns=options.steps)


def _traverse(options: Arguments, loaded: LoadedVae) -> None:
    order = options.latents or tuple(range(loaded.vae.latents))
    centre, source = jnp.zeros(loaded.vae.latents), None
    if options.base is not None:
        code = encode_audio(loaded, jnp.asarray(_start(options.base, loaded))[None])
        centre, source = code.mean[0], code.source
    values = np.linspace(-options.span, options.span, options.steps)
    named = {}
    for place, latent in enumerate(order):
        codes = jnp.tile(centre[None], (options.steps, 1))
        codes = codes.at[:, latent].set(jnp.asarray(values, codes.dtype))
        sounds, images = _decode(options, loaded, codes, source)
        name = f"traversal_{place:03d}_latent_{latent}"
        _write(options, name, sounds, loaded.config.front.sample_rate)
        named |= {
            f"latent {latent}: {value:+.2g}": image
            for value, image in zip(values, images, strict=True)
        }
    _picture(options, "traversal", named, loaded, columns=options.steps)


def _start(path: Path, loaded: LoadedVae) -> np.ndarray:
    front = loaded.config.front
    found = audio.load(path, sample_rate=front.sample_rate, channels=1).samples[0]
    if found.size == 0:
        raise ValueError(f"{path}: holds no samples")
    found = found[: front.samples]
    return np.pad(found, (0, front.samples - found.size))


def _decode(
    options: Arguments,
    loaded: LoadedVae,
    codes: jax.Array,
    source: Image | None = None,
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Sounds and images of codes; phases are found."""
    sounds: list[np.ndarray] = []
    images: list[np.ndarray] = []
    for start in range(0, len(codes), _AT_ONCE):
        some = codes[start : start + _AT_ONCE]
        given = source
        if source is not None:
            rows = slice(start, start + len(some))
            alone = len(source.gain) == 1
            given = source._replace(
                normalization=Normalization(
                    *(v if alone else v[rows] for v in source.normalization)
                ),
                gain=source.gain if alone else source.gain[rows],
            )
        sounds += list(
            np.asarray(decode_audio(loaded, some, given, iterations=options.iterations))
        )
        decoded = loaded.vae.decode(loaded.params, loaded.model_state, some)
        images += list(np.asarray(decoded))
    return sounds, images


def _write(
    options: Arguments, name: str, sounds: Sequence[np.ndarray], sample_rate: int
) -> None:
    """One file; several sounds one after the other."""
    gap = np.zeros(round(_GAP_S * sample_rate), np.float32)
    parts = [part for sound in sounds for part in (sound, gap)][:-1]
    path = options.out / f"{name}.wav"
    joined = np.concatenate(parts)[None].astype(np.float32)
    audio.save(path, joined, sample_rate, overwrite=options.overwrite)
    print(path)


def _picture(
    options: Arguments,
    name: str,
    images: dict[str, np.ndarray],
    loaded: LoadedVae,
    *,
    columns: int,
) -> None:
    path = options.out / f"{name}.png"
    figure = image_grid(images, loaded.config.front, columns=columns)
    plotting.save(figure, path, overwrite=options.overwrite)
    print(path)


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
