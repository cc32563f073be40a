"""Plays a sound, notes or drawn curves on a trained synthesis model.

    python scripts/resynthesize.py FLUTE.wav --checkpoint RUN --out VIOLIN.wav
    python scripts/resynthesize.py FLUTE.wav --checkpoint RUN --octave 1 --loudness keep --scale f0_hz=1.01 --offset z_3=+1.5sd
    python scripts/resynthesize.py RAIN.wav --checkpoint RUN --loudness-from DRUMS.wav --stretch 1.5
    python scripts/resynthesize.py --midi SONG.mid --checkpoint RUN --playing.vibrato-cents 30 --out SONG.wav
    python scripts/resynthesize.py --checkpoint RUN --set loudness_db=-30 --set mood=DRAWN.csv --seconds 60 --out RAIN.wav
    python scripts/resynthesize.py RAIN.wav --checkpoint RUN --seconds 600 --loop --wander centroid_hz=200 --randomize band_amplitudes=3
    python scripts/resynthesize.py VIOLIN.wav --checkpoint RUN --level noise_magnitudes=-inf --level harmonic_distribution[1::2]=-20
    python scripts/resynthesize.py VOICE.wav --checkpoint RUN --follow-loudness 2

RUN is a folder of a DDSP or NoiseBandNet model. The input is analysed, its loudness and
register are fitted to what the model was trained on (every rule is shown, and has a
switch), curves are edited, and the model plays them: at the input's length, sample rate
and number of channels. The amplitudes that the model drives its synth by can be changed,
too (--level, --randomize): harmonics, bands and bins by their place from 0, as Python
has ranges, and noise by Hz. --follow-loudness listens to what the model made of the
loudness it was given and corrects it. Of several channels the mean is analysed; each
gets its own level, and by --channels the same sound or noise of its own.

Writes OUT.wav, OUT.csv (the curves as they were played; --set NAME=OUT.csv reads them),
OUT.json (rules, levels, distances) and OUT.png. Curves that only a person can draw are
read from INPUT.csv beside the input. Any length in constant memory. The same command
gives the same bytes. Bad input: one line, exit code 2.
"""  # noqa: E501

import math
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import compiler
import numpy as np
import resynthesis_report
import tyro
from resynthesis_report import Work
from resynthesis_sound import (
    Performance,
    analysed,
    channel_levels,
    followed_loudness,
    loudest,
    mixed,
    rendered,
)

from ddspx import audio, curves, notes, timbre
from ddspx.control_gains import ControlGain, frame_gains, parse_gain
from ddspx.curves import Curves
from ddspx.notes import Playing
from ddspx.resynthesis import Synthesizer, load_synthesizer

# Over which a loop begins again.
_FADE_S = 0.25
_NOTHING = (
    "nothing to play: give an input, --midi, --loudness-from, or --set with curves or"
    " --seconds"
)
_MANY = tyro.conf.UseAppendAction[tuple[str, ...]]


@dataclass(frozen=True)
class Arguments:
    """Command line of resynthesize.py."""

    checkpoint: Path
    """Run folder of the model."""
    input: tyro.conf.Positional[Path | None] = None
    """The sound that is analysed; not needed with --midi or --set."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--output"])] = None
    """File to write; INPUT_RUN.wav beside the input if left."""
    midi: Path | None = None
    """A MIDI file that is played instead of an input."""
    midi_track: int | None = None
    """Of the file, from 0; all if left."""
    midi_channel: int | None = None
    """Of the file, 1 to 16; all but drums if left."""
    octave: Literal["auto"] | int = "auto"
    """Octaves that f0 is moved by; auto: nearest to the training's median note."""
    semitones: float = 0.0
    """Moved by in addition."""
    autotune: float = 0.0
    """Share of the way to the nearest semitone, 0 to 1."""
    loudness: Literal["fit", "affine", "keep"] | float = "fit"
    """fit: quantiles of training; affine: its mean and deviation; or dB to add."""
    loudness_from: Path | None = None
    """A sound whose loudness takes the place of the input's."""
    confidence_threshold: float = 0.8
    """Of frames that count as voiced."""
    unvoiced: Literal["quieter", "silent", "keep"] = "quieter"
    """What becomes of frames that are not voiced."""
    quiet_db: float = 20.0
    """By which quieter turns them down."""
    fit: _MANY = ()
    """Other curves whose quantiles are mapped onto those of training."""
    set: _MANY = ()
    """NAME=CURVE.csv, NAME=CURVE.npy, NAME=NUMBER or NAME=FILE.mid:CONTROLLER."""
    scale: _MANY = ()
    """NAME=1.2: multiplies a curve; of curves in dB the distance from the median."""
    offset: _MANY = ()
    """NAME=+3, or NAME=+1.5sd in deviations of training: added to a curve."""
    wander: _MANY = ()
    """NAME=200 or NAME=1sd: a slow random walk of that deviation is added."""
    wander_hz: float = 1.0
    """How fast it walks."""
    level: _MANY = ()
    """NAME=-6, NAME[1::2]=-inf, NAME[500hz:2khz]=+3: dB on amplitudes of the synth."""
    follow_loudness: int = 0
    """How often it is played again, its level corrected where it was not as asked."""
    randomize: _MANY = ()
    """NAME=3, NAME[2khz:]=6: each amplitude walks by itself, dB of deviation."""
    stretch: float = 1.0
    """Time, by the curves: 2 is half as fast at the same pitch."""
    seconds: float | None = None
    """Length instead of the input's."""
    loop: bool = False
    """Curves that end too early begin again instead of standing still."""
    channels: Literal["auto", "same", "own"] = "auto"
    """Of an input of several: one sound, or noise of their own (auto: NoiseBandNet)."""
    playing: Playing = field(default_factory=Playing)
    """How notes are played."""
    which: Literal["best", "last"] = "best"
    """Checkpoint."""
    clip: bool = False
    """Clip what integer formats cannot hold; without it the file is attenuated."""
    seed: int = 0
    """Of noise and wandering."""
    overwrite: bool = False
    """Replace existing output."""


