"""Hidden settings of a small chain are recovered, by autodiff and by renders."""

from pathlib import Path

import numpy as np
import pytest

from ddspx.data.practice import render_piece
from styletransfer.hosts import open_host
from styletransfer.presets import parse_effect
from styletransfer.search import EXACT
from styletransfer.transfer import (
    TransferConfig,
    TransferError,
    differentiable_effect,
    transfer,
)

RATE = 16000
TINY = """
description: compressor, drive and gain
slots:
  compressor:
    plugin: Compressor
    controls: [threshold_db, ratio]
  drive: {plugin: Distortion}
  gain: {plugin: Gain}
"""
HIDDEN = np.array([0.5, 0.6, 0.3, 0.6], np.float32)


def opened(text, **options):
    return open_host(parse_effect(text, "tiny"), RATE, backend="serial", **options)


@pytest.fixture(scope="module")
def dry():
    audio = render_piece("strings", 0, sample_rate=RATE)
    return np.float32(audio[:1, RATE : 2 * RATE])


@pytest.mark.optimized
@pytest.mark.parametrize("method", EXACT)
def test_autodiff_finds_hidden_settings_that_pedalboard_rendered(method, dry):
    with opened(TINY) as host:
        target = host.render(dry[None], HIDDEN[None]).audio[0]
        config = TransferConfig(method=method, renders=800, excerpt_s=1.0)
        result = transfer(host, dry, target, paired=True, config=config)
    assert result.loss["after"] < 0.05 * result.loss["before"]
    # Drive and gain make up for each other.
    np.testing.assert_allclose(result.controls[:2], HIDDEN[:2], atol=0.05)
    assert result.renders <= 800


def test_an_effect_in_jax_is_searched_through_itself(dry):
    text = TINY.replace("slots:", "backend: jax\nslots:")
    with opened(text) as host:
        assert differentiable_effect(host) is host.differentiable
        target = host.render(dry[None], HIDDEN[None]).audio[0]
        config = TransferConfig(method="autodiff", renders=300, excerpt_s=1.0)
        result = transfer(host, dry, target, paired=True, config=config)
    assert result.loss["after"] < 0.1 * result.loss["before"]


def test_equal_hosts_share_one_differentiable_effect():
    with opened(TINY) as one, opened(TINY) as two:
        assert differentiable_effect(one) is differentiable_effect(two)


def test_autodiff_refuses_an_effect_without_twins_in_one_line(dry):
    text = "slots:\n  mp3: {plugin: MP3Compressor}"
    with opened(text) as host, pytest.raises(TransferError) as caught:
        transfer(host, dry, dry, config=TransferConfig(method="autodiff"))
    message = str(caught.value)
    assert "MP3Compressor" in message and "autodiff" in message
    assert "\n" not in message


@pytest.fixture(scope="module")
def suite():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent.parent / "scripts"))
        from benchmarks import matching

        yield matching


@pytest.fixture(scope="module")
def trials(suite, dry):
    with opened(TINY) as host:
        pairs = [("one", dry), ("two", dry[:, ::-1].copy())]
        yield suite.run_trials(host, pairs, ("autodiff", "adam"), renders=120, seed=1)


def test_matching_tells_the_searches_apart(suite, trials):
    names = ["threshold", "ratio", "drive", "gain"]
    summary = suite.summarise(trials, names)
    for name in ("autodiff", "adam"):
        found = summary["methods"][name]
        assert found["loss"][1] < 0.5
        assert found["renders"]["renders"] == [50, 100]
        for axis in ("renders", "steps", "seconds"):
            assert len(found[axis]["median"]) == len(found[axis][axis])
            assert np.all(np.diff(found[axis]["median"]) <= 1e-9)
        assert set(found["by_control"]) == set(names)
    assert summary["level_matched"][1] < 1.5
    suite.draw(summary, "tiny")


def test_a_control_that_does_nothing_is_not_identifiable(suite, dry):
    # Nothing exceeds a threshold of 0 dB: the ratio is free, the gain is not.
    setting = np.array([1.0, 0.5, 0.1, 0.5], np.float32)
    with opened(TINY) as host:
        quiet = 0.3 * dry
        target = host.render(quiet[None], setting[None]).audio[0]
        told = suite.identifiable(host, quiet, target, setting)
    assert not told[1]
    with opened("slots:\n  gain: {plugin: Gain}") as host:
        target = host.render(dry[None], np.array([[0.7]], np.float32)).audio[0]
        told = suite.identifiable(host, dry, target, np.array([0.7], np.float32))
    assert told.all()
