"""The text of a preset that `probe_effect.py --write` makes of a plug-in."""

import math

import yaml

from ddspx.parameters import ParameterSpec
from styletransfer.hosts import HostEffect
from styletransfer.hosts.probe import ParameterProbe, Probe


def preset_text(effect: HostEffect, report: Probe) -> str:
    """An effect file with what the probe measured: quanta, steps, tail, and notes.

    Controls that did nothing at any setting, or that bring in chance, are fixed at
    their defaults and named, as are the discrete ones.

    Args:
      effect: one slot, as `styletransfer.presets.plugin_effect` makes it.
      report: its probe.
    """
    (slot,) = effect.slots
    specs = {spec.name: spec for spec in slot.controls}
    probes = {p.name.split(".", 1)[1]: p for p in report.parameters}
    chance = {name.split(".", 1)[1] for name in report.random}
    idle = [name for name, p in probes.items() if p.does_nothing]
    held = sorted(chance | set(idle))
    kept = [name for name in specs if name not in held]
    if not kept:
        raise ValueError(
            f"{slot.plugin}: no parameter of it changes the sound, nothing to control"
        )
    notes = [
        f"{effect.name}, by scripts/probe_effect.py {slot.plugin} --write at"
        f" {report.sample_rate:g} Hz.",
        "A step of epsilon changes the log spectrum by about"
        f" {report.target_db:g} dB; none is finer than two quanta.",
    ]
    if chance:
        notes.append(f"Held, for they bring in chance: {', '.join(sorted(chance))}.")
    if idle:
        notes.append(f"Held, for they changed nothing: {', '.join(idle)}.")
    discrete = [line.split()[0] for line in slot.interface if "|" in line]
    if discrete:
        notes.append(f"Discrete, left at their defaults: {', '.join(discrete)}.")
    if not report.deterministic:
        notes.append(f"RANDOM: two renders differ by {report.noise_db:.0f} dB.")
    if not report.history_free:
        notes.append("A render DEPENDS ON EARLIER ONES.")
    if report.unusable:
        share = 100 * report.unusable
        notes.append(f"{share:.0f} % of random settings gave no usable audio.")
    table = {
        "description": effect.name,
        "backend": slot.kind,
        "tail_s": math.ceil(10 * report.tail_80db_s) / 10,
        "slots": {
            slot.name: {
                "plugin": slot.plugin,
                **({"fresh": True} if slot.fresh else {}),
                "controls": {name: _entry(probes[name]) for name in kept},
                **({"fixed": _defaults(specs, held)} if held else {}),
            }
        },
    }
    body = yaml.safe_dump(table, sort_keys=False, default_flow_style=None, width=88)
    return "".join(f"# {note}\n" for note in notes) + body


def _entry(probe: ParameterProbe) -> dict[str, float]:
    return {"quantum": _short(probe.quantum), "epsilon": _short(probe.epsilon)}


def _defaults(specs: dict[str, ParameterSpec], names: list[str]) -> dict[str, float]:
    return {name: _short(specs[name].default or 0.0) for name in names}


def _short(value: float) -> float:
    return float(f"{value:.4g}")
