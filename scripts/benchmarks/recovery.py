"""Hidden settings of third-party plug-ins recovered from a clean and treated pair.

    python scripts/benchmark.py recovery --data DATA --out RUN
    python scripts/benchmark.py recovery --effects mda_delay zam_delay --clips 12

For each effect a section of each of several held-out speakers is treated with hidden
settings, uniform in the cube; settings that give near silence, or that change the
sound by less than ``least_loss``, are drawn again and counted. Clean and treated
section go the way of ``scripts/transfer.py --target``. Losses are multi-resolution
STFT losses to the target: of doing nothing, of the input at the target's level, of the
default setting, of random settings (their mean, and the best of as many as the search
may render), of the result, and of the truth, which renders the target to the bit.
Intervals are 95 % bootstraps over speakers.

What can be told of a control, by finite differences of the band levels at the truth:

* ``moved``: dB RMS by which the bands change if it alone moves by a tenth;
* ``may move``: how far it may go while the bands change by 0.1 dB RMS, the others
  making up for it as well as they can: 0.1 dB sqrt([(J'J)^-1]_ii). A control is *told*
  where that is a tenth at most; else it is *silent* where ``moved`` is below 0.1 dB,
  and *traded* where it is not, for the others hide it.

That is local: settings far away can sound the same too, which shows in the errors of
the cases whose sound was recovered. Writes RUN.json and RUN.png.
"""

import json
import tempfile
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from benchmarks.recordings import clips_of, collection
from benchmarks.recovery_figure import LABELS, draw
from tqdm import tqdm

from ddspx import plotting
from ddspx.audio import written_aside
from ddspx.data.dataset import sections
from ddspx.data.manifest import Clip
from ddspx.parameters import default_controls, identity_controls, sample_controls
from styletransfer.evaluation import bootstrap, truth_loss
from styletransfer.gradients import DEFAULT_STEP, steps_for
from styletransfer.hosts import Host, Status, open_host
from styletransfer.objective import Objective
from styletransfer.presets import load_effect
from styletransfer.transfer import Method, TargetScore, TransferConfig, transfer
from styletransfer.trials import QUIETEST_TRUTH_DB

# The nine of the original study: it trained its encoder on the first six.
MDA = (
    "mda_ambience",
    "mda_combo",
    "mda_delay",
    "mda_dynamics",
    "mda_overdrive",
    "mda_ring_mod",
    "mda_multiband",
    "mda_thru_zero",
    "mda_leslie",
)
# A control that may move this far while the bands change by less than this.
TOLERANCE, CHANGE_DB = 0.1, 0.1
# Sound counts as recovered below this share of doing nothing's loss.
RECOVERED = 0.05
MOST_DRAWS = 100
LOOKED_AT = 32


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    category: str = "speech"
    """Use only the recordings of this folder of the collection, if any."""
    split: str = "test"
    """Of the collection; searches are tuned on train."""
    effects: tuple[str, ...] = MDA
    """Effect presets or YAML files."""
    clips: int = 8
    """Sections, of one speaker each as long as there are speakers."""
    renders: int = 500
    """Budget of a search, and of the random settings beside it."""
    method: Method = "combined"
    """Search; see styletransfer/search.py."""
    section_s: float = 4.5
    """Length of a section in seconds."""
    sample_rate: int = 24000
    """Hz."""
    least_loss: float = 0.1
    """Hidden settings that change the sound by less than this are drawn again."""
    workers: int | None = None
    """Render workers; one per core by default."""
    seed: int = 0
    """Of hidden and random settings and of searches."""
    out: Path | None = None
    """Where to write; .json and .png are added."""


@dataclass(frozen=True)
class Controls:
    """What the bands tell of the controls at one setting, each [n].

    Attributes:
      moved_db: change of the bands if one alone moves by a tenth.
      may_move: how far it may go unnoticed, the others making up; 1 is the cube.
    """

    moved_db: np.ndarray
    may_move: np.ndarray

    @property
    def told(self) -> np.ndarray:
        """Whether each is identifiable."""
        return self.may_move <= TOLERANCE

    @property
    def silent(self) -> np.ndarray:
        """Whether each is not, even with the others known."""
        return ~self.told & (self.moved_db < CHANGE_DB)


