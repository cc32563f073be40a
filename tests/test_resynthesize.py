"""scripts/resynthesize.py with a model made of one sine, whose sounds are known."""

import json

import mido
import numpy as np
import pytest
import resynthesis_report
import resynthesis_sound
import resynthesize
from matplotlib.figure import Figure

from ddspx import audio, curves
from ddspx.curves import Breakpoints
from ddspx.tasks.synthesizer import Synthesizer, check_curves

RATE, HOP = 8000, 80
SHARES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


def known(low, high):
    """Statistics of a uniform distribution."""
    at = {share: low + share * (high - low) for share in SHARES}
    spread = (high - low) / 12**0.5
    middle = 0.5 * (low + high)
    return {"min": low, "max": high, "mean": middle, "std": spread, "quantiles": at}


def analyze(sound):
    """Level of a frame, and f0 from the zero crossings around it."""
    frames = -(-len(sound) // HOP)
    padded = np.pad(sound, (4 * HOP, frames * HOP - len(sound) + 4 * HOP))
    pieces = np.stack([padded[i * HOP : i * HOP + 8 * HOP] for i in range(frames)])
    power = np.mean(np.square(pieces[:, 3 * HOP : 5 * HOP]), axis=1)
    loudness = 10 * np.log10(np.maximum(power, 1e-8))
    crossings = np.diff(np.signbit(pieces), axis=1)
    f0 = []
    for row in crossings:
        places = np.flatnonzero(row)
        span = places[-1] - places[0] if len(places) > 2 else 0
        f0.append(0.5 * RATE * (len(places) - 1) / span if span else 100.0)
    return {
        "loudness_db": loudness.astype(np.float32),
        "f0_hz": np.array(f0, np.float32),
        "confidence": (loudness > -60).astype(np.float32),
    }


def blocks(given, key, gains=None):
    found, frames = check_curves(given, ("loudness_db", "f0_hz"))
    phase = np.cumsum(np.repeat(found["f0_hz"], HOP) / RATE)
    gain = 2**0.5 * 10 ** (np.repeat(found["loudness_db"], HOP) / 20)
    sound = (gain * np.sin(2 * np.pi * phase)).astype(np.float32)
    if gains is not None:
        own = gains(np.arange(frames)).get("amplitude", np.ones((frames, 1)))
        sound = sound * np.repeat(own[:, 0], HOP)
    for start in range(0, frames * HOP, 50 * HOP):
        yield sound[start : start + 50 * HOP]


def synthesizer(names=("loudness_db", "f0_hz")):
    ranges = {"loudness_db": known(-40.0, -10.0), "f0_hz": known(350.0, 500.0)}
    if "mood" in names:
        ranges["mood"] = known(0.0, 2.0)
    return Synthesizer(
        "ddsp",
        RATE,
        HOP,
        names,
        ranges,
        analyze,
        lambda given, key, gains=None: np.concatenate(list(blocks(given, key, gains))),
        blocks,
        lambda given: {"amplitude": given["loudness_db"]},
        {"amplitude": 1},
        {},
    )


@pytest.fixture(autouse=True)
def model(monkeypatch, request):
    if "picture" not in request.node.name:
        monkeypatch.setattr(resynthesis_report, "_figure", lambda *_: Figure((1, 1)))
    monkeypatch.setattr(resynthesize, "load_synthesizer", lambda *_: synthesizer())


@pytest.fixture
def flute(tmp_path):
    """Two channels, 11 kHz: notes of 110 and 165 Hz, a rest between; right is lower."""
    rate = 11025
    times = np.arange(rate) / rate
    one = 0.05 * np.sin(2 * np.pi * 110 * times)
    two = 0.02 * np.sin(2 * np.pi * 165 * times[: 3 * rate // 4])
    left = np.concatenate([one, np.zeros(rate // 4), two])
    path = tmp_path / "flute.wav"
    audio.save(path, np.stack([left, 0.25 * left]).astype(np.float32), rate)
    return path


def call(tmp_path, *words):
    given = ["--checkpoint", str(tmp_path / "run"), *map(str, words)]
    return resynthesize.main(given)


def test_an_input_is_played_at_its_length_rate_and_channels_with_a_picture(
    flute, tmp_path, capsys
):
    assert call(tmp_path, flute, "--out", tmp_path / "one.wav") == 0
    assert call(tmp_path, flute, "--out", tmp_path / "two.wav") == 0
    for suffix in (".wav", ".csv", ".png"):
        both = [(tmp_path / n).with_suffix(suffix).read_bytes() for n in ("one", "two")]
        assert both[0] == both[1], suffix
    given, made = audio.load(flute), audio.load(tmp_path / "one.wav")
    assert made.sample_rate == given.sample_rate
    assert made.samples.shape == given.samples.shape
    # The right channel has the same sound, as much lower as in the input.
    np.testing.assert_allclose(made.samples[1], 0.25 * made.samples[0], atol=1e-6)
    report = json.loads((tmp_path / "one.json").read_text())
    # The median note is 110 Hz, that of training 425: two octaves.
    assert report["rules"]["register"]["octaves"] == 2
    assert report["tracking"]["f0_error_cents"] < 10
    assert report["tracking"]["loudness_error_db"] < 1.0
    assert report["channel_levels"] == pytest.approx([1.372, 0.343], abs=1e-3)
    assert report["spectral_distance_to_input"] > 0
    played = curves.read(tmp_path / "one.csv", RATE / HOP)
    assert played.values["f0_hz"][30] == pytest.approx(440.0, rel=0.01)
    # The rest is quieter than any note, by what it was and by what it is turned down.
    assert played.values["loudness_db"][112] < -90
    said = capsys.readouterr().out
    assert "register: " in said and "octaves 2" in said and "2 channels" in said


def test_the_curves_that_were_written_play_the_same_sound(flute, tmp_path):
    assert call(tmp_path, flute, "--out", tmp_path / "one.wav") == 0
    table = tmp_path / "one.csv"
    again = ["--set", f"loudness_db={table}", "--set", f"f0_hz={table}"]
    assert call(tmp_path, *again, "--out", tmp_path / "two.wav") == 0
    two = audio.load(tmp_path / "two.wav")
    assert two.sample_rate == RATE and len(two.samples) == 1
    one = curves.read(table, RATE / HOP).values
    same = curves.read(tmp_path / "two.csv", RATE / HOP).values
    np.testing.assert_array_equal(one["f0_hz"], same["f0_hz"])
    np.testing.assert_array_equal(one["loudness_db"], same["loudness_db"])


def test_edits_stretch_and_length(flute, tmp_path):
    words = ["--octave", 1, "--loudness", "-3", "--unvoiced", "keep"]
    words += ["--scale", "f0_hz=1.5", "--offset", "loudness_db=+1sd", "--stretch", 1.5]
    assert call(tmp_path, flute, "--out", tmp_path / "slow.wav", *words) == 0
    given, made = audio.info(flute), audio.info(tmp_path / "slow.wav")
    assert made.frames == round(1.5 * given.frames)
    played = curves.read(tmp_path / "slow.csv", RATE / HOP).values
    assert played["f0_hz"][75] == pytest.approx(330.0, rel=0.01)
    level = 20 * np.log10(0.625 * 0.05 / 2**0.5) - 3 + 30 / 12**0.5
    assert played["loudness_db"][75] == pytest.approx(level, abs=0.5)
    words = ["--seconds", 5, "--loop", "--wander", "loudness_db=1sd"]
    assert call(tmp_path, flute, "--out", tmp_path / "long.wav", *words) == 0
    assert audio.info(tmp_path / "long.wav").frames == 5 * 11025


def test_amplitudes_of_the_synth_are_levelled_and_randomized(flute, tmp_path, capsys):
    plain = tmp_path / "plain.wav"
    assert call(tmp_path, flute, "--out", plain) == 0
    words = ["--level", "amplitude=-6", "--out", tmp_path / "low.wav"]
    assert call(tmp_path, flute, *words) == 0
    one, low = (audio.load(p).samples for p in (plain, tmp_path / "low.wav"))
    np.testing.assert_allclose(low, 10 ** (-6 / 20) * one, atol=1e-6)
    words = ["--randomize", "amplitude=3", "--seed", 5, "--out", tmp_path / "walk.wav"]
    assert call(tmp_path, flute, *words) == 0
    walk = audio.load(tmp_path / "walk.wav").samples[0]
    steady = np.abs(one[0]) > 0.02
    ratio_db = 20 * np.log10(walk[steady] / one[0][steady])
    assert 0.5 < np.std(ratio_db) < 6
    assert "randomize amplitude: 3 dB" in capsys.readouterr().out
    told = json.loads((tmp_path / "walk.json").read_text())["gains"]
    assert told[0]["name"] == "amplitude" and told[0]["amount_db"] == 3.0


def test_loudness_is_followed_where_a_model_does_not(
    flute, tmp_path, capsys, monkeypatch
):
    def softer(given, key, gains=None):
        """Plays 6 dB too soft, and the louder the more."""
        heard = 1.2 * np.asarray(given["loudness_db"]) - 3.0
        yield from blocks({**given, "loudness_db": heard}, key, gains)

    soft = synthesizer()._replace(blocks=softer)
    monkeypatch.setattr(resynthesize, "load_synthesizer", lambda *_: soft)
    errors = {}
    for rounds in (0, 1, 2):
        path = tmp_path / f"{rounds}.wav"
        assert call(tmp_path, flute, "--out", path, "--follow-loudness", rounds) == 0
        report = json.loads(path.with_suffix(".json").read_text())
        before = report["loudness_error_db_before_corrections"]
        assert before == [pytest.approx(errors[k]) for k in range(rounds)]
        errors[rounds] = report["tracking"]["loudness_error_db"]
    assert errors[0] > 5.0 and max(errors[1], errors[2]) < 0.5
    assert "dB off before each correction" in capsys.readouterr().out
    assert call(tmp_path, flute, "--follow-loudness", -1) == 2
    assert "below 0" in capsys.readouterr().err
    # A gain on top: amplitudes that are silenced stay silent.
    path = tmp_path / "silent.wav"
    words = ("--follow-loudness", 1, "--level", "amplitude=-inf")
    assert call(tmp_path, flute, "--out", path, *words) == 0
    assert np.all(audio.load(path).samples == 0.0)


def test_a_model_without_loudness_cannot_follow_it(tmp_path):
    performance = resynthesis_sound.Performance(
        synthesizer(("f0_hz",)),
        curves.Curves(100.0, {"f0_hz": np.full(9, 400.0)}),
        0,
        lambda numbers: {},
        0.8,
    )
    assert resynthesis_sound.followed_loudness(performance, tmp_path, 0)[1] == []
    with pytest.raises(ValueError, match="not driven by the curve loudness_db"):
        resynthesis_sound.followed_loudness(performance, tmp_path, 1)


def test_a_midi_file_is_played(tmp_path):
    file = mido.MidiFile(ticks_per_beat=480)
    on = mido.Message("note_on", note=69, velocity=127)
    wheel = mido.Message("control_change", control=1, value=64)
    off = mido.Message("note_off", note=69, time=960)
    file.tracks.append(mido.MidiTrack([on, wheel, off]))
    file.save(tmp_path / "song.mid")
    assert call(tmp_path, "--midi", tmp_path / "song.mid") == 0
    made = audio.load(tmp_path / "song_run.wav")
    assert made.sample_rate == RATE
    found = analyze(made.samples[0])
    assert found["f0_hz"][50] == pytest.approx(440.0, rel=0.01)
    # Of training's louder notes, decaying by one decibel a second.
    loud = -40 + 0.95 * 30
    assert found["loudness_db"][50] == pytest.approx(loud - 0.46, abs=0.2)
    assert made.samples.shape[1] == HOP * 125


def test_notes_are_no_surer_than_recordings(tmp_path, monkeypatch):
    made = synthesizer(("loudness_db", "f0_hz"))
    made.ranges["confidence"] = known(0.8, 0.9)
    monkeypatch.setattr(resynthesize, "load_synthesizer", lambda *_: made)
    file = mido.MidiFile(ticks_per_beat=480)
    on = mido.Message("note_on", note=69, velocity=127, time=240)
    off = mido.Message("note_off", note=69, time=480)
    file.tracks.append(mido.MidiTrack([on, off]))
    file.save(tmp_path / "song.mid")
    assert call(tmp_path, "--midi", tmp_path / "song.mid") == 0
    played = curves.read(tmp_path / "song_run.csv", RATE / HOP).values["confidence"]
    # Between notes there is none; in them as much as 95 % of training have.
    assert played.min() == 0.0
    assert played.max() == pytest.approx(0.895, abs=1e-6)


def test_drawn_curves_are_read_beside_the_input_or_set(
    flute, tmp_path, capsys, monkeypatch
):
    names = ("loudness_db", "f0_hz", "mood")
    monkeypatch.setattr(resynthesize, "load_synthesizer", lambda *_: synthesizer(names))
    words = [flute, "--overwrite", "--out", tmp_path / "out.wav"]
    assert call(tmp_path, *words) == 2
    assert "expected them in flute.csv" in capsys.readouterr().err
    drawn = {"mood": Breakpoints(np.array([0.0, 2.0]), np.array([0.0, 1.0]))}
    curves.write_breakpoints(flute.with_suffix(".csv"), drawn)
    assert call(tmp_path, *words) == 0
    mood = curves.read(tmp_path / "out.csv", RATE / HOP).values["mood"]
    np.testing.assert_allclose(mood, np.arange(200) / 200, atol=1e-6)
    assert call(tmp_path, *words, "--set", "mood=0.25") == 0
    mood = curves.read(tmp_path / "out.csv", RATE / HOP).values["mood"]
    np.testing.assert_array_equal(mood, 0.25)


def test_loudness_is_taken_from_another_sound(flute, tmp_path):
    times = np.arange(2 * RATE) / RATE
    swell = (0.4 * times / 2 * np.sin(2 * np.pi * 300 * times)).astype(np.float32)
    audio.save(tmp_path / "swell.wav", swell[None], RATE)
    words = ["--loudness-from", tmp_path / "swell.wav", "--loudness", "keep"]
    words += ["--unvoiced", "keep", "--out", tmp_path / "out.wav"]
    assert call(tmp_path, flute, *words) == 0
    played = curves.read(tmp_path / "out.csv", RATE / HOP).values
    np.testing.assert_allclose(
        played["loudness_db"], analyze(swell)["loudness_db"], atol=1e-4
    )
    assert played["f0_hz"][30] == pytest.approx(440.0, rel=0.01)


def test_long_inputs_are_analysed_in_sections(flute, tmp_path, monkeypatch):
    whole = resynthesis_sound.analysed(flute, synthesizer())
    monkeypatch.setattr(resynthesis_sound, "_SECTION_S", 0.5)
    monkeypatch.setattr(resynthesis_sound, "_AROUND_S", 0.1)
    parts = resynthesis_sound.analysed(flute, synthesizer())
    # What is silent has the f0 of rounding, and so have frames that reach into it.
    heard = whole.values["loudness_db"] > -60
    heard = np.convolve(heard, np.ones(9), "same") > 8.5
    for name, curve in whole.values.items():
        np.testing.assert_allclose(
            parts.values[name][heard], curve[heard], rtol=1e-4, atol=1e-3
        )


def test_an_integer_format_is_attenuated_and_a_float_one_keeps_its_level(
    flute, tmp_path
):
    words = ["--offset", "loudness_db=+30"]
    assert call(tmp_path, flute, "--out", tmp_path / "a.flac", *words) == 0
    assert call(tmp_path, flute, "--out", tmp_path / "b.wav", *words) == 0
    low, high = audio.load(tmp_path / "a.flac"), audio.load(tmp_path / "b.wav")
    assert np.abs(low.samples).max() < 1 < np.abs(high.samples).max()
    report = json.loads((tmp_path / "a.json").read_text())
    gain = 10 ** (-report["attenuation_db"] / 20)
    np.testing.assert_allclose(low.samples, gain * high.samples, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.wav"], "cannot be read"),
        (["--seconds", "1"], "name the output by --out"),
        (["--out", "x.wav"], "nothing to play"),
        (["FLUTE", "--midi", "song.mid"], "not both"),
        (["FLUTE", "--set", "mood=1"], "the model knows no such curve"),
        (["FLUTE", "--set", "f0_hz"], "expected NAME=CURVE.csv"),
        (["FLUTE", "--set", "f0_hz=none.csv"], "none.csv: cannot be read"),
        (["FLUTE", "--scale", "z=2"], "there is no such curve"),
        (["FLUTE", "--offset", "z"], "expected NAME=NUMBER"),
        (["FLUTE", "--level", "amplitude"], "expected NAME=DB"),
        (["FLUTE", "--level", "bands=-6"], "it has amplitude (1)"),
        (["FLUTE", "--level", "amplitude[3:]=-6"], "no amplitude lies from 3"),
        (["FLUTE", "--stretch", "0"], "must be a positive number"),
        (["FLUTE", "--seconds", "-1"], "must be a positive number"),
        (["FLUTE", "--out", "FLUTE"], "is an input"),
        (["FLUTE", "--out", "none/x.wav"], "is no folder"),
        (["FLUTE", "--out", "x.doc"], "names no audio format"),
        (["--midi", "none.mid"], "is no MIDI file"),
        (
            ["--set", "f0_hz=440", "--seconds", "1", "--out", "x.wav"],
            "needs the curves",
        ),
    ],
)
def test_what_cannot_be_done_is_one_line(
    flute, tmp_path, capsys, monkeypatch, words, says
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert call(tmp_path, *[str(flute) if w == "FLUTE" else w for w in words]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_that_exists_is_overwritten(flute, tmp_path, capsys):
    (tmp_path / "out.json").write_text("mine")
    assert call(tmp_path, flute, "--out", tmp_path / "out.wav") == 2
    assert "out.json: exists already" in capsys.readouterr().err
    assert (tmp_path / "out.json").read_text() == "mine"
    assert not (tmp_path / "out.wav").exists()
