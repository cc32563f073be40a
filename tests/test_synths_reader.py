"""A synth read by any number of samples: equal to the whole, saved, for long."""

import pickle

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx.synths.base import mix, stream
from ddspx.synths.harmonic import harmonic
from ddspx.synths.noise import filtered_noise
from ddspx.synths.reader import Reader, held

HOP, FRAMES = 32, 30
KEY = jax.random.key(7)
SYNTH = filtered_noise(16000, HOP, 9)


def controls():
    magnitudes = np.random.default_rng(0).uniform(0, 1, (FRAMES, 9))
    return {"noise_magnitudes": magnitudes.astype(np.float32)}


def test_pieces_of_any_length_are_the_whole():
    given = controls()
    whole = np.asarray(jax.jit(SYNTH.render)(given, KEY))
    lengths = [0, 1, 77, 5, 0, 512, 3, 130, 200, 32]
    assert sum(lengths) == HOP * FRAMES
    for block_frames in (1, 7):
        reader = Reader(SYNTH, held(given), KEY, block_frames=block_frames)
        pieces = [reader.read(length) for length in lengths]
        assert [len(piece) for piece in pieces] == lengths
        found = np.concatenate(pieces)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, whole, atol=1e-5)


def test_it_goes_on_where_it_was_saved():
    given = controls()
    reader = Reader(SYNTH, held(given), KEY, block_frames=3)
    reader.read(101)
    saved = pickle.dumps(reader.save())
    wanted = [reader.read(n) for n in (7, 300)]
    other = Reader(SYNTH, held(given), jax.random.key(8), block_frames=3)
    other.read(44)
    other.restore(pickle.loads(saved))
    for piece in wanted:
        np.testing.assert_array_equal(other.read(len(piece)), piece)
    # What was saved is not changed by reading on.
    other.restore(pickle.loads(saved))
    np.testing.assert_array_equal(other.read(7), wanted[0])
    another = Reader(
        filtered_noise(16000, HOP, 5),
        held({"noise_magnitudes": np.ones((1, 5), np.float32)}),
        KEY,
    )
    with pytest.raises(ValueError, match="of the same synth"):
        another.restore(pickle.loads(saved))


def test_sources_and_lengths_that_cannot_be_are_refused():
    given = {"noise_magnitudes": np.ones((2, 5), np.float32)}
    synth = filtered_noise(16000, HOP, 5)
    with pytest.raises(ValueError, match="1 frame or more, got 0"):
        Reader(synth, held(given), KEY, block_frames=0)
    with pytest.raises(ValueError, match="0 samples or more, got -1"):
        Reader(synth, held(given), KEY).read(-1)
    reader = Reader(synth, lambda first, frames: given, KEY, block_frames=3)
    with pytest.raises(ValueError, match="asked for 3 frames from 0, and gave 2"):
        reader.read(1)
    with pytest.raises(ValueError, match="at least one"):
        held({"level": np.ones(0)})


@pytest.mark.slow
def test_ten_minutes_take_no_more_memory_than_one():
    rate, hop, frames = 16000, 160, 100
    synth = mix(harmonic(rate, hop, 20), filtered_noise(rate, hop, 33))
    block = {
        "f0_hz": np.full(frames, 220.0, np.float32),
        "amplitude": np.full(frames, 0.5, np.float32),
        "harmonic_distribution": np.full((frames, 20), 0.05, np.float32),
        "noise_magnitudes": np.full((frames, 33), 0.1, np.float32),
    }
    made, live = 0, []
    for piece in stream(synth, (block for _ in range(600)), KEY):
        made += piece.size
        live.append(sum(a.nbytes for a in jax.live_arrays()))
        assert bool(jnp.all(jnp.isfinite(piece)))
    assert made == 600 * rate
    assert live[-2] <= live[60]
