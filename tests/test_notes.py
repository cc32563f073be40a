"""Notes as control curves, and MIDI files made by mido."""

import mido
import numpy as np
import pytest

from ddspx.curves import Breakpoints, sample
from ddspx.notes import (
    Note,
    NoteError,
    Playing,
    automation,
    play,
    read_midi,
    single_voice,
)

RATE = 1000.0
PLAIN = Playing(
    attack_s=0.1, release_s=0.6, decay_db_per_s=10.0, glide_s=0.0, legato_s=0.0
)


def test_a_note_is_attacked_held_and_released():
    found = play(
        [Note(0.5, 1.5, 69.0, 127.0)],
        RATE,
        loudness_db=(-60.0, -20.0),
        floor_db=-80.0,
        playing=PLAIN,
    )
    assert found.frames == 2100
    np.testing.assert_allclose(found.values["f0_hz"], 440.0, rtol=1e-6)
    times = [0.0, 0.5, 0.55, 0.6, 1.1, 1.499, 1.6, 2.0, 2.099]
    # 100 dB a second of release, from -29 dB at the end of the note.
    wanted = [-80, -80, -50, -20, -25, -28.99, -39, -79, -80]
    level = found.values["loudness_db"][[round(1000 * t) for t in times]]
    np.testing.assert_allclose(level, wanted, atol=0.01)
    sure = found.values["confidence"]
    assert sure[500:1500].all() and not sure[:500].any() and not sure[1500:].any()


def test_velocity_is_level_on_a_line_in_decibels():
    notes = [Note(i, i + 0.5, 60.0, v) for i, v in enumerate((1.0, 64.0, 127.0))]
    still = Playing(0.0, 0.1, 0.0, 0.0, 0.0)
    found = play(notes, RATE, loudness_db=(-50.0, -20.0), playing=still)
    level = found.values["loudness_db"][[100, 1100, 2100]]
    np.testing.assert_allclose(level, [-50.0, -35.0, -20.0], atol=1e-4)


def test_tied_notes_glide_and_are_not_attacked_anew():
    tied = [Note(0.0, 1.0, 60.0), Note(1.0, 2.0, 72.0)]
    parted = [Note(0.0, 0.8, 60.0), Note(1.0, 2.0, 72.0)]
    how = Playing(0.05, 0.1, 0.0, glide_s=0.2, legato_s=0.01)
    one = play(tied, RATE, playing=how).values
    two = play(parted, RATE, playing=how).values
    semitones = 12 * np.log2(one["f0_hz"] / one["f0_hz"][0])
    np.testing.assert_allclose(semitones[[999, 1100, 1200]], [0, 6, 12], atol=1e-3)
    assert np.ptp(one["loudness_db"][100:1900]) < 1e-4
    assert two["f0_hz"][1000] == pytest.approx(one["f0_hz"][1999], rel=1e-6)
    assert two["loudness_db"][999] == -80.0
    # A note that begins while the one before still rings starts from there.
    near = [Note(0.0, 0.95, 60.0), Note(1.0, 2.0, 72.0)]
    ringing = play(near, RATE, playing=how).values["loudness_db"]
    assert -80.0 < ringing[1000] < ringing[940] - 20.0


def test_vibrato_and_bend():
    how = Playing(glide_s=0.0, vibrato_cents=50.0, vibrato_hz=5.0, vibrato_after_s=0.2)
    bend = Breakpoints(np.array([0.0, 1.5]), np.array([0.0, 1.0]), ("hold", "hold"))
    found = play([Note(0.0, 2.0, 57.0)], RATE, playing=how, bend=bend).values["f0_hz"]
    semitones = 12 * np.log2(found / 220.0)
    np.testing.assert_allclose(semitones[:200], 0.0, atol=1e-4)
    assert semitones[500:1500].max() == pytest.approx(0.5, abs=1e-3)
    assert semitones[500:1500].min() == pytest.approx(-0.5, abs=1e-3)
    # Five periods a second, from 0.2 s on.
    assert np.sum(np.diff(semitones[551:1449] > 0)) == 9
    assert semitones[1600:2000].mean() == pytest.approx(1.0, abs=0.01)


