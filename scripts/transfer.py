"""Makes a recording sound like a reference with an audio effect.

    python scripts/transfer.py INPUT --reference REF --effect channel_strip --output OUT.wav
    python scripts/transfer.py INPUT --target TREATED_INPUT --effect compressor --output OUT.wav
    python scripts/transfer.py INPUT --reference REF --checkpoint RUN --refine 100 --output OUT.wav
    python scripts/transfer.py INPUT --reference REF --checkpoint RUN --latent 3=+1.5 --alternatives 3 --output OUT.wav
    python scripts/transfer.py FOLDER --batch --reference REF --effect reverb --output OUT_FOLDER
    python scripts/transfer.py A.wav B.wav 'takes/*.flac' --reference REF --checkpoint RUN
    python scripts/transfer.py --pairs TABLE.csv --checkpoint RUN --output OUT_FOLDER

Writes OUT.wav, OUT.json (settings in physical units, distances before and after) and
OUT.png (spectrograms and average spectra); and for each VST3 or LV2 plug-in a preset
that other programs load, OUT.SLOT.vstpreset or OUT.SLOT.lv2. --alternatives adds
OUT.alt1.wav and OUT.alt1.json and so on. Several inputs, and tables with the columns
input and reference, are a batch: without --output each result lies beside its input, as
INPUT_EFFECT.wav; one that fails does not stop the others. The same command gives the
same bytes, but for "seconds" in the JSON. Bad input: one line and exit code 2.
"""  # noqa: E501

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import compiler
import numpy as np
import transfer_jobs
import transfer_report
import tyro
from tqdm import tqdm
from transfer_jobs import Job
from transfer_report import Writing

from ddspx import audio
from ddspx.training.checkpoint import CheckpointError
from styletransfer.alternatives import (
    Alternative,
    Move,
    alternatives,
    candidates,
    check_moves,
    codes_of,
    draws_for,
    parse_move,
    predict_moved,
)
from styletransfer.controller import LoadedController, load_controller, predict
from styletransfer.hosts import Host, HostEffect, open_host
from styletransfer.models import Prediction
from styletransfer.presets import Engine, load_effect
from styletransfer.transfer import (
    Method,
    TransferConfig,
    TransferError,
    TransferResult,
    check_audio,
    comparison,
    transfer,
)


@dataclass(frozen=True)
class Arguments:
    """Command line of transfer.py."""

    inputs: tyro.conf.Positional[tuple[Path, ...]] = ()
    """The recording to treat; or several, folders, and quoted patterns."""
    output: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--out"])] = None
    """File to write (.wav keeps every level); a folder for several inputs."""
    effect: str | None = None
    """Preset in configs/effects or path of a YAML file; channel_strip if left."""
    checkpoint: Path | None = None
    """Run folder of a controller: predicts the settings of the effect it is for."""
    refine: int = 0
    """Renders that improve a prediction, starting from it."""
    latent: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """Move a latent of the controller: 3=+1.5 or 3=-2 by deviations, 3==0.5 sets it."""
    alternatives: int = 0
    """Further settings that the controller holds possible, written as OUT.alt1 ..."""
    engine: Engine | None = None
    """Render in pedalboard or by its twins in jax; the file's own backend if left."""
    reference: Path | None = None
    """A recording of other content that has the wanted sound."""
    target: Path | None = None
    """Instead of a reference: the input's own treated version, sample-aligned."""
    pairs: Path | None = None
    """A CSV file with the columns input and reference, instead of both."""
    renders: int = 500
    """Renders that the search may use."""
    seed: int = 0
    """Same seed, same bytes."""
    method: Method = "combined"
    """Search; see styletransfer/search.py."""
    excerpt_s: float = 6.0
    """Seconds of the input that the search looks at: its most typical stretch."""
    prior: float = 3.0
    """Pull towards settings that do nothing; 0 trusts the reference alone."""
    match_level: bool = True
    """Whether the reference's loudness is part of its sound."""
    trim: float = 0.0
    """Share of the level left to the reference that a gain takes away; try 0.5."""
    tail: float | Literal["auto"] = 0.0
    """Seconds rendered after the input's end; auto takes the effect's own tail."""
    clip: bool = False
    """Clip what integer formats cannot hold; without it the file is attenuated."""
    batch: bool = False
    """Treat every recording of a folder; not needed for several inputs."""
    overwrite: bool = False
    """Replace existing output."""
    presets: bool = True
    """Write the presets of VST3 and LV2 plug-ins beside the output."""
    backend: Literal["process", "thread", "serial"] = "process"
    """Where plug-ins run; process survives those that crash. Not used by jax."""
    workers: int | None = None
    """Render workers; one per core by default."""


