"""Makes a recording sound like a reference with an audio effect.

    python scripts/transfer.py INPUT --reference REF --effect channel_strip --output OUT.wav
    python scripts/transfer.py INPUT --target TREATED_INPUT --effect compressor --output OUT.wav
    python scripts/transfer.py INPUT --reference REF --checkpoint RUN --refine 100 --output OUT.wav
    python scripts/transfer.py FOLDER --batch --reference REF --effect reverb --output OUT_FOLDER

Writes OUT.wav, OUT.json (settings in physical units, distances before and after) and
OUT.png (spectrograms and average spectra); and for each VST3 or LV2 plug-in a preset
that other programs load, OUT.SLOT.vstpreset or OUT.SLOT.lv2. The same command gives the
same bytes, but for "seconds" in the JSON. Bad input: one line and exit code 2.
"""  # noqa: E501

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import compiler
import numpy as np
import tyro
from tqdm import tqdm

from ddspx import audio, plotting
from ddspx.training.checkpoint import CheckpointError
from styletransfer.controller import LoadedController, load_controller, predict
from styletransfer.hosts import Host, HostEffect, open_host
from styletransfer.hosts.exchange import preset_paths, save_presets
from styletransfer.hosts.interface import PluginError
from styletransfer.models import NOT_TOLD
from styletransfer.presets import Engine, load_effect
from styletransfer.transfer import (
    Method,
    TransferConfig,
    TransferError,
    TransferResult,
    check_audio,
    transfer,
)


@dataclass(frozen=True)
class Arguments:
    """Command line of transfer.py."""

    input: tyro.conf.Positional[Path]
    """The recording to treat; with --batch a folder of recordings."""
    output: Annotated[Path, tyro.conf.arg(aliases=["-o"])]
    """File to write (.wav keeps every level); with --batch a folder."""
    effect: str | None = None
    """Preset in configs/effects or path of a YAML file; channel_strip if left."""
    checkpoint: Path | None = None
    """Run folder of a controller: predicts the settings of the effect it is for."""
    refine: int = 0
    """Renders that improve a prediction, starting from it."""
    engine: Engine | None = None
    """Render in pedalboard or by its twins in jax; the file's own backend if left."""
    reference: Path | None = None
    """A recording of other content that has the wanted sound."""
    target: Path | None = None
    """Instead of a reference: the input's own treated version, sample-aligned."""
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
    tail: float | Literal["auto"] = 0.0
    """Seconds rendered after the input's end; auto takes the effect's own tail."""
    clip: bool = False
    """Clip what integer formats cannot hold; without it the file is attenuated."""
    batch: bool = False
    """Treat every recording in the folder INPUT."""
    overwrite: bool = False
    """Replace existing output."""
    presets: bool = True
    """Write the presets of VST3 and LV2 plug-ins beside the output."""
    backend: Literal["process", "thread", "serial"] = "process"
    """Where plug-ins run; process survives those that crash. Not used by jax."""
    workers: int | None = None
    """Render workers; one per core by default."""


@dataclass(frozen=True)
class Job:
    """One recording to treat."""

    source: Path
    output: Path
    sound: audio.Audio


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
        )
        wanted_path, wanted = _wanted(options)
        tail_s = effect.tail_s if options.tail == "auto" else float(options.tail)
        if not 0.0 <= tail_s <= 60.0:
            raise TransferError(f"--tail {tail_s}: give 0 to 60 seconds, or auto")
        jobs = _jobs(options, wanted, effect)
    except ValueError as error:
        return _refuse(error)
    hosts: dict[float, Host] = {}
    failed = 0
    interrupted = False
    try:
        for job in jobs:
            host = _host(hosts, effect, job.sound.sample_rate, options)
            try:
                result = _search(host, job, wanted, options, config, tail_s, loaded)
                _write(job, result, wanted_path, wanted, effect, options, config)
            except ValueError as error:
                failed += 1
                _refuse(error)
                continue
            interrupted = result.interrupted
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
    return 2 if failed else 0


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


