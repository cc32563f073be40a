"""Descriptions in JAX: read from YAML, hosted, mixed with black boxes, streamed."""

import dataclasses
import importlib.util
import json
import logging
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile as sf

from ddspx.data.practice import render_piece
from ddspx.effects.base import Processor, without_memory
from ddspx.parameters import default_controls, sample_controls, to_physical
from styletransfer.hosts import Host, HostEffect, Slot, Status, open_host
from styletransfer.hosts.probe import probe_effect, probe_signal
from styletransfer.presets import load_effect, parse_effect
from styletransfer.twins import Twin, collection, twin_effect, twin_processor
from styletransfer.twins.compiled import padded_length, physical_values
from styletransfer.twins.host import JaxHost

RATE = 16000
# A switch, a fixed value, a choice, a narrowed range, two kinds of curve.
CHAIN = """
backend: jax
slots:
  tone:
    plugin: LowpassFilter
    controls: {cutoff_frequency_hz: {low: 200, high: 20000}}
  off: {plugin: PitchShift, bypass: true, backend: pedalboard}
  push:
    plugin: Gain
    bypass: control
  level: {plugin: Gain, fixed: {gain_db: -6}}
"""


@pytest.fixture
def audio(rng):
    return (0.2 * rng.standard_normal((3, 2, 3000))).astype(np.float32)


def fake(process, defaults=None) -> Twin:
    """A twin of Gain that does something else."""
    return Twin(defaults or {"gain_db": 1.0}, lambda rate: without_memory(process))


def fake_chain(name: str) -> HostEffect:
    """One slot of Gain; a name of its own, because executables are kept by it."""
    gain = collection.catalogue.facts("Gain").parameters
    return HostEffect(name, (Slot(name, "Gain", gain, kind="jax"),))


def test_one_text_runs_on_either_engine_at_the_same_physical_values(audio, rng):
    chain = parse_effect(CHAIN, "chain")
    assert chain.kinds == {"jax"}
    box = parse_effect(CHAIN, "chain", "pedalboard")
    assert box.kinds == {"pedalboard"} and box.opened_by("jax").kinds == {"jax"}
    assert box.specs == chain.specs
    with (
        open_host(chain, RATE, backend="process") as twin,
        open_host(box, RATE, backend="serial") as reference,
    ):
        assert isinstance(twin, JaxHost) and isinstance(twin, Host)
        assert twin.specs == reference.specs
        assert twin.specs[0].high == 0.45 * RATE
        controls = sample_controls(twin.specs, rng, (8,))
        source = rng.integers(3, size=8)
        found, wanted = (
            host.render(audio, controls, source) for host in (twin, reference)
        )
    assert not found.status.any()
    np.testing.assert_allclose(found.audio, wanted.audio, atol=2e-6)
    values = physical_values(twin.specs, controls)
    np.testing.assert_allclose(
        values, to_physical(twin.specs, controls.astype(np.float64)), rtol=1e-7
    )


def test_a_description_keeps_its_kind_in_json_and_an_old_one_means_pedalboard():
    chain = parse_effect(CHAIN, "chain")
    assert HostEffect.from_json(chain.to_json()) == chain
    old = {"name": "old", "slots": [{"name": "a", "plugin": "Gain"}]}
    assert HostEffect.from_dict(old).kinds == {"pedalboard"}


def test_a_host_in_jax_repeats_its_bits_however_items_are_grouped(audio, rng):
    with open_host(parse_effect(CHAIN, "chain"), RATE) as host:
        controls = sample_controls(host.specs, rng, (5,))
        source = np.array([0, 1, 2, 0, 1])
        together = host.render(audio, controls, source).audio
        alone = [
            host.render(audio, u[None], np.array([s])).audio[0]
            for u, s in zip(controls, source, strict=True)
        ]
        np.testing.assert_array_equal(together, alone)
        assert host.counts["items"] == 10
        assert host.render(audio, controls[:0], source[:0]).audio.shape == (0, 2, 3000)
        # What is compiled is longer than the audio; nobody sees it.
        short = host.render(audio[:, :, :1001], controls, source).audio
    assert padded_length(1001) > 1001 and padded_length(1024) == 1024
    np.testing.assert_allclose(short, together[:, :, :1001], atol=1e-6)


