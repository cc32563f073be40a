"""Rules of timbre transfer: the curves of one sound, fitted to what a model was shown.

A model knows the loudness and the register that it was trained on; the curves of
another instrument are brought there before it plays them. Every rule says what it did
and can be switched off. Curves are [frames] by name: ``loudness_db``, ``f0_hz`` with
``confidence``, and any others.

The order is: register, then tuning, then loudness, then what is not voiced, then other
curves. After magenta/ddsp's timbre transfer (J. Engel et al., DDSP, ICLR 2020), with
quantiles in place of its sklearn transform.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from ddspx.curves import Curves, smooth_walk
from ddspx.units import hz_to_midi, midi_to_hz

# Below the loudest frame by more than this, a frame is silence between notes.
SOUNDING_DB = 40.0
# A rise of one dB in the input becomes at most so many in the fitted curve.
_STEEPEST = 3.0
# Over which a frame that is not voiced is turned down.
_SMOOTH_S = 0.08
_SILENCE_DB = -80.0
_LOUDNESS, _F0, _CONFIDENCE = "loudness_db", "f0_hz", "confidence"


class TimbreError(ValueError):
    """A rule or an edit that cannot be applied; the message says why."""


@dataclass(frozen=True)
class Rules:
    """How curves are fitted to the training range.

    Attributes:
      octave: octaves that f0 is moved by; ``"auto"`` brings the median note nearest to
        that of training.
      semitones: moved by in addition.
      autotune: share of the way to the nearest semitone that f0 is moved, 0 to 1.
      loudness: ``"fit"`` maps the quantiles of loudness onto those of training,
        ``"affine"`` mean and deviation, ``"keep"`` nothing; a number is dB added.
      confidence_threshold: of frames that are voiced.
      unvoiced: frames that are not: ``"quieter"`` by `quiet_db`, ``"silent"``, or
        ``"keep"`` as they are.
      quiet_db: dB.
      also_fit: other curves whose quantiles are mapped onto those of training.
    """

    octave: Literal["auto"] | int = "auto"
    semitones: float = 0.0
    autotune: float = 0.0
    loudness: Literal["fit", "affine", "keep"] | float = "fit"
    confidence_threshold: float = 0.8
    unvoiced: Literal["quieter", "silent", "keep"] = "quieter"
    quiet_db: float = 20.0
    also_fit: tuple[str, ...] = ()

    def __post_init__(self):
        numbers = (self.semitones, self.autotune, self.quiet_db)
        if isinstance(self.loudness, float):
            numbers += (self.loudness,)
        if not all(map(math.isfinite, numbers)) or not 0 <= self.autotune <= 1:
            raise TimbreError(
                f"semitones {self.semitones}, loudness {self.loudness} and quiet_db"
                f" {self.quiet_db} are numbers, autotune {self.autotune} is 0 to 1"
            )
        if not 0 <= self.confidence_threshold <= 1:
            raise TimbreError(
                f"confidence_threshold {self.confidence_threshold}: expected 0 to 1"
            )


class Fitted(NamedTuple):
    """Curves in the training range.

    Attributes:
      curves: all that were given.
      voiced: frames that count as notes, bool [frames].
      steps: what each rule did, by the name of the rule: plain numbers and words.
    """

    curves: Curves
    voiced: np.ndarray
    steps: dict[str, dict[str, Any]]


def voiced_frames(
    curves: Curves, confidence_threshold: float, sounding_db: float = SOUNDING_DB
) -> np.ndarray:
    """Frames of notes: as loud as notes are, and of a sure pitch where one is known.

    Args:
      curves: loudness_db, confidence; where one is missing, the other decides.
      confidence_threshold: the least.
      sounding_db: below the loudest frame.

    Returns:
      Bool [frames].
    """
    found = np.ones(curves.frames, bool)
    loudness = curves.values.get(_LOUDNESS)
    if loudness is not None:
        found &= (loudness > loudness.max() - sounding_db) & (loudness > _SILENCE_DB)
    sure = curves.values.get(_CONFIDENCE)
    return found if sure is None else found & (sure >= confidence_threshold)


def fit(
    curves: Curves,
    ranges: Mapping[str, Mapping[str, Any]],
    rules: Rules,
    *,
    over: Literal["voiced", "all"] = "voiced",
) -> Fitted:
    """Applies the rules.

    Args:
      curves: of the sound.
      ranges: of training, by curve: ``min``, ``max``, ``mean``, ``std``, and
        ``quantiles``, a dictionary from share to value.
      rules: which.
      over: the frames that `ranges` are of.

    Returns:
      `Fitted`. Where nothing is voiced, all frames count instead, and a step says so.

    Raises:
      TimbreError: a rule needs a curve or a range that is not there.
    """
    voiced = voiced_frames(curves, rules.confidence_threshold)
    steps: dict[str, dict[str, Any]] = {
        "voiced": {
            "share": float(voiced.mean()),
            "confidence_threshold": rules.confidence_threshold,
        }
    }
    counted = voiced if voiced.any() and over == "voiced" else np.ones_like(voiced)
    if not voiced.any():
        steps["voiced"]["note"] = "nothing is voiced, so that all frames count"
    values = dict(curves.values)
    if _F0 in values:
        values[_F0], steps["register"] = _register(values[_F0], counted, ranges, rules)
        if rules.autotune:
            values[_F0], steps["autotune"] = _tuned(values[_F0], counted, rules)
    elif rules.octave not in ("auto", 0) or rules.semitones or rules.autotune:
        raise TimbreError(
            "octave, semitones and autotune move f0_hz, which is not here"
        )
    if _LOUDNESS in values:
        values[_LOUDNESS], steps["loudness"] = _loudness(
            values[_LOUDNESS], counted, ranges, rules
        )
        if _F0 in values and over == "voiced" and voiced.any():
            values[_LOUDNESS], steps["unvoiced"] = _unvoiced(
                values[_LOUDNESS], voiced, curves.frame_rate_hz, rules
            )
    elif rules.loudness not in ("fit", "keep"):
        raise TimbreError(f"loudness {rules.loudness} needs loudness_db")
    for name in rules.also_fit:
        if name not in values or name not in ranges:
            raise TimbreError(
                f"{name!r} cannot be fitted: curves are {', '.join(values)}, ranges are"
                f" known of {', '.join(ranges)}"
            )
        values[name], steps[f"fit {name}"] = _quantiles(
            values[name], counted, ranges[name]
        )
    return Fitted(Curves(curves.frame_rate_hz, values), voiced, steps)


def outside(
    curves: Curves, ranges: Mapping[str, Mapping[str, Any]], counted: np.ndarray
) -> dict[str, float]:
    """Share of frames in which a curve is where the model has never been.

    Args:
      curves: any.
      ranges: see `fit`.
      counted: frames, bool [frames].

    Returns:
      By name, within [0, 1].
    """
    found = {}
    for name, curve in curves.values.items():
        if name in ranges and counted.any():
            here = curve[counted]
            low, high = ranges[name]["min"], ranges[name]["max"]
            slack = 1e-6 * (high - low)
            found[name] = float(np.mean((here < low - slack) | (here > high + slack)))
    return found


# ----------------------------------------------------------------------- rules


def _register(f0_hz, counted, ranges, rules: Rules):
    note = hz_to_midi(f0_hz.astype(np.float64))
    median = float(np.median(note[counted]))
    step: dict[str, Any] = {"median_note": median, "semitones": rules.semitones}
    octave = rules.octave
    if octave == "auto":
        if _F0 not in ranges:
            octave = 0
            step["note"] = "the model has no range of f0, so that nothing is moved"
        else:
            wanted = float(hz_to_midi(_median(ranges[_F0])))
            step["median_note_of_training"] = wanted
            octave = math.floor((wanted - median - rules.semitones) / 12.0 + 0.5)
    step["octaves"] = int(octave)
    moved = 12.0 * octave + rules.semitones
    step["median_note_after"] = median + moved
    return f0_hz * 2.0 ** (moved / 12.0), step


def _tuned(f0_hz, counted, rules: Rules):
    """f0 towards the semitones, of a scale that is itself in tune with the sound."""
    note = hz_to_midi(f0_hz.astype(np.float64))
    # The mean direction of the fractions is where this sound has its semitones.
    turns = np.exp(2j * np.pi * note[counted]).mean()
    tuning = float(np.angle(turns) / (2 * np.pi))
    wanted = np.round(note - tuning) + tuning
    moved = note + rules.autotune * (wanted - note)
    step = {"share": rules.autotune, "tuning_cents": 100.0 * tuning}
    return midi_to_hz(moved), step


def _loudness(loudness, counted, ranges, rules: Rules):
    if isinstance(rules.loudness, (int, float)):
        return loudness + rules.loudness, {"rule": "added", "db": float(rules.loudness)}
    if rules.loudness == "keep":
        return loudness, {"rule": "kept"}
    if _LOUDNESS not in ranges:
        return loudness, {"rule": "kept", "note": "the model has no range of loudness"}
    if rules.loudness == "fit":
        fitted, step = _quantiles(loudness, counted, ranges[_LOUDNESS])
        return fitted, {"rule": "quantiles", **step}
    here = loudness[counted].astype(np.float64)
    mean, deviation = float(here.mean()), float(here.std())
    known = ranges[_LOUDNESS]
    slope = min(float(known["std"]) / max(deviation, 1e-3), _STEEPEST)
    fitted = float(known["mean"]) + slope * (loudness - mean)
    step = {"rule": "affine", "mean_before": mean, "mean_after": float(known["mean"])}
    return fitted, {**step, "slope": slope}


def _quantiles(curve, counted, known):
    """A line from quantile to quantile, from the median outwards, never too steep.

    Beyond the outermost the slope is 1, up to the greatest value of training: silence
    stays silence.
    """
    shares = sorted(map(float, known["quantiles"]))
    wanted = [float(known["quantiles"][share]) for share in shares]
    here = np.quantile(curve[counted].astype(np.float64), shares)
    # Where the input has no spread at all, the curve is only shifted.
    least = 1e-6 * (1.0 + np.abs(here).max())
    middle = int(np.argmin(np.abs(np.array(shares) - 0.5)))
    knots = {middle: (here[middle], wanted[middle])}
    for way in (1, -1):
        at = middle
        while 0 <= at + way < len(shares):
            nxt = at + way
            run = max(abs(here[nxt] - here[at]), least)
            rise = min(abs(wanted[nxt] - wanted[at]), _STEEPEST * run)
            x, y = knots[at]
            knots[nxt] = (x + way * run, y + way * rise)
            at = nxt
    x, y = np.array([knots[i] for i in range(len(shares))]).T
    fitted = np.interp(curve, x, y)
    fitted += np.minimum(curve - x[0], 0.0) + np.maximum(curve - x[-1], 0.0)
    fitted = np.minimum(fitted, max(float(known["max"]), y[-1]))
    step = {
        "median_before": float(here[middle]),
        "median_after": float(wanted[middle]),
        "quantiles_before": [round(float(v), 4) for v in here],
        "quantiles_after": [round(float(v), 4) for v in y],
    }
    return fitted, step


def _unvoiced(loudness, voiced, frame_rate_hz: float, rules: Rules):
    step: dict[str, Any] = {"rule": rules.unvoiced, "share": float(1 - voiced.mean())}
    if rules.unvoiced == "keep":
        return loudness, step
    depth = rules.quiet_db
    if rules.unvoiced == "silent":
        depth = max(float(loudness.max()) - _SILENCE_DB, 0.0)
    step["db"] = -depth
    width = max(1, round(_SMOOTH_S * frame_rate_hz))
    window = np.bartlett(2 * width + 1)
    padded = np.pad(voiced.astype(np.float64), width, mode="edge")
    sure = np.convolve(padded, window / window.sum(), "valid")
    # Notes stay whole: only what is not one is turned down.
    sure = np.where(voiced, 1.0, sure)
    return loudness - depth * (1.0 - sure), step


def _median(known: Mapping[str, Any]) -> float:
    quantiles = {float(share): value for share, value in known["quantiles"].items()}
    return float(quantiles[min(quantiles, key=lambda share: abs(share - 0.5))])


# ----------------------------------------------------------------------- edits


class Edit(NamedTuple):
    """A change of one curve by hand.

    Attributes:
      kind: ``"scale"`` multiplies (of curves in dB the distance from their median),
        ``"offset"`` adds, ``"wander"`` adds a slow random walk around zero.
      name: of the curve.
      amount: physical, or in deviations.
      deviations: whether the amount is in standard deviations of training.
    """

    kind: Literal["scale", "offset", "wander"]
    name: str
    amount: float
    deviations: bool = False


def parse_edit(kind: Literal["scale", "offset", "wander"], words: str) -> Edit:
    """An edit as it is typed: ``z_3=+1.5``, ``z_3=+1.5sd``, ``centroid_hz=1.2``.

    Raises:
      TimbreError: it reads otherwise.
    """
    name, equals, amount = (part.strip() for part in words.partition("="))
    deviations = amount.endswith("sd")
    try:
        number = float(amount.removesuffix("sd"))
    except ValueError:
        number = math.nan
    if not (name and equals and math.isfinite(number)) or (
        deviations and kind == "scale"
    ):
        unit = "" if kind == "scale" else " or NAME=+1.5sd"
        raise TimbreError(f"--{kind} {words!r}: expected NAME=NUMBER{unit}")
    return Edit(kind, name, number, deviations)


def edit(
    curves: Curves,
    edits: tuple[Edit, ...],
    ranges: Mapping[str, Mapping[str, Any]],
    *,
    seed: int = 0,
    wander_hz: float = 1.0,
) -> Curves:
    """Applies edits in their order.

    Args:
      curves: to change.
      edits: which.
      ranges: see `fit`; of edits in deviations.
      seed: of wandering.
      wander_hz: how fast; a new direction so many times a second.

    Returns:
      `Curves`.

    Raises:
      TimbreError: there is no such curve, or no range of it.
    """
    values = dict(curves.values)
    for number, one in enumerate(edits):
        if one.name not in values:
            raise TimbreError(
                f"--{one.kind} {one.name}: there is no such curve; the curves are"
                f" {', '.join(values)}"
            )
        amount = one.amount
        if one.deviations:
            if one.name not in ranges:
                raise TimbreError(
                    f"--{one.kind} {one.name}: its deviation in training is not known;"
                    " give the amount in its own unit"
                )
            amount *= float(ranges[one.name]["std"])
        curve = values[one.name].astype(np.float64)
        if one.kind == "offset":
            curve = curve + amount
        elif one.kind == "scale":
            centre = float(np.median(curve)) if one.name.endswith("_db") else 0.0
            curve = centre + amount * (curve - centre)
        else:
            walk = smooth_walk((seed, number), curves.times_s, wander_hz)
            curve = curve + amount * walk[:, 0]
        values[one.name] = curve
    return Curves(curves.frame_rate_hz, values)
