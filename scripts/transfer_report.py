"""What transfer.py writes and says of one recording: sound, settings, picture."""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transfer_jobs import Job

from ddspx import audio, plotting
from styletransfer.alternatives import Alternative, Move
from styletransfer.hosts import Host, HostEffect
from styletransfer.hosts.exchange import preset_paths, save_presets
from styletransfer.hosts.interface import PluginError
from styletransfer.models import NOT_TOLD
from styletransfer.transfer import TransferConfig, TransferResult, render_whole

# Controls that the terminal names of each alternative; the JSON names all.
_DIFFERENCES = 3


@dataclass(frozen=True)
class Writing:
    """What all recordings of a command have in common.

    Attributes:
      effect: rendered.
      role: of the wanted sound: "reference" or "target".
      config: of the search.
      tail_s: seconds rendered after the input's end.
      clip: whether integer formats are clipped; else they are attenuated.
      overwrite: whether files may exist.
      presets: whether those of plug-ins are written.
      alternatives: asked for.
      moves: of latents.
    """

    effect: HostEffect
    role: str
    config: TransferConfig
    tail_s: float
    clip: bool
    overwrite: bool
    presets: bool
    alternatives: int = 0
    moves: tuple[Move, ...] = ()


def paths(writing: Writing, output: Path) -> list[Path]:
    """All files of one recording, also those of alternatives that will not be found."""
    found = list(_outputs(output))
    sounds = [_alternative(output, place) for place in range(writing.alternatives)]
    for sound in sounds:
        found += _outputs(sound)[:2]
    if writing.presets:
        for sound in (output, *sounds):
            found += preset_paths(writing.effect, sound.with_suffix("")).values()
    return found


def write(
    writing: Writing,
    job: Job,
    host: Host,
    sounds: tuple[audio.Audio, audio.Audio],
    result: TransferResult,
    others: Sequence[Alternative] = (),
) -> None:
    """Writes all files of one recording and prints what was found.

    Args:
      writing: how.
      job: where.
      host: renders the alternatives.
      sounds: the recording and what it was to sound like.
      result: of the transfer.
      others: alternatives, best first.

    Raises:
      AudioFileError: a file cannot be written.
      TransferError: an alternative fails on the whole recording.
    """
    source, wanted = sounds
    effect = writing.effect
    rendered, attenuation_db = _fit(result.audio, job.output, writing.clip)
    sound, table, picture = _outputs(job.output)
    rate = source.sample_rate
    report = {
        "input": str(job.source),
        writing.role: str(job.wanted),
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
        "trim_db": result.trim_db,
        "attenuation_db": attenuation_db,
        "sample_rate": rate,
        "tail_s": (rendered.shape[1] - source.samples.shape[1]) / rate,
        "config": asdict(writing.config),
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
    if writing.presets and preset_paths(effect, job.output.with_suffix("")):
        report["presets"] = _save_presets(job.output, rate, result.controls, effect)
    if writing.moves:
        report["latents"] = [move._asdict() for move in writing.moves]
    if writing.alternatives:
        report["alternatives"] = _write_alternatives(writing, job, host, source, others)
    figure = plotting.compare_sounds(
        {
            "input": source,
            writing.role: wanted,
            "output": audio.Audio(rendered, rate),
        },
        title=f"{job.source.name} through {effect.name}",
    )
    audio.save(sound, rendered, rate, overwrite=writing.overwrite, clip=writing.clip)
    with audio.written_aside(table, overwrite=writing.overwrite) as aside:
        aside.write_text(json.dumps(report, indent=2) + "\n")
    plotting.save(figure, picture, overwrite=writing.overwrite)
    _print_summary(result, report, job.output)


def _write_alternatives(
    writing: Writing,
    job: Job,
    host: Host,
    source: audio.Audio,
    others: Sequence[Alternative],
) -> list[dict[str, Any]]:
    """Writes sound, settings and presets of each; what the report says of them."""
    effect, rate = writing.effect, source.sample_rate
    told = []
    for place, found in enumerate(others):
        output = _alternative(job.output, place)
        made = render_whole(host, source.samples, found.controls, writing.tail_s)
        rendered, attenuation_db = _fit(made, output, writing.clip)
        report = {
            "input": str(job.source),
            "alternative_to": str(job.output),
            "effect": effect.name,
            "settings": found.settings,
            "distance": found.loss,
            "differs": found.differs,
            "attenuation_db": attenuation_db,
            "sample_rate": rate,
        }
        if writing.presets and preset_paths(effect, output.with_suffix("")):
            report["presets"] = _save_presets(output, rate, found.controls, effect)
        audio.save(
            output, rendered, rate, overwrite=writing.overwrite, clip=writing.clip
        )
        table = output.with_suffix(".json")
        with audio.written_aside(table, overwrite=writing.overwrite) as aside:
            aside.write_text(json.dumps(report, indent=2) + "\n")
        told.append(
            {"file": str(output), "distance": found.loss, "differs": found.differs}
        )
    return told


def _save_presets(
    output: Path, sample_rate: float, controls: np.ndarray, effect: HostEffect
) -> dict[str, str]:
    """Presets by slot; what cannot be written is said and nothing else is lost."""
    limited = effect.at_sample_rate(sample_rate)
    try:
        written = save_presets(limited, controls, output.with_suffix(""), output.stem)
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
    if report["trim_db"]:
        print(f"trimmed {report['trim_db']:+.1f} dB behind the effect")
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
    if "alternatives" not in report:
        return
    for found in report["alternatives"]:
        print(f"{found['file']}: distance {found['distance']:.4g}; differs most in")
        for row in found["differs"][:_DIFFERENCES]:
            print(f"  {row['control']:<{width}}  {row['here']} not {row['result']}")
    if not report["alternatives"]:
        print("no alternatives: the controller holds no other setting possible")


def _outputs(output: Path) -> tuple[Path, Path, Path]:
    return output, output.with_suffix(".json"), output.with_suffix(".png")


def _alternative(output: Path, place: int) -> Path:
    return output.with_name(f"{output.stem}.alt{place + 1}{output.suffix}")
