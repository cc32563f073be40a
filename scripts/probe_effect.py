"""Measures an effect: ``python scripts/probe_effect.py channel_strip``.

Prints a table; with ``--json OUT`` the same facts as JSON, for the gradient estimators.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import compiler
import tyro

from styletransfer.hosts.open import Backend
from styletransfer.hosts.probe import Probe, probe_effect
from styletransfer.presets import Engine, load_effect


@dataclass(frozen=True)
class Arguments:
    """Command line.

    Attributes:
      effect: a preset's name or the path of a YAML file.
      engine: pedalboard or jax, whatever the file says; as it says when not given.
      audio: a recording to measure on; a built-in test signal when not given.
      sample_rate: Hz; that of the recording, or 44100, when not given.
      json: write the report here.
      overwrite: replace an existing report.
      backend: process, thread or serial.
      workers: processes or threads; the usable cores when not given.
      target_db: change of the log spectrum that the step sizes aim at.
      seed: of the random settings.
    """

    effect: tyro.conf.Positional[str]
    engine: Engine | None = None
    audio: Path | None = None
    sample_rate: int | None = None
    json: Path | None = None
    overwrite: bool = False
    backend: Backend = "process"
    workers: Annotated[int | None, tyro.conf.arg(name="workers")] = None
    target_db: float = 0.25
    seed: int = 0


def main(arguments: list[str] | None = None) -> None:
    """Parses, probes, prints."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        report = run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"probe_effect: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table(report))


def run(options: Arguments) -> Probe:
    """Probes what the command line names; writes the JSON where it asks for it."""
    if options.json is not None and options.json.exists() and not options.overwrite:
        raise ValueError(f"{options.json} exists; give --overwrite to replace it")
    effect = load_effect(options.effect, options.engine)
    audio, sample_rate = None, options.sample_rate or 44100
    if options.audio is not None:
        from ddspx.audio import load

        audio, sample_rate = load(options.audio, sample_rate=options.sample_rate)
    report = probe_effect(
        effect,
        sample_rate,
        audio=audio,
        backend=options.backend,
        workers=options.workers,
        target_db=options.target_db,
        seed=options.seed,
    )
    if options.json is not None:
        aside = options.json.with_name(options.json.name + ".partial")
        aside.write_text(report.to_json() + "\n", encoding="utf-8")
        aside.replace(options.json)
    return report


def table(report: Probe) -> str:
    """The report as a person reads it."""
    repeats = "yes" if report.deterministic else "NO"
    history = "none" if report.history_free else "DEPENDS ON EARLIER RENDERS"
    micro = 1e6 * report.seconds_per_second
    lines = [
        f"{report.effect} at {report.sample_rate:g} Hz",
        f"  cost           {micro:.0f} us per second of mono audio,"
        f" {1e6 * report.seconds_per_call:.0f} us per call",
        f"  latency        {report.latency_samples} samples"
        f" (correlation {report.latency_correlation:.2f})",
        f"  tail           {report.tail_60db_s:.2f} s to -60 dB,"
        f" {report.tail_80db_s:.2f} s to -80 dB",
        f"  repeats        {repeats}",
        f"  history        {history}",
        f"  channels       {report.channels}",
        f"  unusable       {100 * report.unusable:.0f} % of random settings",
        "",
        f"  {'parameter':34} {'range':>24} {'curve':>7} {'quantum':>8}"
        f" {'spectrum':>9} {'level':>8} {'epsilon':>8}",
        f"  {'':34} {'':>24} {'':>7} {'':>8} {'dB/unit':>9} {'dB/unit':>8}"
        f" {f'{report.target_db:g} dB':>8}",
    ]
    for p in report.parameters:
        span = f"{p.low:g} .. {p.high:g} {p.unit}".strip()
        if p.choices:
            span = f"{len(p.choices)} choices"
        lines.append(
            f"  {p.name:34} {span:>24} {p.curve:>7} {p.quantum:8.1e}"
            f" {p.spectrum_db_per_unit:9.2f} {p.rms_db_per_unit:8.2f} {p.epsilon:8.4f}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    compiler.prepare()
    main()
