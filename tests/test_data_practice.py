"""The practice corpus: levels and spectra of what is rendered, and its repetition."""

import numpy as np
import pyloudnorm
import pytest
from scipy import signal

from ddspx import audio
from ddspx.data import dataset, manifest, practice, split, voices

RATE = 44100


@pytest.fixture(scope="module")
def pieces():
    """The first piece of every kind at 44.1 kHz."""
    return {kind: practice.render_piece(kind, 0) for kind in practice.KINDS}


@pytest.mark.parametrize("kind", practice.KINDS)
def test_levels_are_those_of_recordings(pieces, kind):
    samples = pieces[kind]
    assert samples.dtype == np.float32 and np.isfinite(samples).all()
    assert samples.shape[0] == (2 if kind in ("drums", "chords") else 1)
    assert 9 < samples.shape[1] / RATE < 17
    loudness = pyloudnorm.Meter(RATE).integrated_loudness(samples.T.astype(float))
    peak_db = 20 * np.log10(np.abs(samples).max())
    # Dynamic pieces stop at the peak limit a little below -20 LUFS.
    assert -23.5 < loudness < -19.9 and peak_db < -1.0
    assert np.abs(samples.mean(axis=1)).max() < 1e-4
    assert np.abs(samples[:, 0]).max() < 1e-3 and np.abs(samples[:, -1]).max() < 1e-3
    # Never exactly silent, as no recording is.
    frames = samples[:, : samples.shape[1] // 441 * 441].reshape(-1, 441)
    assert np.abs(frames).max(axis=1).min() > 0


def test_loudness_agrees_with_the_recursive_meter(pieces, rng):
    for samples in pieces.values():
        expected = pyloudnorm.Meter(RATE).integrated_loudness(samples.T.astype(float))
        assert abs(practice.loudness_lufs(samples, RATE) - expected) < 0.1
    assert practice.loudness_lufs(np.zeros((1, RATE)), RATE) == -np.inf


def test_kinds_differ_in_crest_and_spectrum(pieces):
    def crest_db(samples):
        rms = np.sqrt(np.mean(np.square(samples)))
        return 20 * np.log10(np.abs(samples).max() / rms)

    def centroid_hz(samples):
        frequency, power = signal.welch(samples.mean(axis=0), RATE, nperseg=4096)
        return (frequency * power).sum() / power.sum()

    crest = {kind: crest_db(samples) for kind, samples in pieces.items()}
    centroid = {kind: centroid_hz(samples) for kind, samples in pieces.items()}
    assert crest["strings"] > crest["vowels"] + 3
    assert centroid["drums"] > centroid["strings"] > centroid["vowels"] > 150


@pytest.mark.parametrize("kind", practice.KINDS)
def test_pieces_of_a_kind_are_different_music(pieces, kind):
    first, other = pieces[kind], practice.render_piece(kind, 1)
    length = min(first.shape[1], other.shape[1])
    correlation = np.corrcoef(first[0, :length], other[0, :length])[0, 1]
    assert abs(correlation) < 0.3


def test_a_piece_is_repeated_exactly_and_a_seed_changes_it(pieces):
    np.testing.assert_array_equal(practice.render_piece("drums", 0), pieces["drums"])
    other = practice.render_piece("drums", 0, seed=1)
    assert not np.array_equal(other, pieces["drums"])


@pytest.mark.parametrize("hertz", [82.4, 220.0, 659.3])
def test_a_plucked_string_is_in_tune_and_decays_as_asked(hertz, rng):
    sound = voices.pluck(hertz, 2.0, RATE, rng, decay_s=2.0)
    spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8 * len(sound)))
    frequency = np.fft.rfftfreq(8 * len(sound), 1 / RATE)
    near = (frequency > hertz * 0.9) & (frequency < hertz * 1.1)
    cents = 1200 * np.log2(frequency[near][spectrum[near].argmax()] / hertz)
    assert abs(cents) < 5
    # The fundamental alone loses 30 dB in the second between these two windows.
    time = np.arange(len(sound)) / RATE
    tone = sound * np.exp(-2j * np.pi * hertz * time)
    early, late = (
        np.abs(tone[RATE // 4 : RATE // 2].mean()),
        np.abs(tone[5 * RATE // 4 : 3 * RATE // 2].mean()),
    )
    assert abs(20 * np.log10(early / late) - 30) < 1.5


def test_the_saw_has_its_harmonics_and_little_aliasing():
    hertz, count = 1000.0, 44100
    made = voices.saw(hertz * np.arange(count) / RATE)
    level = 2 * np.abs(np.fft.rfft(made)) / count
    for harmonic in (1, 2, 3, 5):
        expected = 2 / (np.pi * harmonic)
        assert abs(20 * np.log10(level[1000 * harmonic] / expected)) < 0.5
    # 23 kHz and following fold to 21.1 kHz, 20.1 kHz ...; a plain saw leaves -27 dB.
    folded = [level[44100 - 1000 * n] for n in range(23, 43)]
    assert 20 * np.log10(max(folded) / level[1000]) < -32


def test_the_vowels_carry_their_formants(rng):
    count = 2 * RATE
    notes = np.full(count, 45.0)
    levels = {}
    for vowel in ("a", "i"):
        made = voices.voice(notes, [vowel], [0.0], RATE, rng)
        frequency, power = signal.welch(made, RATE, nperseg=8192)
        bands = [(600, 1200), (1900, 2600)]
        levels[vowel] = [
            power[(frequency > low) & (frequency < high)].mean() for low, high in bands
        ]
    # "a" is strong at 700 to 1100 Hz, "i" at 2250 Hz.
    ratio = {vowel: low / high for vowel, (low, high) in levels.items()}
    assert ratio["a"] > 30 * ratio["i"]


def test_the_corpus_is_a_data_set(tmp_path, monkeypatch):
    # One piece a split keeps the test short; the others differ in nothing.
    monkeypatch.setattr(practice, "KINDS", ("strings", "drums"))
    folder = tmp_path / "practice"
    clips = practice.render_practice_corpus(folder, sample_rate=8000)
    assert len(clips) == 12
    assert manifest.load_collection(folder).clips == clips
    for name in ("train", "valid", "test"):
        chosen = split.select(clips, name)
        assert {clip.category for clip in chosen} == {"strings", "drums"}
    for clip in clips[::5]:
        assert manifest.file_sha256(clip.file) == clip.sha256
        facts = audio.info(clip.file)
        assert (facts.sample_rate, facts.channels) == (8000, clip.channels)
        assert facts.subtype == "PCM_16"
    config = dataset.CropConfig(sample_rate=8000, seconds=1.0)
    made = dataset.audio_dataset(split.select(clips, "train"), config)
    assert not len(made.skipped) and made.examples[3]["audio"].shape == (1, 8000)
    parts = dataset.sections(split.select(clips, "test")[0], 3.0)
    assert len(parts) >= 3

    with pytest.raises(manifest.ManifestError, match="exists already"):
        practice.render_practice_corpus(folder, sample_rate=8000)
    before = [clip.file.read_bytes() for clip in clips]
    again = practice.render_practice_corpus(folder, sample_rate=8000, overwrite=True)
    assert [clip.file.read_bytes() for clip in again] == before


def test_impossible_wishes_are_refused(tmp_path):
    with pytest.raises(manifest.ManifestError, match="no piece 'violin'"):
        practice.render_piece("violin", 0)
    with pytest.raises(manifest.ManifestError, match="expected 8000 or more"):
        practice.render_practice_corpus(tmp_path / "x", sample_rate=4000)
    (tmp_path / "file").touch()
    with pytest.raises(manifest.ManifestError, match="is a file"):
        practice.render_practice_corpus(tmp_path / "file")
    assert not (tmp_path / "x").exists()