def _wanted(options: Arguments) -> tuple[Path, audio.Audio]:
    if (options.reference is None) == (options.target is None):
        raise TransferError("give either --reference or --target")
    role = "reference" if options.target is None else "target"
    path = options.reference or options.target
    assert path is not None
    sound = audio.load(path)
    check_audio(sound.samples, sound.sample_rate, f"{role} {path}")
    return path, sound


def _jobs(options: Arguments, wanted: audio.Audio, effect: HostEffect) -> list[Job]:
    """Every recording with its output, all loaded and checked before any work."""
    if not options.batch:
        if options.input.is_dir():
            raise TransferError(f"{options.input}: is a folder; add --batch")
        job = _job(options.input, options.output, options, effect)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        return [job]
    if not options.input.is_dir():
        raise TransferError(f"{options.input}: --batch needs a folder")
    if options.target is not None:
        raise TransferError("--batch needs a --reference; a target fits one input only")
    sources = sorted(
        p for p in options.input.iterdir() if p.suffix.lower() in audio.SUFFIXES
    )
    if not sources:
        raise TransferError(
            f"{options.input}: holds no audio ({', '.join(sorted(audio.SUFFIXES))})"
        )
    if options.output.is_file():
        raise TransferError(f"{options.output}: is a file; --batch writes a folder")
    jobs = []
    names: dict[str, Path] = {}
    for source in sources:
        if source.stem in names:
            raise TransferError(
                f"{source} and {names[source.stem]} would both become"
                f" {source.stem}.wav; rename one"
            )
        names[source.stem] = source
        try:
            output = options.output / f"{source.stem}.wav"
            jobs.append(_job(source, output, options, effect))
        except (audio.AudioFileError, TransferError) as error:
            if source.exists() and (options.output / f"{source.stem}.wav").exists():
                raise
            print(f"skipped: {error}", file=sys.stderr)
    if not jobs:
        raise TransferError(f"{options.input}: none of its files can be used")
    options.output.mkdir(parents=True, exist_ok=True)
    return jobs


def _job(source: Path, output: Path, options: Arguments, effect: HostEffect) -> Job:
    sound = audio.load(source)
    check_audio(sound.samples, sound.sample_rate, f"input {source}")
    audio.check_writable(output, sound.sample_rate, sound.samples.shape[0])
    if output.suffix.lower() in (".json", ".png"):
        raise TransferError(f"{output}: name an audio file, such as out.wav")
    presets = preset_paths(effect, output.with_suffix("")) if options.presets else {}
    for path in (*_outputs(output), *presets.values()):
        if path.exists() and not options.overwrite:
            raise TransferError(
                f"{path}: exists already; choose another name or add --overwrite"
            )
        taken = (options.reference, options.target, source)
        if any(p is not None and _same(path, p) for p in taken):
            raise TransferError(f"{path}: is an input; choose another output")
    return Job(source, output, sound)


def _outputs(output: Path) -> tuple[Path, Path, Path]:
    return output, output.with_suffix(".json"), output.with_suffix(".png")


def _same(one: Path, other: Path) -> bool:
    return one.resolve() == other.resolve()


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
    wanted: audio.Audio,
    options: Arguments,
    config: TransferConfig,
    tail_s: float,
    loaded: LoadedController | None,
) -> TransferResult:
    prediction = None
    if loaded is not None:
        prediction = predict(
            loaded,
            job.sound.samples,
            wanted.samples,
            job.sound.sample_rate,
            wanted.sample_rate,
        )
    with tqdm(
        total=config.renders,
        unit="render",
        desc=job.source.name,
        mininterval=0.5,
    ) as bar:

        def report(renders: int, loss: float) -> None:
            bar.update(renders - bar.n)
            bar.set_postfix_str(f"distance {loss:.4g}", refresh=False)

        return transfer(
            host,
            job.sound.samples,
            wanted.samples,
            reference_rate=wanted.sample_rate,
            paired=options.target is not None,
            config=config,
            tail_s=tail_s,
            report=report,
            prediction=prediction,
        )