@dataclass(frozen=True)
class Case:
    """One hidden setting on one section.

    Attributes:
      name: of the recording.
      group: speaker or piece.
      hidden: controls [n].
      found: controls [n] of the result.
      losses: to the target, by baseline, "result" and "truth".
      repeats: whether the true setting gives the target to the bit once more.
      controls: what can be told of them.
      inaudible: settings drawn before that changed too little.
      silenced: likewise, that gave near silence, or failed.
      renders: used by the search.
      seconds: of the search.
    """

    name: str
    group: str
    hidden: np.ndarray
    found: np.ndarray
    losses: dict[str, float]
    repeats: bool
    controls: Controls
    inaudible: int
    silenced: int
    renders: int
    seconds: float


def main(arguments: list[str] | None = None) -> None:
    """Runs all cases, prints the tables, writes numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    if options.clips < 1 or options.renders < 1:
        raise ValueError("clips and renders must be 1 or more")
    effects = {name: load_effect(name) for name in options.effects}
    report: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as scratch:
        held_out = clips_of(
            collection(options.data, Path(scratch)),
            options.split,
            options.category,
            options.section_s,
        )
        dry = by_speaker(held_out, options)
    total = len(effects) * len(dry)
    with tqdm(total=total, unit="case") as bar:
        for name, effect in effects.items():
            rng = np.random.default_rng([options.seed, zlib.crc32(name.encode())])
            cases = []
            with open_host(
                effect, options.sample_rate, workers=options.workers
            ) as host:
                for clip, audio in dry:
                    bar.set_postfix_str(name)
                    cases.append(run_case(host, clip, audio, options, rng))
                    bar.update()
                controls = [spec.name for spec in host.specs]
            report[name] = summarise(cases, controls)
    _print(report, len(dry), options)
    if options.out is None:
        return
    about = {
        "clips": len(dry),
        "speakers": len({clip.group for clip, _ in dry}),
        "renders": options.renders,
        "method": options.method,
        "section_s": options.section_s,
        "sample_rate": options.sample_rate,
        "seed": options.seed,
        "split": options.split,
    }
    with written_aside(options.out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps({**about, "effects": report}, indent=1) + "\n")
    figure = draw(
        report,
        f"Hidden settings recovered with the target given: {len(dry)} sections of"
        f" {about['speakers']} speakers, {options.renders} renders each",
    )
    plotting.save(figure, options.out.with_suffix(".png"), overwrite=True)


def by_speaker(
    clips: tuple[Clip, ...], options: Arguments
) -> list[tuple[Clip, np.ndarray]]:
    """Mono sections [1, time]: the first of one clip a speaker, then of their second.

    Speakers are spread evenly over the collection where there are more than wanted.

    Raises:
      ValueError: no clip is long enough.
    """
    groups: dict[str, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.group, []).append(clip)
    speakers = list(groups.values())
    if not speakers:
        raise ValueError(
            f"no recording of {options.section_s} s in split {options.split}"
        )
    if len(speakers) > options.clips:
        places = np.linspace(0, len(speakers) - 1, options.clips).round().astype(int)
        speakers = [speakers[i] for i in places]
    depth = max(len(members) for members in speakers)
    chosen = [m[k] for k in range(depth) for m in speakers if k < len(m)]
    made = []
    for clip in chosen:
        parts = sections(
            clip, options.section_s, sample_rate=options.sample_rate, channels=1
        )
        first = next(iter(parts), None)
        if first is not None:
            made.append((clip, first.samples))
        if len(made) == options.clips:
            break
    if not made:
        raise ValueError(f"no section of {options.section_s} s in {len(clips)} clips")
    return made


def run_case(
    host: Host,
    clip: Clip,
    audio: np.ndarray,
    options: Arguments,
    rng: np.random.Generator,
) -> Case:
    """Draws a hidden setting, searches it, and judges everything beside it.

    Raises:
      ValueError: no audible setting in `MOST_DRAWS` draws.
    """
    inaudible = silenced = 0
    for _ in range(MOST_DRAWS):
        hidden = sample_controls(host.specs, rng, (1,))
        rendered = host.render(audio[None], hidden)
        target = rendered.audio[0]
        power = np.mean(np.square(target, dtype=np.float64))
        quiet = 10 * np.log10(power + 1e-20) < QUIETEST_TRUTH_DB
        if rendered.status[0] != Status.OK or quiet:
            silenced += 1
            continue
        nothing = float(truth_loss(audio, target))
        if nothing >= options.least_loss:
            break
        inaudible += 1
    else:
        raise ValueError(
            f"{host.effect.name}: {MOST_DRAWS} random settings left {clip.path} as it"
            " is or silent; lower --least-loss"
        )
    gain = np.float32(np.sqrt(power / np.mean(np.square(audio, dtype=np.float64))))
    score = TargetScore(jnp.asarray(target), host.sample_rate)
    known = np.concatenate([hidden, default_controls(host.specs)[None]])
    again, standing = host.render(audio[None], known, np.zeros(2, np.int32)).audio
    random, best_random = random_losses(host, audio, score, options.renders, rng)
    config = TransferConfig(
        method=options.method, renders=options.renders, seed=options.seed
    )
    started = time.perf_counter()
    result = transfer(host, audio, target, paired=True, config=config)
    return Case(
        name=clip.path,
        group=clip.group,
        hidden=hidden[0],
        found=result.controls,
        losses={
            "nothing": nothing,
            "level": float(truth_loss(gain * audio, target)),
            "default": float(truth_loss(standing, target)),
            "random": random,
            "best_random": best_random,
            "result": result.loss["after"],
            "truth": float(truth_loss(again, target)),
        },
        repeats=np.array_equal(again, target),
        controls=told(host, audio, score, hidden[0]),
        inaudible=inaudible,
        silenced=silenced,
        renders=result.renders,
        seconds=time.perf_counter() - started,
    )


def random_losses(
    host: Host,
    audio: np.ndarray,
    score: TargetScore,
    count: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Mean and least loss of `count` random settings.

    The least is that of the `LOOKED_AT` whose bands are nearest to the target's, and
    the mean that of as many others, since the loss itself takes ten times as long.
    """
    settings = sample_controls(host.specs, rng, (count,))
    judge = _judge(host, audio, score, count + 2 * LOOKED_AT)
    apart = np.sum(judge.residuals(settings) ** 2, axis=1)
    nearest = np.argsort(apart, kind="stable")[:LOOKED_AT]
    some = judge.losses(settings[:LOOKED_AT])
    least = min(np.min(judge.losses(settings[nearest])), np.min(some))
    return float(np.mean(some[np.isfinite(some)])), float(least)