@dataclass(frozen=True)
class Work:
    """What all recordings have in common."""

    options: Arguments
    effect: HostEffect
    config: TransferConfig
    tail_s: float
    loaded: LoadedController | None
    moves: tuple[Move, ...]


def main(arguments: list[str] | None = None) -> int:
    """Checks everything, then works; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        loaded = _controller(options)
        effect = (
            load_effect(options.effect or "channel_strip", options.engine)
            if loaded is None
            else loaded.effect
        )
        config = TransferConfig(
            method=options.method,
            renders=options.renders if loaded is None else 1 + options.refine,
            seed=options.seed,
            excerpt_s=options.excerpt_s,
            prior=options.prior,
            match_level=options.match_level,
            trim=options.trim,
        )
        tail_s = effect.tail_s if options.tail == "auto" else float(options.tail)
        if not 0.0 <= tail_s <= 60.0:
            raise TransferError(f"--tail {tail_s}: give 0 to 60 seconds, or auto")
        work = Work(options, effect, config, tail_s, loaded, _moves(options, loaded))
        writing = Writing(
            effect=effect,
            role="reference" if options.target is None else "target",
            config=config,
            tail_s=tail_s,
            clip=options.clip,
            overwrite=options.overwrite,
            presets=options.presets,
            alternatives=options.alternatives,
            moves=work.moves,
        )
        jobs, unusable = transfer_jobs.plan(
            _request(options, effect),
            lambda output: transfer_report.paths(writing, output),
        )
    except (ValueError, OSError) as error:
        return _refuse(error)
    for words in unusable:
        print(f"skipped: {words}", file=sys.stderr)
    failed = len(unusable)
    hosts: dict[float, Host] = {}
    interrupted = False
    try:
        for job in jobs:
            try:
                interrupted = _treat(job, work, writing, hosts)
            except (ValueError, OSError, RuntimeError) as error:
                failed += 1
                _refuse(error, job.source if len(jobs) > 1 else None)
            if interrupted:
                break
    except KeyboardInterrupt:
        print("transfer.py: stopped before a setting was found", file=sys.stderr)
        return 130
    finally:
        for host in hosts.values():
            host.close()
    if interrupted:
        print("stopped early: the best setting found so far was written")
    elif failed and len(jobs) + len(unusable) > 1:
        print(f"{failed} of {len(jobs) + len(unusable)} recordings failed, see above")
    return 2 if failed else 0


def _moves(options: Arguments, loaded: LoadedController | None) -> tuple[Move, ...]:
    """Wishes about latents, checked, and the number of alternatives."""
    if options.alternatives < 0:
        raise TransferError(f"--alternatives {options.alternatives} must be 0 or more")
    if loaded is None:
        if options.latent or options.alternatives:
            raise TransferError(
                "--latent and --alternatives are about a controller; give --checkpoint"
            )
        return ()
    moves = tuple(parse_move(words) for words in options.latent)
    check_moves(loaded, moves)
    return moves


def _controller(options: Arguments) -> LoadedController | None:
    if options.checkpoint is None:
        if options.refine:
            raise TransferError("--refine improves a prediction; give --checkpoint")
        return None
    if options.effect is not None or options.engine is not None:
        raise TransferError(
            "a controller is for the effect that it was trained for; give --checkpoint"
            " without --effect and --engine"
        )
    if options.refine < 0:
        raise TransferError(f"--refine {options.refine} must be 0 or more")
    try:
        return load_controller(options.checkpoint)
    except CheckpointError as error:
        raise TransferError(str(error)) from error


def _request(options: Arguments, effect: HostEffect) -> transfer_jobs.Request:
    """What the command line says of files; the wanted sound is checked."""
    role = "reference" if options.target is None else "target"
    wanted = options.reference if options.target is None else options.target
    if options.pairs is None:
        if (options.reference is None) == (options.target is None):
            raise TransferError("give either --reference or --target")
        if not options.inputs:
            raise TransferError("name a recording to treat, or --pairs with a table")
        assert wanted is not None
        sound = audio.load(wanted)
        check_audio(sound.samples, sound.sample_rate, f"{role} {wanted}")
    return transfer_jobs.Request(
        inputs=options.inputs,
        wanted=wanted,
        role=role,
        pairs=options.pairs,
        output=options.output,
        batch=options.batch,
        label=effect.name,
        overwrite=options.overwrite,
    )


def _treat(job: Job, work: Work, writing: Writing, hosts: dict[float, Host]) -> bool:
    """One recording from file to files; whether Ctrl-C ended its search."""
    sound, wanted = audio.load(job.source), audio.load(job.wanted)
    host = _host(hosts, work.effect, sound.sample_rate, work.options)
    prediction = codes = None
    if work.loaded is not None:
        rates = sound.sample_rate, wanted.sample_rate
        if work.moves or work.options.alternatives:
            codes = codes_of(work.loaded, sound.samples, wanted.samples, *rates)
        if work.moves:
            assert codes is not None
            prediction = predict_moved(work.loaded, codes, rates[0], work.moves)
        else:
            prediction = predict(work.loaded, sound.samples, wanted.samples, *rates)
    result = _search(host, job, sound, wanted, work, prediction)
    others = []
    if codes is not None and prediction is not None and not result.interrupted:
        others = _others(host, sound, wanted, work, codes, prediction, result)
    transfer_report.write(writing, job, host, (sound, wanted), result, others)
    return result.interrupted


def _host(
    hosts: dict[float, Host], effect: HostEffect, rate: float, options: Arguments
) -> Host:
    if rate not in hosts:
        hosts[rate] = open_host(
            effect, rate, backend=options.backend, workers=options.workers
        )
    return hosts[rate]


def _search(
    host: Host,
    job: Job,
    sound: audio.Audio,
    wanted: audio.Audio,
    work: Work,
    prediction: Prediction | None,
) -> TransferResult:
    with tqdm(
        total=work.config.renders,
        unit="render",
        desc=job.source.name,
        mininterval=0.5,
    ) as bar:

        def report(renders: int, loss: float) -> None:
            bar.update(renders - bar.n)
            bar.set_postfix_str(f"distance {loss:.4g}", refresh=False)

        return transfer(
            host,
            sound.samples,
            wanted.samples,
            reference_rate=wanted.sample_rate,
            paired=work.options.target is not None,
            config=work.config,
            tail_s=work.tail_s,
            report=report,
            prediction=prediction,
        )


def _others(
    host: Host,
    sound: audio.Audio,
    wanted: audio.Audio,
    work: Work,
    codes: tuple[np.ndarray, np.ndarray],
    prediction: Prediction,
    result: TransferResult,
) -> list[Alternative]:
    """Distinct settings that the controller holds possible, best first."""
    assert work.loaded is not None
    count = work.options.alternatives
    if not count:
        return []
    drawn = candidates(
        work.loaded,
        codes,
        prediction,
        sound.sample_rate,
        draws_for(count),
        moves=work.moves,
        seed=work.config.seed,
    )
    judged = comparison(
        host,
        sound.samples,
        wanted.samples,
        reference_rate=wanted.sample_rate,
        paired=work.options.target is not None,
        config=work.config,
    )
    deviation = np.asarray(prediction.deviation)
    return alternatives(host, judged, drawn, result.controls, deviation, count)


def _refuse(error: Exception, source: Path | None = None) -> int:
    """One line; of a batch, it names the recording."""
    named = source is not None and str(source) not in str(error)
    print(f"transfer.py: {f'{source}: ' if named else ''}{error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
