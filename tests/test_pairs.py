"""Pairs: at the hidden settings the loss is zero, and nothing is replaced silently."""

from typing import Any

import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.fault import fault_effect
from styletransfer.hosts.response import probe_signal
from styletransfer.pairs import PairConfig, PairMaker, pair_batches, spectrum_change_db
from styletransfer.presets import load_effect

RATE = 16000


def clips(count: int, seconds: float = 1.0, channels: int = 1) -> np.ndarray:
    return np.stack(
        [
            np.stack([probe_signal(RATE, seconds, 7 * k + c) for c in range(channels)])
            for k in range(count)
        ]
    )


def gain_effect(low: float = -24.0, high: float = 24.0, **more) -> HostEffect:
    gain = ParameterSpec("gain_db", low, high, "dB", **more)
    return HostEffect("gain", (Slot("g", "Gain", (gain,)),))


@pytest.fixture(scope="module")
def compressor():
    with open_host(load_effect("compressor"), RATE, backend="serial") as host:
        yield host


def made(host, audio, seed=0, **config) -> dict:
    maker = PairMaker(host, PairConfig(**config))
    return maker.random_map({"audio": audio}, np.random.default_rng(seed))


@pytest.mark.parametrize("channels", [1, 2])
def test_the_target_is_the_input_at_the_hidden_settings_bit_for_bit(
    compressor, channels
):
    audio = clips(12, channels=channels)
    pairs = made(compressor, audio, untreated=0.3)
    again = compressor.render(pairs["audio"], pairs["controls"])
    assert pairs["valid"].all() and pairs["labelled"].all()
    treated = pairs["treated"]
    assert 0 < treated.sum() < len(treated)
    np.testing.assert_array_equal(again.audio[treated], pairs["target"][treated])
    np.testing.assert_allclose(again.audio, pairs["target"], atol=1e-6)


def test_the_reference_is_the_other_half_treated_from_a_cleared_state(compressor):
    audio = clips(10)
    pairs = made(compressor, audio, untreated=0.0, peak_db=(-12.0, -12.0))
    scaled = audio / np.abs(audio).max(axis=(1, 2), keepdims=True) * 10 ** (-12 / 20)
    first, second = np.split(scaled, 2, axis=-1)
    is_first = np.array(
        [
            np.allclose(d, f, atol=1e-6)
            for d, f in zip(pairs["audio"], first, strict=True)
        ]
    )
    assert 0 < is_first.sum() < len(audio)  # each example has a coin of its own
    other = np.where(is_first[:, None, None], second, first).astype(np.float32)
    expected = compressor.render(other, pairs["controls"]).audio
    np.testing.assert_allclose(pairs["reference"], expected, atol=1e-6)
    peaks = np.maximum(
        np.abs(pairs["audio"]).max(axis=(1, 2)), np.abs(other).max(axis=(1, 2))
    )
    np.testing.assert_allclose(20 * np.log10(peaks), -12.0, atol=1e-3)


def test_settings_that_are_not_heard_are_drawn_again_and_counted():
    """A gain is heard beyond 6 dB: three of four draws are."""
    with open_host(gain_effect(), RATE, backend="serial") as host:
        pairs = made(host, clips(40), audible_db=6.0, untreated=0.0, tries=30)
        assert pairs["valid"].all()
        gain_db = 48.0 * pairs["controls"][:, 0] - 24.0
        assert np.abs(gain_db).min() > 5.9
        assert np.abs(pairs["change_db"]).min() >= 6.0
        # Expected 4/3 draws each; five deviations of the mean.
        assert 1.05 < pairs["tries"].mean() < 1.9


def test_what_is_never_heard_is_marked_and_not_replaced():
    with open_host(gain_effect(-0.01, 0.01), RATE, backend="serial") as host:
        pairs = made(host, clips(6), untreated=0.0, tries=3)
    assert not pairs["valid"].any()
    assert (pairs["tries"] == 3).all() and pairs["treated"].all()


def test_untreated_pairs_are_untreated_and_say_whether_settings_do_that(compressor):
    pairs = made(compressor, clips(8), untreated=0.999)
    assert not pairs["treated"].any() and pairs["valid"].all()
    np.testing.assert_array_equal(pairs["target"], pairs["audio"])
    assert pairs["labelled"].all() and (pairs["tries"] == 0).all()
    with open_host(gain_effect(3.0, 9.0), RATE, backend="serial") as host:
        maker = PairMaker(host, PairConfig(untreated=0.999))
        assert not maker.labelled
        pairs = maker.random_map({"audio": clips(3)}, np.random.default_rng(0))
        assert not pairs["labelled"].any() and pairs["valid"].all()


def test_silence_and_failures_are_not_valid(compressor):
    audio = clips(3)
    audio[1, :, : audio.shape[-1] // 2] = 0.0
    audio[2] = 0.0
    pairs = made(compressor, audio)
    assert list(pairs["valid"]) == [True, False, False]
    assert np.isfinite(pairs["target"]).all()
    effect = fault_effect()
    (slot,) = effect.slots
    nan = ParameterSpec("fault", choices=("nan", "raise"))
    broken = HostEffect(
        "broken", (Slot("plugin", slot.plugin, (slot.controls[0], nan), slot.fixed,
                        kind="fault"),)
    )  # fmt: skip
    with open_host(broken, RATE, backend="serial") as host:
        pairs = made(host, clips(2), untreated=0.0, tries=2)
    assert not pairs["valid"].any() and (pairs["tries"] == 2).all()


def test_the_same_number_gives_the_same_batch(compressor):
    import grain

    source = grain.MapDataset.source([{"audio": clip} for clip in clips(8)])
    one: Any = pair_batches(source, compressor, 4, seed=3)
    two: Any = pair_batches(source, compressor, 4, seed=3)
    other: Any = pair_batches(source, compressor, 4, seed=4)
    for key in ("controls", "target", "audio", "tries"):
        np.testing.assert_array_equal(one[1][key], two[1][key])
    assert not np.array_equal(one[1]["controls"], other[1]["controls"])
    assert not np.array_equal(one[0]["controls"], one[1]["controls"])


def test_bad_input_is_named(compressor):
    with pytest.raises(ValueError, match="15999 samples cannot be halved"):
        made(compressor, clips(1)[..., :-1])
    with pytest.raises(ValueError, match=r"untreated 1.0"):
        PairConfig(untreated=1.0)
    with pytest.raises(ValueError, match="tries 0"):
        PairConfig(tries=0)


def test_the_change_of_a_gain_is_its_size():
    audio = clips(1)[0]
    assert spectrum_change_db(audio, audio) == 0.0
    assert spectrum_change_db(audio, 2.0 * audio) == pytest.approx(
        5.6, abs=0.5
    )  # the floor of the spectrum takes a part of the bands out


def test_levels_are_drawn_from_their_range(compressor):
    audio = clips(30)
    pairs = made(compressor, audio, untreated=0.5, peak_db=(-30.0, -10.0))
    peak_db = 20 * np.log10(np.abs(pairs["audio"]).max(axis=(1, 2)))
    assert peak_db.max() <= -9.99 and peak_db.std() > 3.0