def test_chords_become_one_voice():
    chord = [Note(0.0, 1.0, p) for p in (60.0, 67.0, 64.0)] + [Note(0.5, 2.0, 65.0)]
    voice, changed = single_voice(chord)
    assert voice == (Note(0.0, 0.5, 67.0), Note(0.5, 2.0, 65.0)) and changed == 3


@pytest.mark.parametrize(
    ("notes", "says"),
    [
        ([], "no notes"),
        ([Note(1.0, 1.0, 60.0)], "ends after that"),
        ([Note(0.0, 1.0, 60.0, 0.0)], "velocities go from 1 to 127"),
        ([Note(0.0, 1.0, float("nan"))], "has a pitch"),
    ],
)
def test_notes_that_cannot_be_played(notes, says):
    with pytest.raises(NoteError, match=says):
        play(notes, RATE)
    with pytest.raises(NoteError, match="attack_s"):
        Playing(attack_s=-1.0)


@pytest.fixture
def song(tmp_path):
    """120 beats a minute, from 1 s on 60; a melody, drums, controllers, a pedal."""
    file = mido.MidiFile(ticks_per_beat=480)
    tempo = mido.MidiTrack(
        [
            mido.MetaMessage("set_tempo", tempo=500_000),
            mido.MetaMessage("set_tempo", tempo=1_000_000, time=960),
        ]
    )

    def change(control, value, time=0):
        return mido.Message("control_change", control=control, value=value, time=time)

    melody = mido.MidiTrack(
        [
            change(101, 0),
            change(100, 0),
            change(6, 12),
            mido.Message("note_on", note=60, velocity=80),
            change(1, 127, time=240),
            mido.Message("note_on", note=60, velocity=0, time=240),
            mido.Message("pitchwheel", pitch=-4096, time=240),
            mido.Message("note_on", note=64, velocity=100, time=240),
            change(64, 127),
            mido.Message("note_off", note=64, time=480),
            change(64, 0, time=480),
            mido.Message("note_on", note=71, velocity=30),
            mido.MetaMessage("end_of_track", time=480),
        ]
    )
    drums = mido.MidiTrack(
        [
            mido.Message("note_on", channel=9, note=36, velocity=120),
            mido.Message("note_off", channel=9, note=36, time=480),
        ]
    )
    file.tracks += [tempo, melody, drums]
    file.save(tmp_path / "song.mid")
    return tmp_path / "song.mid"


def test_a_midi_file_is_read_in_seconds(song):
    found = read_midi(song)
    # A beat is half a second, and a second from 1 s on; the pedal holds 64 until 3 s,
    # and 71 is never let go.
    assert found.notes == (
        Note(0.0, 0.5, 60.0, 80.0),
        Note(1.0, 3.0, 64.0, 100.0),
        Note(3.0, 4.0, 71.0, 30.0),
    )
    assert found.seconds == pytest.approx(4.0)
    assert found.bend is not None
    bend = sample(found.bend, np.array([0.0, 0.7, 0.8, 3.0]))
    np.testing.assert_allclose(bend, [0, 0, -6, -6])
    wheel = sample(automation(found, 1, -10.0, 10.0), np.array([0.0, 0.3, 2.0]))
    np.testing.assert_allclose(wheel, [10, 10, 10])
    with pytest.raises(NoteError, match="controller 2 is never moved; moved are: 1, 6"):
        automation(found, 2, 0.0, 1.0)


def test_tracks_and_channels_are_chosen(song):
    assert read_midi(song, channel=10).notes == (Note(0.0, 0.5, 36.0, 120.0),)
    alone = read_midi(song, track=1)
    assert alone.notes == read_midi(song).notes
    assert read_midi(song, track=0).notes == ()
    with pytest.raises(NoteError, match="has tracks 0 to 2, not 3"):
        read_midi(song, track=3)
    with pytest.raises(NoteError, match="channels 1 to 16"):
        read_midi(song, channel=0)


@pytest.mark.parametrize("content", [b"", b"MThd", b"RIFF and so on and on", None])
def test_what_is_no_midi_file_is_refused(tmp_path, content):
    path = tmp_path / "none.mid"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(NoteError, match=r"none\.mid: is no MIDI file"):
        read_midi(path)
