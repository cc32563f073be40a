"""Sound of a known number of effect parameters: is that number proposed?

    python scripts/benchmark.py factors --data DATA --out factors
    python scripts/benchmark.py factors --engines jax --contents fixed --out factors

An effect whose k peaks are turned independently, in JAX and in pedalboard, 16 latents,
one water level; every seed draws other examples and weights. The rules and thresholds
are the defaults of `AnalysisOptions`. Content is one sound, or sections of recordings,
those of the test split for judging. Where content varies it is asked in four ways:

* ``sound``: the model sees the wet sound. Content is most of it.
* ``held``: the same model, but only the posterior means of one held-out sound under all
  settings: what the effect alone does to the codes, as axes and as directions.
* ``rendered``: the same model's codes set the effect, read by a ridge; judged by what
  is rendered of held-out sounds.
* ``difference``: the model sees the wet sound's levels less those of the dry sound.

Three effects whose answer is not the number of knobs: a gain before peak normalisation
(dead), two gains in series (duplicate), peaks so wide that they overlap. Results are
kept in OUT.json as they come: a call that was stopped goes on where it was, and calls
with some of the engines, contents or counts add up. All takes six minutes on two cores.
"""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tyro
from benchmarks.factor_models import (
    LATENTS,
    STEPS,
    TAU_DB,
    Trained,
    controller_output,
    factor_vae,
    information_against_chance,
    judged,
    judged_knobs,
    judged_means,
    knob_directions,
    reader,
    scores,
    trained,
    water_level,
)
from benchmarks.factor_sounds import (
    SPREAD_DB,
    Content,
    ContentName,
    EngineName,
    Examples,
    Knobs,
    Render,
    examples,
    fixed_content,
    opened,
    varying_content,
)
from benchmarks.factor_tables import draw, summarise
from benchmarks.recordings import collection

from ddspx import plotting
from ddspx.audio import written_aside
from vae.analysis import Analysis, AnalysisOptions, analyze
from vae.preflight import preflight

# Fixed sound, and what is known of it beforehand.
SPECIAL = {
    "dead": Knobs(peaks=2, gains=1, normalised=True),
    "duplicate": Knobs(peaks=2, gains=2),
    "wide": Knobs(peaks=5, q=0.7),
}
# Sounds that are held, and that the read settings are rendered on.
_HELD, _BANK = 3, 2


