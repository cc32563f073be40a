"""Measures an effect, lists plug-ins, makes presets of them.

    python scripts/probe_effect.py channel_strip
    python scripts/probe_effect.py --list
    python scripts/probe_effect.py http://drobilla.net/plugins/mda/Overdrive
    python scripts/probe_effect.py ZamComp.vst3 --write configs/effects/mine.yaml

Prints a table; with ``--json OUT`` the same facts as JSON, for the gradient estimators.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import compiler
import preset_writer
import tyro
from tqdm import tqdm

from ddspx.audio import written_aside
from styletransfer.hosts.catalogue import BUILTINS
from styletransfer.hosts.interface import PluginError
from styletransfer.hosts.open import Backend
from styletransfer.hosts.probe import Probe, probe_effect
from styletransfer.hosts.scan import KINDS, Found, installed, scan
from styletransfer.presets import Engine, load_effect, plugin_effect, plugin_kind


@dataclass(frozen=True)
class Arguments:
    """Command line.

    Attributes:
      effect: a preset's name, the path of a YAML file, the URI of an LV2 plug-in, or a
        VST3 bundle.
      list: show every plug-in that is installed, instead of measuring one.
      write: make a preset of the plug-in: a new .yaml file.
      engine: pedalboard, jax, lv2 or vst3, whatever the file says; as it says when not
        given.
      audio: a recording to measure on; a built-in test signal when not given.
      sample_rate: Hz; that of the recording, or 44100, when not given.
      json: write the report here.
      overwrite: replace an existing report or preset.
      backend: process, thread or serial.
      workers: processes or threads; the usable cores when not given.
      target_db: change of the log spectrum that the step sizes aim at.
      seed: of the random settings.
      timeout_s: seconds that each plug-in of the list has to load.
    """

    effect: tyro.conf.Positional[str | None] = None
    list: bool = False
    write: Path | None = None
    engine: Engine | None = None
    audio: Path | None = None
    sample_rate: int | None = None
    json: Path | None = None
    overwrite: bool = False
    backend: Backend = "process"
    workers: Annotated[int | None, tyro.conf.arg(name="workers")] = None
    target_db: float = 0.25
    seed: int = 0
    timeout_s: float = 30.0


def main(arguments: list[str] | None = None) -> None:
    """Parses, probes, prints."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        if options.list:
            print(listing(options.timeout_s))
            return
        report = run(options)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"probe_effect: {error}", file=sys.stderr)
        raise SystemExit(2) from error
    print(table(report))


def run(options: Arguments) -> Probe:
    """Probes what the command line names; writes what it asks for."""
    if options.effect is None:
        raise ValueError("name an effect or a plug-in, or give --list")
    for path in (options.json, options.write):
        if path is not None and path.exists() and not options.overwrite:
            raise ValueError(f"{path} exists; give --overwrite to replace it")
    kind = plugin_kind(options.effect)
    if options.write is not None and kind is None:
        raise ValueError(
            f"--write makes presets of LV2 URIs and VST3 bundles; {options.effect} is a"
            " preset already"
        )
    audio, sample_rate = None, options.sample_rate or 44100
    if options.audio is not None:
        from ddspx.audio import load

        audio, sample_rate = load(options.audio, sample_rate=options.sample_rate)

    def probed(effect):
        return probe_effect(
            effect,
            sample_rate,
            audio=audio,
            backend=options.backend,
            workers=options.workers,
            target_db=options.target_db,
            seed=options.seed,
        )

    if kind is None:
        report = probed(load_effect(options.effect, options.engine))
    else:
        effect = plugin_effect(options.effect)
        report = probed(effect)
        if kind == "vst3" and not (report.deterministic and report.history_free):
            effect = plugin_effect(options.effect, fresh=True)
            report = probed(effect)
        if options.write is not None:
            text = preset_writer.preset_text(effect, report)
            _write(options.write, text, options.overwrite)
            load_effect(options.write)
    if options.json is not None:
        _write(options.json, report.to_json() + "\n", options.overwrite)
    return report


def _write(path: Path, text: str, overwrite: bool) -> None:
    with written_aside(path, overwrite=overwrite) as aside:
        aside.write_text(text, encoding="utf-8")


def listing(timeout_s: float) -> str:
    """All plug-ins of all formats, those that cannot be used last, as a table."""
    wanted, notes = [], []
    for kind in KINDS:
        try:
            wanted += [(kind, plugin) for plugin in installed(kind)]
        except PluginError as error:
            notes.append(f"{kind}: {error}")
    with tqdm(total=len(wanted), unit="plug-in", desc="scanning") as bar:

        def report(_: Found) -> None:
            bar.update()

        found = scan(wanted, timeout_s=timeout_s, report=report)
    lines = [
        f"{'format':10} {'in':>2} {'out':>3} {'continuous':>10} {'discrete':>8}"
        f" {'latency':>7}  plug-in"
    ]
    for name, known in sorted(BUILTINS.items()):
        discrete = sum(bool(spec.choices) for spec in known.parameters)
        continuous = len(known.parameters) - discrete
        lines.append(
            f"{'pedalboard':10} {'any':>6} {continuous:10} {discrete:8} {'':>7}  {name}"
        )
    for each in found:
        if each.interface is not None:
            lines.append(_line(each))
    unusable = [each for each in found if each.interface is None]
    if unusable:
        lines += ["", f"{len(unusable)} cannot be used as effects:"]
        lines += [f"  {each.plugin}: {each.trouble}" for each in unusable]
    usable = len(found) - len(unusable)
    lines += ["", f"{len(BUILTINS)} built-ins, {usable} of {len(found)} plug-ins load"]
    return "\n".join([*lines, *notes])


def _line(found: Found) -> str:
    face = found.interface
    assert face is not None
    continuous = len(face.continuous)
    name = found.plugin if found.kind == "lv2" else Path(found.plugin).name
    return (
        f"{found.kind:10} {face.inputs:2} {face.outputs:3} {continuous:10}"
        f" {len(face.parameters) - continuous:8} {face.latency_samples:7}  {name}"
        f"  {face.name}"
    )


def table(report: Probe) -> str:
    """The report as a person reads it."""
    repeats = "yes" if report.deterministic else "NO"
    if report.noise_db is not None:
        repeats += f", renders differ at {report.noise_db:.0f} dB"
        if report.random:
            repeats += f"; chance comes in by {', '.join(report.random)}"
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
        note = "  does nothing here" if p.does_nothing else ""
        lines.append(
            f"  {p.name:34} {span:>24} {p.curve:>7} {p.quantum:8.1e}"
            f" {p.spectrum_db_per_unit:9.2f} {p.rms_db_per_unit:8.2f} {p.epsilon:8.4f}"
            f"{note}"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    compiler.prepare()
    main()