def test_the_differentiable_effect_is_what_the_host_renders(audio, rng):
    with open_host(parse_effect(CHAIN, "chain"), RATE) as host:
        assert isinstance(host, JaxHost)
        controls = sample_controls(host.specs, rng)
        rendered = host.render(audio[:1], controls[None]).audio[0]
        direct = host.differentiable.render(*map(jnp.asarray, (audio[0], controls)))
    np.testing.assert_allclose(direct, rendered, atol=2e-6)


def test_bad_controls_are_clamped_and_bad_items_fail_alone(audio, monkeypatch, caplog):
    def breaks(x, values):
        gain_db = values["gain_db"]
        return x + jnp.where(gain_db > 20.0, jnp.inf, 0.0) + 1e7 * (gain_db < -20.0)

    monkeypatch.setitem(collection.TWINS, "Gain", fake(breaks))
    with open_host(fake_chain("breaks"), RATE) as host:
        controls = np.array([[0.5], [1.0], [0.0], [np.nan]], np.float32)
        with caplog.at_level(logging.WARNING):
            rendered = host.render(audio[:1], controls)
        assert host.counts == {"items": 4, "clamped": 1, "excluded": 2}
    assert [*rendered.status] == [0, Status.NONFINITE, Status.ABSURD, 0]
    np.testing.assert_array_equal(rendered.audio[[0, 3]], audio[[0, 0]])
    assert not rendered.audio[1:3].any()
    assert "item 1 of 4 excluded, NONFINITE" in caplog.text
    with pytest.raises(RuntimeError, match="closed"):
        host.render(audio[:1], controls)


def test_what_cannot_be_traced_is_an_error_of_the_items(audio, monkeypatch, caplog):
    def refuses(x, values):
        raise ValueError("renders at most 1 channels")

    monkeypatch.setitem(collection.TWINS, "Gain", fake(refuses))
    with open_host(fake_chain("refuses"), RATE) as host:
        rendered = host.render(audio, np.full((3, 1), 0.5))
    assert (rendered.status == Status.ERROR).all()
    assert "at most 1 channels" in caplog.text


@pytest.mark.parametrize("backend", ["serial", "thread", "process"])
def test_twins_and_black_boxes_share_a_chain_in_every_backend(backend, audio, rng):
    text = CHAIN.replace("level: {", "level: {backend: pedalboard, ")
    mixed = parse_effect(text, "mixed")
    assert mixed.kinds == {"jax", "pedalboard"}
    with (
        open_host(mixed, RATE, backend=backend, workers=1) as host,
        open_host(mixed.opened_by("pedalboard"), RATE, backend="serial") as box,
    ):
        controls = sample_controls(host.specs, rng, (3,))
        controls[:2, -1] = 0.1, 0.9  # the switch, both ways
        found, wanted = (h.render(audio, controls) for h in (host, box))
    assert not found.status.any()
    np.testing.assert_allclose(found.audio, wanted.audio, atol=2e-6)


def test_what_lags_is_moved_back_and_skipped_in_time(audio, monkeypatch):
    def late(rate):
        def process(state, x, values):
            held = jnp.concatenate([state, 2.0 * x], axis=1)
            return held[:, x.shape[1] :], held[:, : x.shape[1]]

        return Processor(lambda channels: jnp.zeros((channels, 5)), process, latency=5)

    monkeypatch.setitem(collection.TWINS, "Gain", Twin({"gain_db": 1.0}, late))
    text = "backend: jax\nslots: {late: {plugin: Gain, bypass: control}}"
    effect = parse_effect(text, "late")
    with open_host(effect, RATE) as host:
        found = host.render(audio[:1], np.array([[0.5, 0.1], [0.5, 0.9]])).audio
    np.testing.assert_array_equal(found, [2.0 * audio[0], audio[0]])
    blocks = twin_effect(effect, RATE)
    assert blocks.latency == 5
    state, parts = blocks.init_state(2), []
    for start, stop in ((0, 3), (3, 100), (100, 101), (101, 3000)):
        state, y = blocks.render_block(
            state, jnp.asarray(audio[0, :, start:stop]), jnp.array([0.5, 0.9])
        )
        parts.append(y)
    np.testing.assert_array_equal(
        np.concatenate(parts, 1)[:, 5:], audio[0, :, : 3000 - 5]
    )


