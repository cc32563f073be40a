"""Every third-party preset, as every host must be: exact, repeatable, hard to upset."""

import json
import logging
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import lacking

from ddspx.parameters import default_controls, identity_controls, sample_controls
from styletransfer.gradients import (
    black_box,
    central_differences,
    chain_halves,
    split_chain,
    spsa,
    staged_step,
)
from styletransfer.hosts import HostEffect, Status, open_host
from styletransfer.hosts.engine import slot_settings
from styletransfer.hosts.process import worker_environment
from styletransfer.hosts.response import probe_signal
from styletransfer.hosts.scan import describe

ROOT = Path(__file__).parent.parent
MDA = tuple(
    f"mda_{name}"
    for name in (
        "ambience", "combo", "delay", "dynamics", "overdrive", "ring_mod",
        "multiband", "thru_zero", "leslie",
    )
)  # fmt: skip
ZAM = ("zam_compressor", "zam_equalizer", "zam_tube", "zam_gate", "zam_delay")
OTHERS = ("x42_equalizer", "calf_multiband")
# Settings at which these do nothing, on audio within [-1, 1].
WITH_IDENTITY = (
    "mda_ambience", "mda_delay", "mda_dynamics", "mda_overdrive", "mda_thru_zero",
    "zam_compressor", "zam_equalizer", "zam_delay",
)  # fmt: skip
RATE = 24000


def corners(effect: HostEffect, count: int = 3) -> np.ndarray:
    """Default, random settings, random corners of the cube, [1 + 2 count, n]."""
    rng = np.random.default_rng(5)
    n = len(effect.specs)
    settings = [default_controls(effect.specs)[None]]
    settings.append(sample_controls(effect.specs, rng, (count,)))
    settings.append(rng.integers(0, 2, (count, n)))
    return np.concatenate(settings).astype(np.float32)


def direct(effect: HostEffect, controls: np.ndarray, audio: np.ndarray, folder: Path):
    """The same renders by `plugin_child.py`, [items, channels, time]."""
    (slot,) = effect.slots
    plugin = slot.plugin
    settings = []
    for row in controls:
        chosen = slot_settings(effect, [float(u) for u in row])[slot.name]
        assert chosen is not None
        settings.append(dict(slot.fixed) | chosen)
    if slot.kind == "vst3":
        from styletransfer.hosts.vst3_bundles import find_bundle

        specs = {s.name: s for s in describe("vst3", plugin).parameters}
        plugin = str(find_bundle(plugin)[0])
        settings = [
            {k: raw_value(specs[k], v) for k, v in values.items()}
            for values in settings
        ]
    question = {
        "kind": slot.kind,
        "plugin": plugin,
        "rate": RATE,
        "fresh": slot.fresh,
        "settings": settings,
        "audio": audio.tolist(),
    }
    (folder / "question.json").write_text(json.dumps(question))
    subprocess.run(
        [sys.executable, "tests/plugin_child.py", folder / "question.json",
         folder / "answer.npz"],
        check=True, cwd=ROOT, env=worker_environment(effect.kinds), timeout=120,
        capture_output=True,
    )  # fmt: skip
    with np.load(folder / "answer.npz") as arrays:
        return arrays["audio"]


def raw_value(spec, value) -> float:
    place = spec.choices.index(value) if spec.choices else value
    return min(max((place - spec.low) / (spec.high - spec.low), 0.0), 1.0)


def channels_of(effect: HostEffect) -> int:
    (slot,) = effect.slots
    return describe(slot.kind, slot.plugin).inputs


@pytest.mark.parametrize("name", [*MDA, *ZAM, *OTHERS])
def test_the_pool_equals_a_direct_render_bit_for_bit(name, installed_effect, tmp_path):
    effect = installed_effect(name).at_sample_rate(RATE)
    audio = np.stack([probe_signal(RATE, 0.5, k) for k in range(channels_of(effect))])
    controls = corners(effect)[1:]
    with open_host(effect, RATE, workers=2) as host:
        rendered = host.render(audio[None], controls)
    expected = direct(effect, controls, audio, tmp_path)
    assert np.array_equal(rendered.status, np.zeros(len(controls)))
    np.testing.assert_array_equal(rendered.audio, expected)


@pytest.mark.parametrize("name", [*MDA, *ZAM, *OTHERS])
def test_renders_repeat_whatever_was_rendered_before(name, installed_effect):
    effect = installed_effect(name)
    audio = probe_signal(RATE, 0.5)[None, None]
    controls = corners(effect)
    with open_host(effect, RATE, workers=1) as host:
        first = host.render(audio, controls).audio
        again = host.render(audio, controls[::-1]).audio[::-1]
        longer = host.render(np.pad(audio, [(0, 0), (0, 0), (0, 9000)]), controls)
    with open_host(effect, RATE, workers=1) as host:
        fresh = host.render(audio, controls[[3, 0]]).audio
    np.testing.assert_array_equal(again, first)
    np.testing.assert_array_equal(fresh, first[[3, 0]])
    # Causal, and whole blocks are not needed: 12000 samples are not one of 8192.
    np.testing.assert_array_equal(longer.audio[..., :8192], first[..., :8192])