def main(arguments: list[str] | None = None) -> int:
    """Checks everything, then works; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        rules, edits, gains = _rules(options), _edits(options), _gains(options)
        output = _output(options)
        synthesizer = load_synthesizer(options.checkpoint, options.which)
        _resynthesize(options, synthesizer, rules, edits, gains, output)
    except (ValueError, OSError, RuntimeError) as error:
        print(f"resynthesize.py: {error}", file=sys.stderr)
        return 2
    return 0


def _rules(options: Arguments) -> timbre.Rules:
    return timbre.Rules(
        octave=options.octave,
        semitones=options.semitones,
        autotune=options.autotune,
        loudness=options.loudness,
        confidence_threshold=options.confidence_threshold,
        unvoiced=options.unvoiced,
        quiet_db=options.quiet_db,
        also_fit=options.fit,
    )


def _edits(options: Arguments) -> tuple[timbre.Edit, ...]:
    found = [timbre.parse_edit("scale", words) for words in options.scale]
    found += [timbre.parse_edit("offset", words) for words in options.offset]
    found += [timbre.parse_edit("wander", words) for words in options.wander]
    return tuple(found)


def _gains(options: Arguments) -> tuple[ControlGain, ...]:
    found = [parse_gain("level", words) for words in options.level]
    found += [parse_gain("randomize", words) for words in options.randomize]
    return tuple(found)


def _output(options: Arguments) -> Path:
    """Where the sound goes; nothing that exists is in its way."""
    if options.input is not None and options.midi is not None:
        raise ValueError("give an input or --midi, not both")
    source = options.input or options.midi
    others = (options.loudness_from, options.seconds, options.set)
    if source is None and not any(others):
        raise ValueError(_NOTHING)
    output = options.out
    if output is None:
        if source is None:
            raise ValueError("without an input, name the output by --out")
        run = options.checkpoint.resolve().name
        output = source.with_name(f"{source.stem}_{run}.wav")
    written = resynthesis_report.outputs(output)
    given = (options.input, options.midi, options.loudness_from)
    inputs = {path.resolve() for path in given if path is not None}
    for path in written:
        if path.resolve() in inputs:
            raise ValueError(f"{path}: is an input; choose another name for the output")
        if path.exists() and not options.overwrite:
            raise ValueError(
                f"{path}: exists already; choose another name, or add --overwrite"
            )
    if not output.parent.is_dir():
        raise ValueError(f"{output.parent}: is no folder to write to")
    if not (math.isfinite(options.stretch) and options.stretch > 0):
        raise ValueError(f"--stretch {options.stretch} must be a positive number")
    if options.seconds is not None and not 0 < options.seconds < math.inf:
        raise ValueError(f"--seconds {options.seconds} must be a positive number")
    if options.follow_loudness < 0:
        raise ValueError(f"--follow-loudness {options.follow_loudness} is below 0")
    return output


def _resynthesize(
    options: Arguments,
    synthesizer: Synthesizer,
    rules: timbre.Rules,
    edits: tuple[timbre.Edit, ...],
    gains: tuple[ControlGain, ...],
    output: Path,
) -> None:
    source = None if options.input is None else audio.info(options.input)
    rate = synthesizer.sample_rate if source is None else source.sample_rate
    channels = 1 if source is None else source.channels
    audio.check_writable(output, rate, channels)
    found, told = _gathered(options, synthesizer)
    raw, steps = found, {}
    if options.input is not None:
        over = "voiced" if synthesizer.kind == "ddsp" else "all"
        found, _, steps = timbre.fit(found, synthesizer.ranges, rules, over=over)
    found = _set(options, synthesizer, found)
    found = timbre.edit(
        found, edits, synthesizer.ranges, seed=options.seed, wander_hz=options.wander_hz
    )
    samples = _length(options, source, synthesizer, found)
    if options.stretch != 1.0:
        found = found.stretched(options.stretch)
    frames = max(
        1, math.ceil(samples * synthesizer.sample_rate / rate / synthesizer.hop)
    )
    fade = round(_FADE_S * found.frame_rate_hz)
    found = found.lasting(frames, loop=options.loop, fade_frames=fade)
    mixing = frame_gains(
        gains,
        synthesizer.sizes,
        synthesizer.centers_hz,
        frame_rate_hz=found.frame_rate_hz,
        seed=options.seed,
        wander_hz=options.wander_hz,
    )
    missing = [n for n in synthesizer.control_names if n not in found.values]
    if missing:
        raise ValueError(
            f"the model needs the curves {', '.join(missing)}; give them by --set"
            f" {missing[0]}=CURVE.csv or a number, or in {options.input or 'INPUT'}"
            " with the suffix .csv"
        )
    own = options.channels == "own" or (
        options.channels == "auto" and synthesizer.kind == "noisebandnet"
    )
    with tempfile.TemporaryDirectory() as folder:
        count = channels if own else 1
        performance = Performance(
            synthesizer, found, options.seed, mixing, options.confidence_threshold
        )
        performance, followed = followed_loudness(
            performance, Path(folder), options.follow_loudness
        )
        sounds = rendered(performance, Path(folder), count)
        levels = channel_levels(options.input, channels)
        peak = float(levels.max()) * loudest(sounds)
        gain = 1.0
        if not options.clip and peak >= 1.0 and not audio.holds_any_level(output):
            # Resampling may overshoot a little; formats refuse what is over full scale.
            gain = 10 ** (-0.5 / 20) / peak
        blocks = mixed(sounds, rate, samples, gain * levels)
        work = Work(
            synthesizer=synthesizer,
            source=options.input,
            output=output,
            raw=raw,
            played=found,
            told=told,
            steps=steps,
            edits=[one._asdict() for one in edits],
            gains=[one._asdict() for one in gains],
            followed=followed,
            threshold=options.confidence_threshold,
            stretch=options.stretch,
            sample_rate=rate,
            levels=levels.tolist(),
            own_noise=own and channels > 1,
            gain=gain,
            peak=peak * gain,
            overwrite=options.overwrite,
            clip=options.clip,
        )
        resynthesis_report.write(work, sounds[0], blocks)


# ---------------------------------------------------------------------- curves


def _gathered(
    options: Arguments, synthesizer: Synthesizer
) -> tuple[Curves, dict[str, Any]]:
    """Curves of the input or the notes, and what is told of them."""
    frame_rate = synthesizer.sample_rate / synthesizer.hop
    told: dict[str, Any] = {"model": str(options.checkpoint), "kind": synthesizer.kind}
    if options.input is not None:
        told["input"] = str(options.input)
        found = analysed(options.input, synthesizer)
    elif options.midi is not None:
        told["midi"] = str(options.midi)
        found, more = _notes(options, synthesizer, frame_rate)
        told |= more
    elif options.loudness_from is not None:
        found = analysed(options.loudness_from, synthesizer)
        found = Curves(frame_rate, {"loudness_db": found.values["loudness_db"]})
    else:
        # Curves that are set decide, and else the length that is asked for.
        if options.seconds is None:
            lengths = [_frames_of(words, frame_rate) for words in options.set]
            count = max(lengths, default=0)
        else:
            count = math.ceil(options.seconds * frame_rate)
        if not count:
            raise ValueError(_NOTHING)
        found = Curves(frame_rate, {"_": np.zeros(count)})
    if options.loudness_from is not None and "loudness_db" in found.values:
        told["loudness_from"] = str(options.loudness_from)
        if options.input is not None or options.midi is not None:
            other = analysed(options.loudness_from, synthesizer)
            other = Curves(frame_rate, {"loudness_db": other.values["loudness_db"]})
            other = other.lasting(found.frames, loop=options.loop)
            found = found.replaced(**other.values)
    return found, told


def _notes(
    options: Arguments, synthesizer: Synthesizer, frame_rate: float
) -> tuple[Curves, dict[str, Any]]:
    assert options.midi is not None
    performance = notes.read_midi(
        options.midi, channel=options.midi_channel, track=options.midi_track
    )
    voice, changed = notes.single_voice(performance.notes)
    quiet, loud = -50.0, -20.0
    if "loudness_db" in synthesizer.ranges:
        quantiles = synthesizer.ranges["loudness_db"]["quantiles"]
        shares = sorted(quantiles)
        # From quiet to loud as the instrument was played, without its extremes.
        quiet, loud = quantiles[shares[1]], quantiles[shares[-2]]
    found = notes.play(
        voice,
        frame_rate,
        loudness_db=(float(quiet), float(loud)),
        playing=options.playing,
        bend=performance.bend,
    )
    if "confidence" in synthesizer.ranges:
        # Notes are sure of their pitch, no recording ever is.
        quantiles = synthesizer.ranges["confidence"]["quantiles"]
        most = float(quantiles[sorted(quantiles)[-2]])
        sure = np.minimum(found.values["confidence"], most)
        found = found.replaced(confidence=sure)
    told = {"notes": len(voice), "notes_cut_for_one_voice": changed}
    return found, {**told, "loudness_of_velocities_db": [float(quiet), float(loud)]}


def _set(options: Arguments, synthesizer: Synthesizer, found: Curves) -> Curves:
    """With the curves that were drawn, beside the input or by --set."""
    rate = found.frame_rate_hz
    values = dict(found.values)
    values.pop("_", None)
    set_names = {words.partition("=")[0].strip() for words in options.set}
    wanted = [n for n in synthesizer.control_names if n not in values]
    drawn = [n for n in wanted if n not in set_names]
    if options.input is not None and drawn:
        values |= curves.read_beside(options.input, drawn, rate, found.frames)
    elif drawn and (options.midi is not None or options.loudness_from is not None):
        # Notes say nothing of other curves: where the model mostly is.
        for name in drawn:
            if name in synthesizer.ranges:
                quantiles = synthesizer.ranges[name]["quantiles"]
                middle = quantiles[min(quantiles, key=lambda share: abs(share - 0.5))]
                values[name] = np.full(found.frames, float(middle))
    for words in options.set:
        name, equals, given = (part.strip() for part in words.partition("="))
        if not (name and equals and given):
            raise ValueError(f"--set {words!r}: expected NAME=CURVE.csv or NAME=NUMBER")
        if name not in {*synthesizer.control_names, *values}:
            raise ValueError(
                f"--set {name}: the model knows no such curve; it is driven by"
                f" {', '.join(synthesizer.control_names)}"
            )
        curve = _given(name, given, rate, synthesizer)
        curve = Curves(rate, {name: curve}).lasting(found.frames, loop=options.loop)
        values[name] = curve.values[name]
    return Curves(rate, values)


def _given(name: str, given: str, rate: float, synthesizer: Synthesizer) -> np.ndarray:
    """One curve from a number, a file of curves, or a controller of a MIDI file."""
    try:
        return np.full(1, float(given))
    except ValueError:
        pass
    path, colon, controller = given.rpartition(":")
    if colon and path.lower().endswith((".mid", ".midi")):
        if name not in synthesizer.ranges or not controller.isdigit():
            raise ValueError(
                f"--set {name}={given}: expected FILE.mid:CONTROLLER, and a curve whose"
                " range in training is known"
            )
        known = synthesizer.ranges[name]
        performance = notes.read_midi(path)
        points = notes.automation(
            performance, int(controller), float(known["min"]), float(known["max"])
        )
        count = max(1, math.ceil(performance.seconds * rate))
        return curves.sample(points, np.arange(count) / rate)
    found = curves.read(given, rate, names=(name,)).values
    if name in found:
        return found[name]
    if len(found) == 1:
        return next(iter(found.values()))
    raise ValueError(f"{given}: has the curves {', '.join(found)}, not {name}")


def _frames_of(words: str, frame_rate: float) -> int:
    """Length of a curve that --set names, 0 if it has none."""
    path = Path(words.partition("=")[2].strip())
    if path.suffix.lower() not in curves.SUFFIXES:
        return 0
    return curves.read(path, frame_rate, names=("_",)).frames


def _length(
    options: Arguments,
    source: audio.AudioInfo | None,
    synthesizer: Synthesizer,
    found: Curves,
) -> int:
    """Samples of the output at its own rate."""
    rate = synthesizer.sample_rate if source is None else source.sample_rate
    if options.seconds is not None:
        return max(1, round(options.seconds * rate))
    if source is not None:
        return max(1, round(source.frames * options.stretch))
    return max(1, round(found.frames * synthesizer.hop * options.stretch))


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
