"""Pairs of many effects in one batch, and settings that several recordings share."""

import numpy as np
import pytest

from ddspx.parameters import ParameterSpec
from styletransfer.hosts import HostEffect, Slot, open_host
from styletransfer.hosts.response import probe_signal
from styletransfer.mixtures import MixedPairMaker, joint_specs
from styletransfer.pairs import PairConfig, PairMaker

RATE = 16000


def clips(count: int) -> np.ndarray:
    return np.stack([probe_signal(RATE, 0.8, 5 * k)[None] for k in range(count)])


def gain(low: float = -24.0) -> HostEffect:
    spec = ParameterSpec("gain_db", low, 24.0, "dB", identity=0.0)
    return HostEffect("gain", (Slot("g", "Gain", (spec,)),))


def filters() -> HostEffect:
    cutoff = ParameterSpec("cutoff_frequency_hz", 200.0, 7000.0, "Hz", "log")
    return HostEffect(
        "filters",
        (Slot("l", "LowpassFilter", (cutoff,)), Slot("h", "HighpassFilter", (cutoff,))),
    )


@pytest.fixture(scope="module")
def hosts():
    with (
        open_host(gain(), RATE, backend="serial") as one,
        open_host(filters(), RATE, backend="serial") as other,
    ):
        yield [one, other]


def test_clips_in_a_row_share_settings_and_are_drawn_again_together(hosts):
    maker = PairMaker(
        hosts[0], PairConfig(share=3, untreated=0.3, audible_db=6.0, tries=40)
    )
    pairs = maker.random_map({"audio": clips(18)}, np.random.default_rng(1))
    controls = pairs["controls"].reshape(6, 3)
    assert (controls == controls[:, :1]).all() and len(np.unique(controls)) > 3
    np.testing.assert_array_equal(pairs["setting"], np.repeat(np.arange(6), 3))
    treated = pairs["treated"].reshape(6, 3)
    assert (treated == treated[:, :1]).all() and treated.any() and not treated.all()
    assert pairs["valid"].all()
    tries = pairs["tries"].reshape(6, 3)
    assert (tries == tries[:, :1]).all() and tries.max() > 1
    again = hosts[0].render(pairs["audio"], pairs["controls"]).audio
    np.testing.assert_array_equal(
        again[pairs["treated"]], pairs["target"][pairs["treated"]]
    )


def test_a_setting_heard_on_one_clip_only_counts_for_none(hosts):
    """A low-pass is not heard on a sound that has nothing up there."""
    time = np.arange(round(0.8 * RATE)) / RATE
    dull = (0.3 * np.sin(2 * np.pi * 60 * time)).astype(np.float32)[None, None]
    audio = np.concatenate([clips(1), dull])
    config = PairConfig(share=2, untreated=0.0, tries=3, audible_db=60.0)
    pairs = PairMaker(hosts[1], config).random_map(
        {"audio": audio}, np.random.default_rng(0)
    )
    assert not pairs["valid"].any() and (pairs["tries"] == 3).all()


def test_a_batch_has_rows_of_every_effect_and_columns_of_all(hosts):
    maker = MixedPairMaker(hosts, PairConfig(share=2, untreated=0.0))
    pairs = maker.random_map({"audio": clips(8)}, np.random.default_rng(0))
    np.testing.assert_array_equal(pairs["effect"], [0] * 4 + [1] * 4)
    assert [spec.name for spec in joint_specs(hosts)] == [
        *(spec.name for host in hosts for spec in host.specs)
    ]
    known = np.array([[True, False, False]] * 4 + [[False, True, True]] * 4)
    np.testing.assert_array_equal(pairs["known"], known)
    assert (pairs["controls"][~known] == 0).all()
    assert len(np.unique(pairs["setting"])) == 4
    for number, host in enumerate(hosts):
        own = pairs["effect"] == number
        controls = pairs["controls"][own][:, known[own][0]]
        again = host.render(pairs["audio"][own], controls).audio
        np.testing.assert_array_equal(again, pairs["target"][own])


def test_what_cannot_be_shared_is_refused(hosts):
    with pytest.raises(ValueError, match="5 clips cannot share settings by 2"):
        PairMaker(hosts[0], PairConfig(share=2)).random_map(
            {"audio": clips(5)}, np.random.default_rng(0)
        )
    with pytest.raises(ValueError, match="a batch of 5 cannot be shared by 2 effects"):
        MixedPairMaker(hosts).random_map({"audio": clips(5)}, np.random.default_rng(0))
    with pytest.raises(ValueError, match="share 0 must be 1 or more"):
        PairConfig(share=0)