def _write(
    job: Job,
    result: TransferResult,
    wanted_path: Path,
    wanted: audio.Audio,
    effect: HostEffect,
    options: Arguments,
    config: TransferConfig,
) -> None:
    rendered, attenuation_db = _fit(result.audio, job.output, options.clip)
    sound, table, picture = _outputs(job.output)
    rate = job.sound.sample_rate
    role = "reference" if options.target is None else "target"
    report = {
        "input": str(job.source),
        role: str(wanted_path),
        "effect": effect.name,
        "engine": "+".join(sorted(effect.kinds)),
        "settings": result.settings,
        "distance": result.loss,
        "terms": result.terms,
        "renders": result.renders,
        "seconds": round(result.seconds, 3),
        "failed_renders": result.failures,
        "interrupted": result.interrupted,
        "peak_dbfs": 20 * float(np.log10(np.abs(rendered).max() + 1e-10)),
        "attenuation_db": attenuation_db,
        "sample_rate": rate,
        "tail_s": (rendered.shape[1] - job.sound.samples.shape[1]) / rate,
        "config": asdict(config),
        "history": result.history,
    }
    if result.deviation is not None:
        names = list(result.settings)
        report["deviation"] = dict(
            zip(names, map(float, result.deviation), strict=True)
        )
        report["not_told"] = [
            name
            for name, deviation in report["deviation"].items()
            if deviation > NOT_TOLD
        ]
    if options.presets and preset_paths(effect, job.output.with_suffix("")):
        report["presets"] = _save_presets(job, result, effect)
    figure = plotting.compare_sounds(
        {
            "input": job.sound,
            role: wanted,
            "output": audio.Audio(rendered, rate),
        },
        title=f"{job.source.name} through {effect.name}",
    )
    audio.save(sound, rendered, rate, overwrite=options.overwrite, clip=options.clip)
    with audio.written_aside(table, overwrite=options.overwrite) as aside:
        aside.write_text(json.dumps(report, indent=2) + "\n")
    plotting.save(figure, picture, overwrite=options.overwrite)
    _print_summary(result, report, job.output)


def _save_presets(
    job: Job, result: TransferResult, effect: HostEffect
) -> dict[str, str]:
    """Presets by slot; what cannot be written is said and nothing else is lost."""
    limited = effect.at_sample_rate(job.sound.sample_rate)
    try:
        written = save_presets(
            limited,
            result.controls,
            job.output.with_suffix(""),
            job.output.stem,
        )
    except PluginError as error:
        print(f"transfer.py: no preset written: {error}", file=sys.stderr)
        return {}
    return {slot: str(path) for slot, path in written.items()}


def _fit(rendered: np.ndarray, output: Path, clip: bool) -> tuple[np.ndarray, float]:
    """Attenuates what an integer format could not hold; returns the decibels taken."""
    peak = float(np.abs(rendered).max())
    if clip or peak < 1.0 or audio.holds_any_level(output):
        return rendered, 0.0
    gain = 10 ** (-0.1 / 20) / peak
    return rendered * np.float32(gain), -20 * float(np.log10(gain))


def _print_summary(result: TransferResult, report: dict, output: Path) -> None:
    stages = [result.loss["before"]]
    if "predicted" in result.loss:
        stages.append(result.loss["predicted"])
    if "predicted" not in result.loss or result.renders > 1:
        stages.append(result.loss["after"])
    print(
        f"{output}: distance {' -> '.join(f'{stage:.4g}' for stage in stages)}"
        f" ({result.renders} renders, {result.seconds:.1f} s)"
    )
    if report["attenuation_db"]:
        print(
            f"attenuated {report['attenuation_db']:.1f} dB to fit {output.suffix};"
            " write .wav to keep the level"
        )
    if result.failures:
        print(f"{result.failures} renders failed and were left out")
    width = max(len(name) for name in result.settings)
    untold = report.get("not_told", [])
    for name, entry in result.settings.items():
        note = "  (this pair does not tell)" if name in untold else ""
        print(f"  {name:<{width}}  {entry['text']}{note}")


def _refuse(error: Exception) -> int:
    print(f"transfer.py: {error}", file=sys.stderr)
    return 2


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