def _judge(host: Host, audio: np.ndarray, score: TargetScore, budget: int) -> Objective:
    return Objective(
        host, audio, score, budget=budget, center=identity_controls(host.specs)
    )


def told(
    host: Host, audio: np.ndarray, score: TargetScore, truth: np.ndarray
) -> Controls:
    """What the bands tell of each control around the truth; see the module.

    The Jacobian is of central differences in the steps of the searches. A control that
    moves in stairs wider than those is measured over a tenth to both sides instead.
    """
    n = len(truth)
    widths = np.stack([steps_for(host.specs, DEFAULT_STEP), np.full(n, TOLERANCE)])
    moves = np.concatenate([np.diag(w) * sign for w in widths for sign in (1, -1)])
    ends = np.clip(truth + moves, 0.0, 1.0)
    levels = _judge(host, audio, score, len(ends)).residuals(ends)
    levels = levels.reshape(2, 2, n, -1)
    apart = np.abs(ends - truth).sum(axis=1).reshape(2, 2, n)
    slopes = (levels[:, 0] - levels[:, 1]) / apart.sum(axis=1)[..., None]
    fine, wide = np.linalg.norm(slopes, axis=-1)
    stairs = TOLERANCE * fine < 0.1 * CHANGE_DB
    jacobian = np.where((stairs & (wide > fine))[:, None], slopes[1], slopes[0]).T
    # As near a border the way is shorter on one side: the longer way counts.
    change = np.linalg.norm(levels[1], axis=-1)
    moved = np.where(apart[1] > 0.5 * TOLERANCE, change, 0.0).max(axis=0)
    # Of a control without any effect it is known that it lies in the cube.
    curvature = jacobian.T @ jacobian / CHANGE_DB**2 + np.eye(n)
    return Controls(moved, np.sqrt(np.diag(np.linalg.inv(curvature))))