@pytest.mark.parametrize("name", WITH_IDENTITY)
def test_what_a_preset_calls_its_identity_does_nothing(name, installed_effect):
    effect = installed_effect(name)
    audio = probe_signal(RATE, 0.5)[None, None]
    with open_host(effect, RATE, workers=1) as host:
        rendered = host.render(audio, identity_controls(host.specs)[None])
    np.testing.assert_allclose(rendered.audio, audio, atol=1e-6)


@pytest.mark.parametrize("name", ["mda_delay", "zam_compressor"])
def test_odd_sizes_and_odd_values_are_served(name, installed_effect):
    effect = installed_effect(name)
    n = len(effect.specs)
    upset = np.full((4, n), [[np.nan], [np.inf], [-np.inf], [7.0]], np.float32)
    with open_host(effect, RATE, workers=1) as host:
        for channels, length in [(1, 1), (2, 3), (1, 8191), (2, 8193), (1, 16385)]:
            audio = probe_signal(RATE, 1.0)[:length]
            audio = np.broadcast_to(audio, (1, channels, len(audio)))
            rendered = host.render(audio, upset)
            assert not rendered.status.any()
            assert rendered.audio.shape == (4, channels, length)
        three = host.render(np.zeros((1, 3, 100), np.float32), upset[:1])
        assert three.status[0] == Status.ERROR
        clean = host.render(np.full((1, 1, 500), np.nan, np.float32), upset[:1])
        assert clean.status[0] == Status.NONFINITE
        after = host.render(np.zeros((1, 1, 500), np.float32), upset[:1])
        assert after.status[0] == Status.OK and not after.audio.any()


@pytest.mark.parametrize("name", ["mda_delay", "mda_thru_zero"])
def test_mono_is_the_mean_of_what_stereo_gives(name, installed_effect):
    effect = installed_effect(name)
    mono = probe_signal(RATE, 0.5)[None, None]
    controls = corners(effect)
    with open_host(effect, RATE, workers=1) as host:
        one = host.render(mono, controls).audio
        two = host.render(np.repeat(mono, 2, axis=1), controls).audio
    np.testing.assert_allclose(one[:, 0], two.mean(axis=1), atol=1e-6)


def test_stereo_through_a_mono_plugin_is_each_channel_alone(installed_effect):
    effect = installed_effect("zam_compressor")
    stereo = np.stack([probe_signal(RATE, 0.5, k) for k in range(2)])
    controls = corners(effect)
    with open_host(effect, RATE, workers=1) as host:
        both = host.render(stereo[None], controls).audio
        alone = [host.render(x[None, None], controls).audio for x in stereo]
    np.testing.assert_array_equal(both, np.concatenate(alone, axis=1))


def test_mixed_chains_render_in_order(installed_effect):
    """The chain is its slots one after the other, each opened by itself."""
    effect = installed_effect("mixed_chain")
    assert effect.kinds == {"pedalboard", "lv2", "vst3", "jax"}
    audio = probe_signal(RATE, 0.5)[None, None]
    controls = corners(effect, 2)
    with open_host(effect, RATE, workers=1) as host:
        whole = host.render(audio, controls)
    assert not whole.status.any()
    for item, row in enumerate(controls):
        sound, start = audio, 0
        for slot in effect.slots:
            part = HostEffect(slot.name, (slot,))
            stop = start + len(slot.controls)
            with open_host(part, RATE, workers=1) as host:
                sound = host.render(sound, row[None, start:stop]).audio
            start = stop
        np.testing.assert_allclose(whole.audio[item], sound[0], atol=2e-6)
        if item == 1:
            break


@pytest.mark.parametrize("name", ["mda_multiband", "zam_gate"])
def test_a_worker_killed_in_the_middle_loses_nothing(name, installed_effect):
    effect = installed_effect(name)
    audio = probe_signal(RATE, 3.0)[None, None]
    controls = np.repeat(corners(effect), 4, axis=0)
    with open_host(effect, RATE, workers=2) as host:
        expected = host.render(audio, controls).audio
        results = []
        thread = threading.Thread(
            target=lambda: results.append(host.render(audio, controls))
        )
        thread.start()
        os.kill(host.pids[0], signal.SIGSEGV)
        thread.join()
        np.testing.assert_array_equal(results[0].audio, expected)
        # A busy machine may add time-outs, which cost nothing but time.
        assert host.counts["restarts"] - host.counts["timeouts"] == 1
        assert host.counts["excluded"] == 0


