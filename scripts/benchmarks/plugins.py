"""Every installed plug-in: does it load, repeat, and give sound at all settings?

    python scripts/benchmark.py plugins --out plugins

Each effect is rendered through a pool at its defaults and at random settings of its
continuous parameters, forwards, backwards, and by a pool that is started anew; bits are
compared. What differs is named with the level of the difference; so are plug-ins that
give unusable audio somewhere, and those that do not load.
"""

import json
import logging
import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import tyro
from tqdm import tqdm

from ddspx.audio import written_aside
from ddspx.parameters import default_controls, sample_controls
from styletransfer.hosts import open_host
from styletransfer.hosts.interface import PluginError
from styletransfer.hosts.response import level_change_db, probe_signal
from styletransfer.hosts.scan import KINDS, installed, scan
from styletransfer.presets import plugin_effect


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite.

    Attributes:
      kinds: formats.
      settings: random settings of each plug-in.
      seconds: of audio.
      sample_rate: Hz.
      timeout_s: seconds that each has to load.
      out: where to write; .json is added.
    """

    kinds: tuple[str, ...] = KINDS
    settings: int = 5
    seconds: float = 1.0
    sample_rate: int = 44100
    timeout_s: float = 30.0
    out: Path | None = None


@dataclass(frozen=True)
class Row:
    """What was found of one plug-in.

    Attributes:
      kind, plugin: which.
      verdict: "repeats", "fresh" (a VST3 that has to be made anew), "history" (depends
        on earlier renders), "random" (two new ones differ), "unusable" (no setting gave
        audio), "crashes" (in a render), "no controls" or "not loaded".
      unusable: share of settings without usable audio.
      noise_db: level of what differs under the output; None where nothing does.
      seconds_per_second: of one core.
      note: why it was not loaded.
    """

    kind: str
    plugin: str
    verdict: str
    unusable: float = 0.0
    noise_db: float | None = None
    seconds_per_second: float = 0.0
    note: str = ""


def main(arguments: list[str] | None = None) -> None:
    """Looks at all, prints a summary and what is not as it should be."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    logging.getLogger("styletransfer.hosts").setLevel(logging.ERROR)
    wanted = [(kind, plugin) for kind in options.kinds for plugin in installed(kind)]
    with tqdm(total=len(wanted), unit="plug-in", desc="loading") as bar:

        def loaded(_: object) -> None:
            bar.update()

        found = scan(wanted, timeout_s=options.timeout_s, report=loaded)
    rows = []
    for each in tqdm(found, unit="plug-in", desc="rendering"):
        if each.interface is None:
            rows.append(Row(each.kind, each.plugin, "not loaded", note=each.trouble))
        else:
            rows.append(judged(each.kind, each.plugin, options))
    print(summary(rows))
    if options.out is not None:
        with written_aside(options.out.with_suffix(".json"), overwrite=True) as file:
            file.write_text(json.dumps([asdict(row) for row in rows], indent=1) + "\n")


def judged(kind: str, plugin: str, options: Arguments) -> Row:
    """Renders one plug-in in all ways; a VST3 that does not repeat again, made anew."""
    row = _rendered(kind, plugin, options, fresh=False)
    if kind == "vst3" and row.verdict in ("history", "random"):
        again = _rendered(kind, plugin, options, fresh=True)
        if again.verdict == "repeats":
            return Row(**{**asdict(again), "verdict": "fresh"})
    return row


def _rendered(kind: str, plugin: str, options: Arguments, fresh: bool) -> Row:
    try:
        effect = plugin_effect(plugin, fresh=fresh)
    except PluginError as error:
        return Row(kind, plugin, "not loaded", note=str(error))
    except ValueError:
        return Row(kind, plugin, "no controls")
    rate = options.sample_rate
    audio = np.stack([probe_signal(rate, options.seconds, k) for k in range(2)])[None]
    rng = np.random.default_rng(0)
    controls = np.concatenate(
        [
            default_controls(effect.specs)[None],
            sample_controls(effect.specs, rng, (options.settings,)),
        ]
    )
    try:
        with open_host(effect, rate, workers=1) as host:
            began = time.perf_counter()
            first = host.render(audio, controls)
            spent = time.perf_counter() - began
            back = host.render(audio, controls[::-1])
            # A time-out on a busy machine is no crash: the item is rendered again.
            crashed = host.counts["restarts"] > host.counts["timeouts"]
        with open_host(effect, rate, workers=1) as host:
            other = host.render(audio, controls)
    except RuntimeError as error:
        return Row(kind, plugin, "crashes", note=str(error)[:300])
    good = first.status == 0
    unusable = 1.0 - float(good.mean())
    per_second = spent / len(controls) / options.seconds
    if crashed:
        return Row(kind, plugin, "crashes", unusable, None, per_second)
    if not good.any():
        return Row(kind, plugin, "unusable", unusable, None, per_second)
    pairs = {"random": other.audio, "history": back.audio[::-1]}
    for verdict, audio in pairs.items():
        if not np.array_equal(audio, first.audio):
            apart = level_change_db(first.audio[good], (audio - first.audio)[good])
            noise = float(apart.max())
            return Row(kind, plugin, verdict, unusable, noise, per_second)
    return Row(kind, plugin, "repeats", unusable, None, per_second)


def summary(rows: list[Row]) -> str:
    """Counts by format and verdict, then everything that is not plainly well."""
    lines = []
    for kind in dict.fromkeys(row.kind for row in rows):
        counts = Counter(row.verdict for row in rows if row.kind == kind)
        told = ", ".join(f"{count} {name}" for name, count in counts.most_common())
        lines.append(f"{kind}: {sum(counts.values())} installed: {told}")
    for row in rows:
        odd = row.verdict in ("history", "random", "unusable", "crashes")
        if odd or row.unusable:
            noise = "" if row.noise_db is None else f", {row.noise_db:.0f} dB"
            lines.append(
                f"  {row.plugin}: {row.verdict}{noise}"
                f", {100 * row.unusable:.0f} % of settings unusable"
            )
    return "\n".join(lines)