def summarise(cases: list[Case], names: list[str]) -> dict[str, Any]:
    """Means with intervals, and a table of the controls; plain JSON."""
    groups = [case.group for case in cases]
    losses = {
        key: np.array([case.losses[key] for case in cases])
        for key in (*LABELS, "truth")
    }
    nothing, result = losses["nothing"], losses["result"]
    share = result / nothing
    recovered = share < RECOVERED
    apart = np.abs(np.stack([case.found - case.hidden for case in cases]))
    can = np.stack([case.controls.told for case in cases])
    cannot = np.stack([case.controls.silent for case in cases])
    controls = {}
    for i, name in enumerate(names):
        controls[name] = {
            "error": float(np.median(apart[:, i])),
            "error_where_told": _median(apart[can[:, i], i]),
            "error_where_recovered": _median(apart[recovered, i]),
            "told": float(can[:, i].mean()),
            "silent": float(cannot[:, i].mean()),
            "moved_db": _median([case.controls.moved_db[i] for case in cases]),
            "may_move": _median([case.controls.may_move[i] for case in cases]),
        }
    return {
        "losses": {
            key: list(bootstrap(values, groups, draws=2000))
            for key, values in losses.items()
        },
        "truth_most": float(losses["truth"].max()),
        "repeats": float(np.mean([case.repeats for case in cases])),
        "share": list(bootstrap(share, groups, draws=2000)),
        "share_median": float(np.median(share)),
        "beats_nothing": float(np.mean(result < nothing)),
        "beats_level": float(np.mean(result < losses["level"])),
        "beats_best_random": float(np.mean(result < losses["best_random"])),
        "recovered": float(recovered.mean()),
        "inaudible": sum(case.inaudible for case in cases),
        "silenced": sum(case.silenced for case in cases),
        "renders": float(np.mean([case.renders for case in cases])),
        "seconds": float(np.median([case.seconds for case in cases])),
        "controls": controls,
        "cases": [_plain(asdict(case)) for case in cases],
    }


def _median(values: Any) -> float | None:
    return float(np.median(values)) if len(values) else None


def _plain(table: dict[str, Any]) -> dict[str, Any]:
    # Seconds differ from run to run; everything else is the same bytes.
    table.pop("seconds")
    return jax.tree.map(lambda x: x.tolist() if hasattr(x, "tolist") else x, table)


def _print(report: dict[str, Any], count: int, options: Arguments) -> None:
    print(
        f"{count} sections an effect, {options.renders} renders; mean multi-resolution"
        " STFT loss to the target"
    )
    head = "".join(f"{label:>9}" for label in LABELS.values())
    print(
        f"{'':<16}{head}{'95 %':>16}{'share':>8}{'< nothing':>10}{'< level':>8}"
        f"{'< rnd':>7}{'< 5 %':>7}{'redrawn':>9}{'renders':>9}{'s':>6}"
    )
    for name, row in report.items():
        cells = "".join(f"{row['losses'][key][0]:>9.3f}" for key in LABELS)
        low, high = row["losses"]["result"][1:]
        redrawn = f"{row['inaudible']}+{row['silenced']}"
        print(
            f"{Path(name).stem:<16}{cells}{f'{low:.3f} - {high:.3f}':>16}"
            f"{row['share_median']:>8.1%}{row['beats_nothing']:>10.0%}"
            f"{row['beats_level']:>8.0%}{row['beats_best_random']:>7.0%}"
            f"{row['recovered']:>7.0%}{redrawn:>9}"
            f"{row['renders']:>9.0f}{row['seconds']:>6.1f}"
        )
    print(
        "share: median of the result's loss in that of nothing; < 5 %: sound recovered;"
        " redrawn: hidden settings that were inaudible + silent"
    )
    most = max(row["truth_most"] for row in report.values())
    moody = [name for name, row in report.items() if row["repeats"] < 1.0]
    print(
        "rendered again, the true settings give the target to the bit"
        + (f", but not with {', '.join(moody)}" if moody else " in every case")
        + f"; loss at most {most:.0e}, the rounding of the loss"
    )
    print(
        f"{'control, medians':<30}{'error':>7}{'if told':>9}{'if < 5 %':>10}"
        f"{'told':>6}{'silent':>8}{'moved dB':>10}{'may move':>10}"
    )
    for effect, row in report.items():
        for name, found in row["controls"].items():
            label = f"{Path(effect).stem} {name.split('.')[-1]}"
            print(
                f"{label:<30}{found['error']:>7.3f}"
                f"{_number(found['error_where_told']):>9}"
                f"{_number(found['error_where_recovered']):>10}{found['told']:>6.0%}"
                f"{found['silent']:>8.0%}{_number(found['moved_db'], 2):>10}"
                f"{_number(found['may_move']):>10}"
            )


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