def test_values_that_crash_a_plugin_never_reach_it(mda_library, caplog):
    """MDA Detune ends the process on NaN, and gets none."""
    from styletransfer.presets import plugin_effect

    effect = plugin_effect("http://drobilla.net/plugins/mda/Detune")
    audio = probe_signal(RATE, 0.3)[None, None]
    caplog.set_level(logging.WARNING)
    with open_host(effect, RATE, workers=1) as host:
        controls = np.full((3, len(host.specs)), np.nan, np.float32)
        assert not host.render(audio, controls).status.any()
        assert host.counts["restarts"] == host.counts["timeouts"]
        assert host.counts["clamped"] == controls.size
    assert not caplog.records


def test_where_plugins_must_be_there_a_missing_one_fails(monkeypatch):
    monkeypatch.setenv("DDSPX_NO_SKIPS", "data plugins")
    with pytest.raises(pytest.fail.Exception, match="would skip: not there"):
        lacking("not there")
    monkeypatch.setenv("DDSPX_NO_SKIPS", "data")
    with pytest.raises(pytest.skip.Exception, match="not there"):
        lacking("not there")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zam_compressor", "zam_tube"])
def test_thousands_of_fused_steps_with_a_vst3_do_not_freeze(name, installed_effect):
    """The run that froze the original research: a VST3 under jax.jit and jax.grad.

    2000 steps of a compiled scan, 20 at a time, with two callbacks in one graph.
    """
    effect = installed_effect(name)
    audio = jnp.asarray(probe_signal(RATE, 0.05)[None])
    n = len(effect.specs)
    with open_host(effect, RATE, workers=2) as host:
        box = black_box(host.render, spsa(0.05))

        def loss(logits, key):
            one, two = jax.random.split(key)
            controls = jax.nn.sigmoid(logits)
            first, ok = box(audio, controls, one)
            second, fine = box(0.5 * audio, controls, two)
            return jnp.mean(first**2) + jnp.mean(second**2), ok & fine

        def step(logits, key):
            (value, ok), slope = jax.value_and_grad(loss, has_aux=True)(logits, key)
            return logits - 0.5 * slope, (value, ok)

        @jax.jit
        def steps(logits, key):
            return jax.lax.scan(step, logits, jax.random.split(key, 20))

        logits = jnp.zeros(n)
        losses = []
        for k in range(100):
            logits, (values, ok) = steps(logits, jax.random.key(k))
            assert bool(ok.all())
            losses.append(float(values.mean()))
        assert host.counts["restarts"] == host.counts["excluded"] == 0
        assert host.counts["items"] == 100 * 20 * 2 * 3
    assert np.isfinite(losses).all() and losses[-1] < losses[0]


def test_gradients_of_a_chain_of_all_formats_equal_differences_of_the_whole(
    installed_effect,
):
    """Estimated before the last plug-in, exact behind it: against the whole chain."""
    effect = installed_effect("mixed_chain")
    chain = split_chain(effect, RATE)
    assert chain.host is not None and chain.host.kinds == {"pedalboard", "lv2", "vst3"}
    audio = probe_signal(RATE, 0.3)[None]
    target = jnp.asarray(0.5 * audio)
    at = np.full((1, len(chain.specs)), 0.45, np.float32)
    step = 0.008

    def loss(sound, example):
        return jnp.mean((sound - target) ** 2) * 1e2

    halves = chain_halves(
        chain,
        lambda params, batch: params,
        loss,
        central_differences(step),
        form="scalar",
    )
    with open_host(chain.host, RATE, workers=2) as host:
        gradient, metrics = staged_step(
            halves,
            host.render,
            jnp.asarray(at),
            {"audio": audio[None]},
            jax.random.key(0),
        )
        assert host.counts["items"] == 1 + 2 * len(host.specs) < 1 + 2 * len(at[0])
    moves = np.concatenate([np.eye(at.shape[1]), -np.eye(at.shape[1])]) * step
    with open_host(effect, RATE, workers=2) as host:
        sounds = host.render(audio[None], (at + moves).astype(np.float32)).audio
    each = np.array([loss(sound, None) for sound in sounds], np.float64)
    differences = (each[: at.shape[1]] - each[at.shape[1] :]) / (2 * step)
    apart = np.abs(np.asarray(gradient)[0] - differences)
    # Behind the last plug-in the step's own curvature is between them.
    assert apart.max() < 5e-3 * np.abs(differences).max()
    assert apart[: len(chain.host.specs)].max() < 1e-3 * np.abs(differences).max()
    assert float(metrics["excluded"]) == 0