@dataclass(frozen=True)
class Arguments:
    """Command line of the suite."""

    data: Path | None = None
    """Folder or manifest; when not given what DDSPX_DATA names, else practice music."""
    category: str = "speech"
    """Use only the recordings of this folder of the collection, if any."""
    engines: tuple[EngineName, ...] = ("jax", "pedalboard")
    """Who renders."""
    contents: tuple[ContentName, ...] = ("fixed", "varying")
    """One sound, or many."""
    counts: tuple[int, ...] = (2, 3, 5)
    """Numbers of independent parameters."""
    special: tuple[str, ...] = tuple(SPECIAL)
    """Effects with a dead, a duplicate, and overlapping parameters; fixed content."""
    seeds: tuple[int, ...] = (0, 1, 2)
    """Of examples, weights and noise."""
    train: int = 2048
    """Training examples where content is fixed; four times as many where it varies."""
    held_out: int = 1024
    """Examples that are judged."""
    steps: int = STEPS
    """Of training."""
    pairs: int = 512
    """Of codes in an analysis; a power of two."""
    votes: int = 200
    """Of the FactorVAE score."""
    out: Path | None = None
    """Where to write; .json and .png are added."""

    def __post_init__(self):
        unknown = set(self.special) - set(SPECIAL)
        if unknown:
            raise ValueError(
                f"special {sorted(unknown)} unknown; choose from {', '.join(SPECIAL)}"
            )

    @property
    def analysis(self) -> AnalysisOptions:
        """Thresholds are the defaults."""
        return AnalysisOptions(pairs=self.pairs, order_pairs=max(self.pairs // 8, 2))

    @property
    def conditions(self) -> dict[str, Any]:
        """What rows must have in common to stand in one table."""
        same = ("category", "train", "held_out", "steps", "pairs", "votes")
        return {name: getattr(self, name) for name in same} | {
            "latents": LATENTS,
            "water_level_db": TAU_DB,
            "fidelity": self.analysis.fidelity,
            "audible_db": self.analysis.audible,
        }


def main(arguments: list[str] | None = None) -> None:
    """Runs what is missing, prints the tables, writes numbers and figure."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    report = _begun(options)
    known = {_key(row) for row in report["rows"]}
    with tempfile.TemporaryDirectory() as scratch:
        varying = None
        for engine, content, label, knobs in _studies(options):
            wanted = [
                s for s in options.seeds if (engine, content, label, s) not in known
            ]
            if not wanted:
                continue
            if content == "varying" and varying is None:
                clips = collection(options.data, Path(scratch))
                varying = varying_content(clips, options.category, 4 * options.train)
            sounds = fixed_content() if content == "fixed" else varying
            assert sounds is not None
            with opened(engine, knobs) as render:
                for seed in wanted:
                    study = Study(engine, render, sounds, label, knobs, seed, options)
                    report["rows"] += study.rows()
                    _keep(options.out, report)
    print(summarise(report["rows"]))
    if options.out is not None and report["rows"]:
        figure = draw(report["rows"])
        plotting.save(figure, options.out.with_suffix(".png"), overwrite=True)


def _begun(options: Arguments) -> dict[str, Any]:
    """What an earlier call with the same options left, or an empty report."""
    fresh = {"conditions": options.conditions, "rows": []}
    if options.out is None or not options.out.with_suffix(".json").is_file():
        return fresh
    found = json.loads(options.out.with_suffix(".json").read_text(encoding="utf-8"))
    if found.get("conditions") != fresh["conditions"]:
        raise ValueError(
            f"{options.out.with_suffix('.json')} holds results of other options,"
            f" {found.get('conditions')}; choose another --out"
        )
    return found


def _keep(out: Path | None, report: dict[str, Any]) -> None:
    if out is None:
        return
    with written_aside(out.with_suffix(".json"), overwrite=True) as aside:
        aside.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def _key(row: dict[str, Any]) -> tuple[str, str, str, int]:
    return row["engine"], row["content"], row["label"], row["seed"]


def _studies(options: Arguments):
    for engine in options.engines:
        for content in options.contents:
            for count in options.counts:
                yield engine, content, str(count), Knobs(count)
            for label in options.special if content == "fixed" else ():
                yield engine, content, label, SPECIAL[label]


@dataclass(frozen=True)
class Study:
    """One effect, one kind of content, one seed.

    Attributes:
      engine: who renders.
      render: the effect, open.
      content: dry sounds.
      label: number of parameters, or name of a special effect.
      knobs: what is turned.
      seed: of everything.
      options: of the suite.
    """

    engine: EngineName
    render: Render
    content: Content
    label: str
    knobs: Knobs
    seed: int
    options: Arguments

    @property
    def analysis(self) -> AnalysisOptions:
        """Of this seed."""
        return replace(self.options.analysis, seed=self.seed)

    def rows(self) -> list[dict[str, Any]]:
        """Renders, trains, judges: a row for each way of asking."""
        known, held = self.examples()
        if self.content.name == "fixed":
            row = self.asked("sound", known, held)[0]
            if self.label in ("dead", "duplicate"):
                row["knobs"] = self.of_knobs(held)
            return [row]
        plain, model = self.asked("sound", known, held)
        plain["content_db"] = SPREAD_DB * float(np.sqrt(held.dry.var(0).mean()))
        difference = (held.wet - held.dry).var(0).mean()
        plain["effect_db"] = SPREAD_DB * float(np.sqrt(difference))
        return [
            plain,
            self.held(model),
            self.rendered(model, known, held),
            self.asked("difference", known, held)[0],
        ]

    def examples(self) -> tuple[Examples, Examples]:
        """For training, and held out."""
        times = 1 if self.content.name == "fixed" else 4
        found = []
        for split, bank, count in (
            (0, self.content.train, times * self.options.train),
            (1, self.content.held_out, self.options.held_out),
        ):
            rng = np.random.default_rng([self.seed, split])
            factors = self.knobs.draw(rng, count)
            found.append(examples(self.render, bank, factors, rng))
        return found[0], found[1]

    def asked(
        self, question: str, known: Examples, held: Examples
    ) -> tuple[dict[str, Any], Trained]:
        """Trains on images of one kind and analyses: a row, and the model."""
        images, judge = known.images(question), held.images(question)
        told = preflight(images, LATENTS, water_level(images[0].size))
        model = trained(images, self.seed, self.options.steps)
        found = judged(model, judge, self.analysis)
        mean = model.posterior(images)[0]
        read = reader(mean, known.factors)
        scored = scores(model, read, judge, held.factors, self.seed)
        scored["factor_vae"] = self.factor_vae(model, question)
        row = self.row(question, [found])
        row["scores"] = scored
        row["preflight"] = {
            name: getattr(told, name)
            for name in ("lowest", "predicted", "wanted_lowest", "wanted")
        }
        held_mean = model.posterior(judge)[0]
        row["factors"] = {
            name: self.factor(column, held_mean, r2)
            for name, column, r2 in zip(
                self.knobs.names,
                held.factors.T,
                read.informativeness(held_mean, held.factors).tolist(),
                strict=True,
            )
        }
        if self.label == "duplicate":
            # What two gains do together, and what only tells them apart.
            gains = held.factors[:, :2].astype(float)
            pairs = known.factors[:, :2].astype(float)
            for name, sign in (("sum", 1.0), ("contrast", -1.0)):
                turn = np.array([[0.5], [0.5 * sign]])
                shift = 0.0 if sign > 0 else 0.5
                seen = reader(mean, pairs @ turn + shift)
                target = gains @ turn + shift
                r2 = float(seen.informativeness(held_mean, target)[0])
                row["factors"][name] = self.factor(target[:, 0], held_mean, r2)
        return row, model

    def factor(
        self, factor: np.ndarray, codes: np.ndarray, r2: float
    ) -> dict[str, float]:
        """What a latent tells of a factor, beside the R^2 of all of them."""
        most, chance = information_against_chance(codes, factor, self.seed)
        return {"r2": r2, "information": most, "chance": chance}

    def factor_vae(self, model: Trained, question: str) -> float:
        """The FactorVAE score, on held-out sounds."""
        rng = np.random.default_rng([self.seed, 2])

        def image_of(factors):
            made = examples(self.render, self.content.held_out, factors, rng)
            return made.images(question)

        return factor_vae(
            model,
            image_of,
            self.knobs.draw,
            len(self.knobs.names),
            self.seed,
            self.options.votes,
        )

    def held(self, model: Trained) -> dict[str, Any]:
        """Codes of one sound at a time under all settings: axes and directions."""
        rng = np.random.default_rng([self.seed, 3])
        places = rng.permutation(len(self.content.held_out))[:_HELD]
        found = []
        for place in places:
            factors = self.knobs.draw(rng, self.options.held_out // 2)
            one = self.content.held_out[place : place + 1]
            wet = examples(self.render, one, factors, rng).wet
            found.append(judged_means(model, wet, self.analysis))
        return self.row("held", found)

    def rendered(
        self, model: Trained, known: Examples, held: Examples
    ) -> dict[str, Any]:
        """The effect set by codes, judged by what is rendered."""
        read = reader(model.posterior(known.wet)[0], known.factors)
        mean, log_variance = model.posterior(held.wet)
        rng = np.random.default_rng([self.seed, 4])
        bank = self.content.held_out[rng.permutation(len(self.content.held_out))]
        output = controller_output(
            read, self.render, bank[:_BANK], self.engine == "jax"
        )
        found = analyze(
            mean, log_variance, output, options=self.small(distribution="means")
        )
        return self.row("rendered", [found])

    def small(self, **changes: Any) -> AnalysisOptions:
        """Fewer draws, where each is a render and its derivatives one of an effect."""
        return replace(
            self.analysis,
            pairs=max(self.options.pairs // 4, 2),
            order_pairs=max(self.options.pairs // 16, 2),
            derivative_examples=4,
            gram_examples=8,
            **changes,
        )

    def of_knobs(self, held: Examples) -> dict[str, Any]:
        """What the knobs themselves do, without a model."""
        bank = self.content.held_out[:1]
        options = replace(self.small(), derivative_examples=16)
        found = judged_knobs(
            self.render, bank, held.factors, options, self.engine == "jax"
        )
        cosine, rank = knob_directions(self.render, bank[0], held.factors[:16])
        bounds = [d.bound for d in found.dimensions]
        return {
            "names": self.knobs.names,
            "rms_db": [d.rms for d in found.dimensions],
            "bound_db": [b and float(np.sqrt(2.0 * b.value)) for b in bounds],
            "cosine": cosine.tolist(),
            "rank": rank,
        }

    def row(self, question: str, found: Sequence[Analysis]) -> dict[str, Any]:
        """What a table says of analyses; of several the one in the middle is shown."""
        middle = sorted(found, key=lambda a: a.proposal("fidelity").keep)
        chosen = middle[(len(found) - 1) // 2]
        return {
            "engine": self.engine,
            "content": self.content.name,
            "label": self.label,
            "seed": self.seed,
            "question": question,
            "parameters": len(self.knobs.names),
            "known": self.knobs.directions,
            "knobs_drawn": asdict(self.knobs),
            "proposals": {
                p.rule: {"keep": p.keep, "low": p.low, "high": p.high}
                for p in chosen.proposals
            },
            "directions": chosen.directions,
            "all_keep": [a.proposal("fidelity").keep for a in found],
            "all_directions": [a.directions for a in found],
            "rms_db": [chosen.dimensions[i].rms for i in chosen.order],
            "fidelity": [e.value for e in chosen.fidelity],
            "dropped_db": list(chosen.dropped_rms),
            "noise_floor": chosen.noise_floor,
            "warnings": list(chosen.warnings),
        }