def test_a_chain_streams_as_it_renders(audio, rng):
    effect = twin_effect(parse_effect(CHAIN, "chain"), RATE)
    controls = jnp.asarray(sample_controls(effect.specs, rng))
    whole = effect.render(jnp.asarray(audio[0]), controls)
    state, parts = effect.init_state(2), []
    for start, stop in ((0, 700), (700, 1400), (1400, 3000)):
        part = jnp.asarray(audio[0, :, start:stop])
        state, y = effect.render_block(state, part, controls)
        parts.append(y)
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, atol=2e-6)


def test_narrowed_choices_reach_the_twin_by_their_place_in_the_catalogue(
    monkeypatch, audio
):
    defaults = {"cutoff_hz": 200.0, "resonance": 0.0, "drive": 1.0, "mode": "LPF12"}
    says = fake(lambda x, values: 0.0 * x + values["mode"] + values["drive"], defaults)
    monkeypatch.setitem(collection.TWINS, "LadderFilter", says)
    text = """
    backend: jax
    slots:
      filter:
        plugin: LadderFilter
        controls: {mode: {choices: [BPF24, HPF12]}}
        fixed: {drive: 10}
    """
    effect = twin_effect(parse_effect(text, "x"), RATE)
    heard = [
        effect.render(jnp.asarray(audio[0]), jnp.array([u]))[0, 0] for u in (0.2, 0.8)
    ]
    assert heard == [10 + 5, 10 + 1]
    fixed = text.replace("controls: {mode: {choices: [BPF24, HPF12]}}", "")
    fixed = fixed.replace("{drive: 10}", "{mode: LPF24}")
    named = parse_effect(fixed, "x")
    values = {f"filter.{k}": 0.0 for k in ("cutoff_hz", "resonance", "drive")}
    out = twin_processor(named, RATE).process(((),), jnp.asarray(audio[0]), values)[1]
    assert out[0, 0] == 3


def test_an_effect_of_the_registry_is_named_narrowed_and_fixed(audio, rng):
    text = """
    backend: jax
    slots:
      shape:
        plugin: tanh_distortion
        controls: {drive_db: {low: 10, high: 20}, mix: }
        fixed: {output_db: -3}
      hold: {plugin: bitcrush, controls: [hold_ms]}
    """
    effect = parse_effect(text, "x")
    assert [s.name for s in effect.specs] == [
        "shape.drive_db",
        "shape.mix",
        "hold.hold_ms",
    ]
    one, other = (
        collection.EFFECTS[name](RATE) for name in ("tanh_distortion", "bitcrush")
    )
    with open_host(effect, RATE) as host:
        # A hold of less than a sample is possible at higher rates only.
        controls = np.array([[0.5, 0.4, 0.0]], np.float32)
        found = host.render(audio[:1], controls).audio[0]
    drive, output, mix = (
        spec.to_unit(v) for spec, v in zip(one.specs, (15, -3, 0.4), strict=True)
    )
    held = default_controls(other.specs)
    held[1] = 0.0
    wanted = one.render(jnp.asarray(audio[0]), jnp.array([drive, output, mix]))
    wanted = other.render(wanted, jnp.asarray(held))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match=r"tanh_distortion .* needs backend: jax"):
        parse_effect(text, "x", "pedalboard")
    with pytest.raises(ValueError, match="leaves what tanh_distortion can bear"):
        parse_effect(text.replace("high: 20", "high: 50"), "x")


