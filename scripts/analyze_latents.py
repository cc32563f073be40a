"""How much each latent of a trained VAE matters to its output, and how many to keep.

    python scripts/analyze_latents.py RUN --out DIR --data MANIFEST_OR_FOLDER
        [--output levels] [--only 'digits/*'] [--seconds 240]
    python scripts/analyze_latents.py RUN --out DIR --data DATA --prune 12
        [--fine-tune 200] [--retrain 3]

RUN is a folder that `train.py vae` wrote, or a controller with latents: a folder of
`train.py decoder` or its decoder.npz. A controller's latents are judged by the sound of
its effect, or by its controls (--output). DIR gets report.md, analysis.json, figures,
and traversals: sounds that move one latent from -2 to +2 deviations, matched in
loudness, the most important first. Latents are judged on recordings that were not
trained on. --prune K keeps the K most important (0: as many as --rule proposes) and
writes DIR/pruned, a run folder like any other, with the table that verifies it;
--fine-tune trains it on, --retrain trains others of that size from scratch to compare.
Bad input: one line, exit code 2.
"""

import dataclasses
import sys
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

import compiler
import controller_latents
import jax
import jax.numpy as jnp
import latent_report
import numpy as np
import tyro
from traversals import write_traversals

from ddspx.data.manifest import Clip, load_collection
from ddspx.data.split import assign_splits, select
from ddspx.training.checkpoint import restore_params
from vae.analysis import AnalysisOptions, Distribution, analyze
from vae.examples import load_examples
from vae.findings import Analysis
from vae.jacobian import subspace_axes
from vae.outputs import Output, decoder_output, level_output
from vae.preflight import preflight
from vae.prune import rotate
from vae.pruned import Verified, disagreement, pruned_model, save_model, verify
from vae.run import LoadedVae, load_vae, to_image
from vae.size import Rule
from vae.training import fine_tuning, retraining, trained

_AT_ONCE = 16
# Numbers in the images that the spectrum of the data is taken from.
_SPECTRUM = 1 << 28


@dataclass(frozen=True)
class Arguments:
    """Command line of analyze_latents.py."""

    run: tyro.conf.Positional[Path]
    """Run folder of a trained VAE."""
    out: Path
    """Folder to write; new or empty."""
    data: Path | None = None
    """Manifest or folder of recordings; the practice corpus beside RUN without it."""
    only: str | None = None
    """Take recordings whose path matches, such as 'digits/*'."""
    split: Literal["valid", "test"] = "valid"
    """Recordings that latents are judged on."""
    output: Literal["levels", "decoder", "sound", "controls"] | None = None
    """What counts: levels in dB, or the decoder's normalised image; of a controller the
    sound of its effect, or its controls. The first of each by default."""
    codes: Distribution | None = None
    """Distribution of codes: product, aggregate, means or prior. By default product,
    and means of a controller, which goes by the means alone."""
    examples: int = 512
    """Held-out examples, at most."""
    seconds: float = 240.0
    """About how long the analysis may take: fewer pairs for dearer models."""
    fidelity: float = 0.95
    """Share of the output's variance that the proposal keeps."""
    audible: float | None = None
    """Rms change, in the output's unit, that counts as none; 0.5, and 0.02 of the range
    of a controller's controls, by default."""
    traversals: int = 8
    """Latents to make traversal sounds of."""
    prune: int | None = None
    """Latents to keep in a smaller model; 0 for the proposal."""
    rule: Rule = "fidelity"
    """Whose proposal --prune 0 takes."""
    rotate: bool = False
    """Turn the axes to the active subspace first, then prune; needs --fine-tune."""
    fine_tune: int = 0
    """Steps to train the smaller model on."""
    retrain: int = 0
    """Models of the smaller size to train from scratch beside it, one a seed."""
    which: Literal["best", "last"] = "best"
    """Checkpoint."""
    seed: int = 0
    """Of all draws."""