MISTAKES = {
    "did you mean 'jax'": "{backend: jaxx, slots: {a: {plugin: Gain}}}",
    "PitchShift has no twin in JAX": "{backend: jax, slots: {a: {plugin: PitchShift}}}",
    "did you mean 'Compressor'": "{backend: jax, slots: {a: {plugin: Compresser}}}",
    "slot a: backend: 'vst'": "slots: {a: {plugin: Gain, backend: vst}}",
    "did you mean 'backend'": "{backnd: jax, slots: {a: {plugin: Gain}}}",
    r"\[0.02, 9\] leaves what Delay can bear: \[0.001, 2\] s": (
        "{backend: jax, slots:"
        " {a: {plugin: Delay, controls: {delay_seconds: {high: 9}}}}}"
    ),
    "Gain has no parameter 'gain'": (
        "{backend: jax, slots: {a: {plugin: Gain, controls: [gain]}}}"
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_a_mistake_is_named_with_its_remedy(message):
    with pytest.raises(ValueError, match=message):
        parse_effect(MISTAKES[message], "x")


def test_descriptions_made_by_hand_are_checked_when_opened():
    slot = Slot("a", "PitchShift", kind="jax")
    with pytest.raises(ValueError, match=r"slot a: PitchShift has no twin.*Compressor"):
        twin_effect(HostEffect("x", (slot,)), RATE)
    wrong = Slot("a", "Gain", fixed=(("gain", 1.0),), kind="jax")
    with pytest.raises(ValueError, match="no parameter 'gain', did you mean"):
        open_host(HostEffect("x", (wrong,)), RATE)


def test_every_slot_bypassed_leaves_the_audio_alone(audio):
    slot = Slot("a", "Gain", fixed=(("gain_db", 6.0),), bypass=True, kind="jax")
    effect = twin_effect(HostEffect("x", (slot,)), RATE)
    rendered = effect.render(jnp.asarray(audio[0]), jnp.zeros(0))
    np.testing.assert_array_equal(rendered, audio[0])


def test_a_preset_of_black_boxes_needs_no_jax():
    code = (
        "import sys\n"
        "from styletransfer.presets import load_effect\n"
        "from styletransfer.hosts import open_host\n"
        "open_host(load_effect('channel_strip'), 24000, backend='serial').close()\n"
        "print('jax' in sys.modules)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "False"


def test_the_probe_measures_a_twin_as_it_measures_the_black_box():
    text = "slots: {tone: {plugin: LowpassFilter}, level: {plugin: Gain}}"
    box, twin = (
        probe_effect(parse_effect(text, "x", engine), RATE)
        for engine in ("pedalboard", "jax")
    )
    assert twin.deterministic and twin.history_free
    assert twin.channels == box.channels == "independent"
    np.testing.assert_allclose(twin.epsilon, box.epsilon, rtol=0.02)
    assert twin.latency_samples == box.latency_samples
    signal = probe_signal(RATE, 0.2)
    assert dataclasses.asdict(twin)["unusable"] == 0.0 and signal.any()


def test_every_preset_with_twins_loads_for_jax():
    assert load_effect("channel_strip", "jax").kinds == {"jax"}
    assert load_effect("channel_strip").kinds == {"pedalboard"}


def test_the_command_takes_either_engine(tmp_path, capsys):
    path = Path(__file__).parent.parent / "scripts" / "transfer.py"
    spec = importlib.util.spec_from_file_location("script_transfer", path)
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    dry, other = (
        render_piece("strings", i, sample_rate=RATE)[:1, : 2 * RATE] for i in (0, 1)
    )
    sf.write(tmp_path / "in.wav", dry.T, RATE, subtype="FLOAT")
    sf.write(tmp_path / "ref.wav", 3.0 * other.T, RATE, subtype="FLOAT")
    (tmp_path / "tone.yaml").write_text(
        "slots: {tone: {plugin: LowpassFilter}, level: {plugin: Gain}}"
    )
    reports = {}
    for engine in ("jax", "pedalboard"):
        code = script.main(
            [
                *(
                    str(tmp_path / "in.wav"),
                    "--output",
                    str(tmp_path / f"{engine}.wav"),
                ),
                *("--reference", str(tmp_path / "ref.wav"), "--engine", engine),
                *("--effect", str(tmp_path / "tone.yaml"), "--renders", "20"),
                *("--backend", "serial"),
            ]
        )
        assert code == 0
        reports[engine] = json.loads((tmp_path / f"{engine}.json").read_text())
        assert reports[engine]["engine"] == engine
    one, other = (
        reports[engine]["settings"]["level.gain_db"]["value"] for engine in reports
    )
    # The search widens what little lies between them; on a GPU, to 0.08 dB.
    loose = 0.05 if jax.default_backend() == "cpu" else 0.2
    assert one == pytest.approx(other, abs=loose)
    capsys.readouterr()
    (tmp_path / "pitch.yaml").write_text("slots: {a: {plugin: PitchShift}}")
    arguments = [str(tmp_path / "in.wav"), "--output", str(tmp_path / "no.wav")]
    arguments += ["--reference", str(tmp_path / "ref.wav"), "--engine", "jax"]
    assert script.main([*arguments, "--effect", str(tmp_path / "pitch.yaml")]) == 2
    error = capsys.readouterr().err
    assert "PitchShift has no twin in JAX" in error and error.count("\n") == 1