def main(arguments: list[str] | None = None) -> int:
    """Checks, analyses, writes; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        if options.out.exists() and any(options.out.iterdir()):
            raise ValueError(f"{options.out} is not empty; name a new folder")
        for name in ("rotate", "fine_tune", "retrain"):
            if getattr(options, name) and options.prune is None:
                raise ValueError(
                    f"--{name.replace('_', '-')} is about a pruned model; give --prune"
                )
        if options.rotate and not options.fine_tune:
            raise ValueError(
                "--rotate leaves the posterior's variances to be trained again; give"
                " --fine-tune STEPS"
            )
        if controller_latents.is_controller(options.run):
            _analyse_controller(options)
            return 0
        if options.output in ("sound", "controls"):
            raise ValueError(f"--output {options.output} is about a controller")
        loaded = load_vae(options.run, options.which)
        if options.prune is not None and not 0 <= options.prune <= loaded.vae.latents:
            raise ValueError(
                f"--prune {options.prune}: the model has {loaded.vae.latents} latents"
            )
        run(options, loaded)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"analyze_latents.py: {error}", file=sys.stderr)
        return 2
    return 0


def _analyse_controller(options: Arguments) -> None:
    for name in ("rotate", "fine_tune", "retrain"):
        if getattr(options, name):
            raise ValueError(
                f"--{name.replace('_', '-')} is about a VAE; a pruned controller is"
                " trained on by train.py"
            )
    if options.output not in (None, "sound", "controls"):
        raise ValueError(
            f"--output {options.output}: of a controller take sound or controls"
        )
    controller_latents.analyse(
        controller_latents.Wishes(
            run=options.run,
            out=options.out,
            output="controls" if options.output == "controls" else "sound",
            examples=options.examples,
            seconds=options.seconds,
            traversals=options.traversals,
            prune=options.prune,
            rule=options.rule,
            split=options.split,
            seed=options.seed,
        ),
        _clips(options),
        analysis_options(options, "means"),
    )


def run(
    options: Arguments, loaded: LoadedVae, clips: tuple[Clip, ...] | None = None
) -> Analysis:
    """Analyses a model and writes the folder; `clips` instead of those of --data."""
    config = loaded.config
    clips = _clips(options) if clips is None else clips
    held_out = load_examples(
        config, select(clips, options.split), most=options.examples
    )
    most = max(_SPECTRUM // config.front.elements, 64)
    training = load_examples(config, select(clips, "train"), most=min(most, 1000))
    images = _images(loaded, held_out.audio)
    mean, log_variance = _encoded(loaded, images)
    codes = mean, log_variance
    tau = water_level_of(options, loaded, images, codes)
    told = preflight(_images(loaded, training.audio), loaded.vae.latents, tau)
    print(told.sentence())
    output = _output(options, loaded)
    squared_error = _squared_error(loaded, images)
    found = analyze(
        mean,
        log_variance,
        output,
        squared_error=squared_error,
        tau=tau,
        preflight=told,
        options=latent_report.within(
            analysis_options(options, "product"),
            output,
            loaded.vae.latents,
            options.seconds,
        ),
    )
    print(found.advice)
    for words in found.warnings:
        print(f"mind: {words}")
    options.out.mkdir(parents=True, exist_ok=True)
    table: list[Verified] = []
    notes: list[str] = []
    if options.prune is not None:
        table, notes = _prune(options, loaded, found, clips, images, codes, tau)
    sounds = write_traversals(
        loaded, found.order[: options.traversals], held_out.audio, codes, options.out
    )
    pictures = {"One latent moved, the rest as they are": "traversals.png"}
    latent_report.write(
        options.out,
        options.run,
        found,
        told,
        table=table,
        notes=notes,
        sounds=sounds,
        pictures=pictures if sounds else {},
    )
    return found


def analysis_options(options: Arguments, codes: Distribution) -> AnalysisOptions:
    """What the command line says of how closely to look; `codes` where it is silent."""
    usual = 0.02 if options.output == "controls" else 0.5
    return AnalysisOptions(
        options.codes or codes,
        fidelity=options.fidelity,
        audible=usual if options.audible is None else options.audible,
        seed=options.seed,
    )


def water_level_of(
    options: Arguments,
    loaded: LoadedVae,
    images: np.ndarray,
    codes: tuple[np.ndarray, np.ndarray],
) -> float | None:
    """The tau that the model was trained to, wherever it comes from.

    Args:
      options: command line.
      loaded: trained model.
      images: held-out.
      codes: mean and log-variance of their posterior.

    Returns:
      tau; None for a capacity, which has no fixed one.
    """
    objective = loaded.config.objective
    if objective.kind == "capacity":
        return None
    if objective.kind == "geco":
        part = ("extra", "geco", "log_multiplier")
        multiplier = restore_params(options.run, part, which=options.which)
        return 0.5 * float(np.exp(-np.asarray(multiplier)))
    if objective.variance == "learned":
        level = loaded.params["output"]["log_variance"]
        return objective.kl_weight * float(np.exp(np.asarray(level)))
    if objective.variance == "optimal":
        mean, log_variance = codes
        noise = np.random.default_rng(options.seed).normal(size=mean.shape)
        drawn = mean + np.exp(0.5 * log_variance) * noise
        rows = np.arange(len(images))
        error = _squared_error(loaded, images)
        squares = [
            error(drawn[k : k + _AT_ONCE].astype(np.float32), rows[k : k + _AT_ONCE])
            for k in range(0, len(images), _AT_ONCE)
        ]
        each = float(np.mean(np.concatenate(squares))) / loaded.config.front.elements
        return objective.kl_weight * each
    return loaded.config.tau


def _clips(options: Arguments) -> tuple[Clip, ...]:
    data = options.run.parent / "practice" if options.data is None else options.data
    clips = load_collection(data).clips
    if options.only is not None:
        clips = tuple(clip for clip in clips if fnmatch(clip.path, options.only))
        if not clips:
            raise ValueError(f"--only {options.only!r} matches no recording of {data}")
    return clips if any(clip.split for clip in clips) else assign_splits(clips)


def _images(loaded: LoadedVae, sounds: np.ndarray) -> np.ndarray:
    image = jax.jit(lambda sound: to_image(loaded.config, sound).image)
    parts = [
        np.asarray(image(jnp.asarray(sounds[k : k + _AT_ONCE])))
        for k in range(0, len(sounds), _AT_ONCE)
    ]
    return np.concatenate(parts)


def _encoded(loaded: LoadedVae, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    parts = [
        loaded.vae.encode(loaded.params, loaded.model_state, images[k : k + _AT_ONCE])
        for k in range(0, len(images), _AT_ONCE)
    ]
    mean, log_variance = zip(*parts, strict=True)
    return np.concatenate(mean), np.concatenate(log_variance)


def _output(options: Arguments, loaded: LoadedVae) -> Output:
    def decode(codes):
        return loaded.vae.decode(loaded.params, loaded.model_state, codes)

    if options.output == "decoder":
        return decoder_output(decode, loaded.vae.shape, loaded.config.front)
    return level_output(decode, loaded.config.front)


def _squared_error(loaded: LoadedVae, images: np.ndarray) -> Any:
    @jax.jit
    def distance(codes, targets):
        made = loaded.vae.decode(loaded.params, loaded.model_state, codes)
        return jnp.sum(jnp.square(made - targets), (1, 2))

    return lambda codes, rows: np.asarray(distance(codes, images[rows]))


def _prune(
    options: Arguments,
    loaded: LoadedVae,
    found: Analysis,
    clips: tuple[Clip, ...],
    images: np.ndarray,
    codes: tuple[np.ndarray, np.ndarray],
    tau: float | None,
) -> tuple[list[Verified], list[str]]:
    """Writes DIR/pruned and verifies it, with DIR/retrained_* beside it if asked."""
    assert options.prune is not None
    keep = options.prune or max(found.proposal(options.rule).keep, 1)
    table = [verify("full", loaded, images, tau)]
    order, held = found.order, codes[0].mean(0)
    if options.rotate:
        loaded, held = _rotated(options, loaded, codes)
        order = tuple(range(loaded.vae.latents))
    kept = sorted(order[:keep])
    dropped = np.setdiff1d(np.arange(loaded.vae.latents), kept)
    small = pruned_model(loaded, np.asarray(kept), held)
    table += [
        verify("clamped", loaded, images, tau, held=held, dropped=dropped),
        verify("pruned", small, images, tau, keep=kept),
    ]
    apart = disagreement(loaded, small, images, np.asarray(kept), held)
    folder = options.out / "pruned"
    config = small.config
    if options.fine_tune:
        config = fine_tuning(config, options.fine_tune)
    save_model(folder, small, options.run, kept, config)
    axes = "directions of the active subspace" if options.rotate else "latents"
    notes = [
        f"`pruned/` keeps {axes} {', '.join(map(str, kept))}. Pruned and clamped agree"
        f" to {apart:.2g} in the decoder's image."
    ]
    if options.rotate:
        notes.append(
            "Axes were turned before pruning: means are exact, and the posterior's"
            " variances, which no longer lie along axes, are to be trained again."
        )
    training = _trained_on(options, clips)
    if options.fine_tune:
        tuned = trained(config, folder, training, most_held_out=256)
        name = f"fine-tuned {options.fine_tune}"
        table.append(verify(name, tuned, images, tau, keep=kept))
    for seed in range(options.retrain):
        again = retraining(loaded.config, keep, seed)
        folder = options.out / f"retrained_{seed}"
        model = trained(again, folder, training, most_held_out=256)
        name = f"retrained, seed {again.fit.seed}"
        table.append(verify(name, model, images, tau))
    notes += costs(table)
    for row in table:
        print("  ".join(f"{name} {value}" for name, value in row.row().items()))
    return table, notes


def costs(table: list[Verified]) -> list[str]:
    """What each smaller model costs of the full one's objective, in words."""
    full = table[0].objective
    if full is None:
        return []
    return [
        f"{row.model}: {100.0 * (row.objective / full - 1.0):+.2f} % of the full"
        " model's held-out objective."
        for row in table[1:]
        if row.objective is not None
    ]


def _rotated(
    options: Arguments, loaded: LoadedVae, codes: tuple[np.ndarray, np.ndarray]
) -> tuple[LoadedVae, np.ndarray]:
    """The model in the axes of its active subspace, and the means of its codes."""
    mean, log_variance = codes
    rng = np.random.default_rng(options.seed)
    rows = rng.permutation(len(mean))[:32]
    drawn = mean[rows] + np.exp(0.5 * log_variance[rows]) * rng.normal(
        size=(len(rows), mean.shape[1])
    )
    output = _output(options, loaded)
    turn = subspace_axes(lambda code: output.of(code[None])[0], drawn.astype("f4"))
    params = rotate(loaded.params, turn)
    return loaded._replace(params=params), mean.mean(0) @ turn


def _trained_on(options: Arguments, clips: tuple[Clip, ...]) -> tuple[Clip, ...]:
    """The recordings with those that latents are judged on as split ``valid``."""
    if options.split == "valid":
        return clips
    others = tuple(clip for clip in clips if clip.split != "valid")
    return tuple(
        dataclasses.replace(clip, split="valid") if clip.split == "test" else clip
        for clip in others
    )


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
