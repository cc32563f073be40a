"""The VAE task: objectives in their units, training, and back from a run folder."""

import importlib.util
import sys
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ddspx import audio
from ddspx.data.manifest import ManifestError, load_collection
from ddspx.training.checkpoint import CheckpointError
from ddspx.training.configuration import load_preset
from ddspx.training.fit import fit
from ddspx.training.logging import read_scalars
from ddspx.training.optimizer import OptimizerConfig
from vae.examples import evaluation_batches, load_examples
from vae.information import kl_divergence
from vae.linear import water_level
from vae.models import ModelConfig, make_vae
from vae.run import (
    DataConfig,
    ObjectiveConfig,
    ScheduleConfig,
    VaeRunConfig,
    decode_audio,
    embed_audio,
    encode_audio,
    load_vae,
    to_image,
)
from vae.spectrogram import synthesize
from vae.task import describe_tau, judge, vae_task

PRESETS = Path(__file__).parent.parent / "configs/vae"
SCRIPTS = Path(__file__).parent.parent / "scripts"
SMOKE = load_preset(PRESETS / "smoke.yaml", VaeRunConfig)


def script(name):
    spec = importlib.util.spec_from_file_location(
        f"script_{name}", SCRIPTS / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def tones(count, seed=0, config=SMOKE):
    """Harmonic tones of random pitch and level, [count, 1, samples]."""
    rng = np.random.default_rng(seed)
    t = np.arange(config.front.samples) / config.front.sample_rate
    made = []
    for _ in range(count):
        pitch, level = rng.uniform(100, 800), rng.uniform(0.05, 0.3)
        tone = sum(np.sin(2 * np.pi * k * pitch * t) / k for k in (1, 2, 3))
        made.append(level * tone * np.exp(-t * rng.uniform(1, 8)))
    return np.asarray(made, np.float32)[:, None]


def batches_of(count, size=4):
    return [
        {"audio": tones(size, seed), "file": np.zeros(size, np.int32)}
        for seed in range(count)
    ]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke preset, trained for its two steps."""
    folder = tmp_path_factory.mktemp("vae") / "run"
    state = fit(
        vae_task(SMOKE),
        batches_of(3),
        replace(SMOKE.fit, quiet=True),
        folder,
        evaluation=batches_of(1),
        run_config=replace(SMOKE, fit=replace(SMOKE.fit, quiet=True)),
    )
    return folder, state


def test_a_run_comes_back_from_its_folder(run):
    folder, state = run
    assert int(state.step) == 2
    loaded = load_vae(folder, "last")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, state.params)
    assert loaded.model_state == {} and loaded.config.model == SMOKE.model
    assert load_vae(folder).config == loaded.config
    with pytest.raises(CheckpointError, match="newest"):
        load_vae(folder, "newest")
    scalars = read_scalars(folder / "logs")
    assert {"evaluation/ssim", "evaluation/lsd_db", "train/kl"} <= set(scalars)


def test_resumed_equals_unbroken(run, tmp_path):
    """Model state and random keys travel: three steps in one go, or two and one."""
    config = replace(
        SMOKE,
        model=replace(SMOKE.model, architecture="plain"),
        fit=replace(SMOKE.fit, quiet=True),
    )
    states, task = [], vae_task(config)
    for ends in ((3,), (2, 3)):
        folder = tmp_path / str(len(ends))
        for end in ends:
            now = replace(config, fit=replace(config.fit, steps=end))
            state = fit(task, batches_of(3), now.fit, folder, run_config=now)
        states.append(state)
    jax.tree.map(
        np.testing.assert_array_equal,
        *[(s.params, s.extra, s.opt_state) for s in states],
    )
    loaded = load_vae(tmp_path / "2", "last")
    jax.tree.map(
        np.testing.assert_array_equal,
        loaded.model_state,
        states[0].extra["model_state"],
    )


def test_audio_to_codes_and_back(run):
    loaded = load_vae(run[0])
    audio = jnp.asarray(tones(2)[:, 0])
    code = encode_audio(loaded, audio)
    assert code.mean.shape == code.log_variance.shape == (2, 4)
    np.testing.assert_array_equal(code.mean, encode_audio(loaded, audio).mean)
    made = decode_audio(loaded, code.mean, code.source, keep_phase=True)
    assert made.shape == audio.shape and np.isfinite(made).all()
    found = decode_audio(loaded, code.mean, iterations=2)
    np.testing.assert_array_equal(found, decode_audio(loaded, code.mean, iterations=2))
    with pytest.raises(ValueError, match="keep_phase"):
        decode_audio(loaded, code.mean, keep_phase=True)


def test_an_embedding_is_of_any_length_and_of_its_sound_alone(run):
    loaded = load_vae(run[0])
    sounds = tones(3)[:, 0]
    window = sounds.shape[-1]
    one = np.asarray(embed_audio(loaded, sounds))
    assert one.shape == (3, 4)
    # One window is what `encode_audio` makes of it.
    np.testing.assert_allclose(one, encode_audio(loaded, sounds).mean, atol=1e-6)
    # Nobody else in the batch matters.
    np.testing.assert_allclose(embed_audio(loaded, sounds[1]), one[1], atol=1e-5)
    louder = np.concatenate([sounds[1:2], 3.0 * sounds[[0]], sounds[[2]]])
    np.testing.assert_allclose(embed_audio(loaded, louder)[0], one[1], atol=1e-5)
    # Nor does how often a sound is repeated.
    np.testing.assert_allclose(embed_audio(loaded, np.tile(sounds, 5)), one, atol=1e-5)
    # The mean of the windows, the last of which ends with the sound.
    both = np.concatenate([sounds[0], sounds[1]])
    ragged = both[: window + window // 3]
    codes = encode_audio(loaded, np.stack([ragged[:window], ragged[-window:]])).mean
    np.testing.assert_allclose(
        embed_audio(loaded, ragged), np.mean(codes, 0), atol=1e-5
    )
    assert np.abs(one[0] - one[1]).max() > 1e-3


def test_sound_shorter_than_a_window_is_what_the_model_was_trained_on(run):
    loaded = load_vae(run[0])
    short = tones(1)[0, 0, : SMOKE.front.samples // 3 + 1]
    assert loaded.config.data.pad_short
    np.testing.assert_allclose(
        embed_audio(loaded, short), encode_audio(loaded, short).mean, atol=1e-6
    )
    whole = loaded._replace(
        config=replace(SMOKE, data=replace(SMOKE.data, pad_short=False))
    )
    repeated = np.tile(short, 3)[: SMOKE.front.samples]
    np.testing.assert_allclose(
        embed_audio(whole, short), encode_audio(loaded, repeated).mean, atol=1e-6
    )
    with pytest.raises(ValueError, match="empty"):
        embed_audio(loaded, short[:0])


# --------------------------------------------------------------------------- objectives


@pytest.fixture(scope="module")
def posterior():
    keys = jax.random.split(jax.random.key(1), 3)
    mean, log_variance = (jax.random.normal(key, (6, 3)) for key in keys[:2])
    codes = mean + jnp.exp(0.5 * log_variance) * jax.random.normal(keys[2], (6, 3))
    return mean, log_variance, codes


ERROR = jnp.asarray([3.0, 1.0, 4.0, 1.0, 5.0, 9.0])
D = 50


@pytest.mark.parametrize("reduction", ["half_sum", "sum", "mean"])
def test_losses_of_one_water_level_are_proportional(posterior, reduction):
    """beta in any reduction is the tau of `vae.linear` times one factor."""
    given = ObjectiveConfig(beta=0.3, reduction=reduction, weight=2.0)
    tau = water_level(0.3, D, reduction, 2.0)
    ours = judge(given, D, ERROR, posterior)
    same = judge(ObjectiveConfig(tau=tau), D, ERROR, posterior)
    assert float(ours.tau) == pytest.approx(tau) == float(same.tau)
    assert float(ours.loss / same.loss) == pytest.approx(
        float(ours.distortion / same.distortion), rel=1e-5
    )
    half = 0.5 * jnp.mean(ERROR) + tau * ours.kl
    assert float(same.loss) == pytest.approx(float(half) * 2 / D, rel=1e-5)
    kl = jnp.sum(kl_divergence(*posterior[:2]), -1)
    assert float(ours.kl) == pytest.approx(float(jnp.mean(kl)), rel=1e-6)
    rewritten = ours.distortion + 0.3 * jnp.mean(kl)
    assert float(ours.loss) == pytest.approx(float(rewritten), rel=1e-6)


def test_kinds_of_rate(posterior):
    def rate(fraction=1.0, **options):
        config = ObjectiveConfig(beta=0.5, **options)
        return float(judge(config, D, ERROR, posterior, fraction=fraction).rate)

    divergence = kl_divergence(*posterior[:2])
    kl = float(jnp.mean(jnp.sum(divergence, -1)))
    assert rate() == pytest.approx(0.5 * kl, rel=1e-6)
    assert rate(0.25) == pytest.approx(0.125 * kl, rel=1e-6)
    assert rate(0.5, kind="capacity", capacity=8.0) == pytest.approx(
        0.5 * abs(kl - 4.0), rel=1e-5
    )
    floor = float(jnp.sum(jnp.maximum(jnp.mean(divergence, 0), 1.0)))
    assert rate(kind="free_bits", free_bits=1.0) == pytest.approx(0.5 * floor, rel=1e-5)
    common = {"kind": "tcvae", "dataset_size": 100}
    # One more total correlation for each unit of its weight.
    steps = [rate(tc_weight=weight, **common) for weight in (0.0, 1.0, 3.0)]
    assert steps[2] - steps[1] == pytest.approx(2 * (steps[1] - steps[0]), rel=1e-3)


def test_variance_of_the_decoder(posterior):
    optimal = judge(ObjectiveConfig(variance="optimal"), D, ERROR, posterior)
    variance = float(jnp.mean(ERROR)) / D
    assert float(optimal.tau) == pytest.approx(variance, rel=1e-6)
    nats = 0.5 * D * (np.log(2 * np.pi * variance) + 1)
    assert float(optimal.distortion) == pytest.approx(nats / D, rel=1e-5)
    learned = ObjectiveConfig(variance="learned", beta=2.0)
    ours = judge(
        learned, D, ERROR, posterior, log_variance=jnp.log(jnp.asarray(variance))
    )
    assert float(ours.distortion) == pytest.approx(float(optimal.distortion), rel=1e-5)
    assert float(ours.rate) == pytest.approx(2 * float(optimal.kl) / D, rel=1e-5)


def test_bad_objectives():
    for options, named in (
        ({"beta": 1.0, "tau": 1.0}, "both"),
        ({"beta": 0.0}, "beta"),
        ({"variance": "learned", "tau": 1.0}, "water level"),
        ({"kind": "tcvae"}, "dataset_size"),
    ):
        with pytest.raises(ValueError, match=named):
            ObjectiveConfig(**options)
    with pytest.raises(ValueError, match="step"):
        ScheduleConfig(kind="linear", steps=0)


def test_tau_is_said():
    text = describe_tau(SMOKE)
    assert "tau 10 " in text and "dB rms" in text
    free = replace(SMOKE, objective=ObjectiveConfig(variance="optimal", beta=2.0))
    assert "2 x the decoder's variance" in describe_tau(free)


# ------------------------------------------------------------------------------ presets


def reduced(config):
    """The same architecture and objective, a size that compiles in seconds."""
    front, model = config.front, config.model
    fft = min(front.fft_size, 512)
    hop = min(front.hop_length, 256)
    front = replace(
        front,
        samples=11 * hop,
        fft_size=fft,
        hop_length=hop,
        window_length=min(front.window_length, fft),
        mel_bands=min(front.mel_bands, 24),
    )
    model = replace(
        model,
        latents=3,
        channels=tuple(min(c, 4) for c in model.channels),
        decoder_channels=tuple(min(c, 4) for c in model.decoder_channels),
    )
    data = replace(config.data, batch_size=3, silence_db=None)
    return replace(config, front=front, model=model, data=data)


FAITHFUL = {
    "original_spectrogram": ((129, 2049), 9 * 129 * 32, 132.16),
    "spoken_digit_tutorial": ((64, 256), 1024, 0.008192),
}


@pytest.mark.parametrize("name", FAITHFUL)
def test_faithful_presets_have_their_sizes(name):
    config = load_preset(PRESETS / f"{name}.yaml", VaeRunConfig)
    shape, inner, tau = FAITHFUL[name]
    vae = make_vae(config.model, config.shape)
    params, _ = jax.eval_shape(vae.init, jax.random.key(0))
    kernel = params["decoder"]["from_latent"]["kernel"]
    assert config.shape == shape and kernel.shape == (128, inner)
    assert config.tau == pytest.approx(tau, rel=1e-4)


@pytest.mark.parametrize(
    "name", sorted({path.stem for path in PRESETS.glob("*.yaml")} - {"smoke"})
)
def test_presets_take_two_steps(name):
    config = load_preset(PRESETS / f"{name}.yaml", VaeRunConfig)
    small = reduced(config)
    task = vae_task(small)
    state = task.init(jax.random.key(0))
    sounds = {"audio": tones(3, config=small)}
    losses = []
    for _ in range(2):
        state, metrics = task.step(state, sounds)
        losses.append(float(metrics["loss"]))
    assert np.isfinite(losses).all() and losses[0] != losses[1]


def test_command_line(tmp_path, capsys):
    """The smoke preset on recordings of a folder, and one line for bad input."""
    train = script("train")
    for group in ("one", "two", "three"):
        (tmp_path / "data" / group).mkdir(parents=True)
        for index, sound in enumerate(tones(2, seed=len(group))):
            path = tmp_path / "data" / group / f"{index}.wav"
            audio.save(path, sound, SMOKE.front.sample_rate)
    words = ["--config", str(PRESETS / "smoke.yaml"), "--data", str(tmp_path / "data")]
    words += ["--fit.quiet", "--fit.steps", "1", "--model.linear_path"]
    assert train.main(["vae", str(tmp_path / "run"), *words]) == 0
    assert "tau 10 " in capsys.readouterr().out
    assert load_vae(tmp_path / "run", "last").config.fit.steps == 1
    for bad, named in (
        (
            ["vea", "run"],
            "there are: proxy, controller, encoder, latents, decoder, tune, vae",
        ),
        (["vae"], "run folder"),
        (["vae", str(tmp_path / "x"), *words, "--only", "four/*"], "four"),
        (["vae", str(tmp_path / "run"), *words, "--model.latents", "5"], "latents"),
    ):
        assert train.main(bad) == 2
        error = capsys.readouterr().err.strip()
        assert named in error and "\n" not in error, error


# --------------------------------------------------------------------- judging and data


def test_evaluation_draws_nothing_new_and_knows_no_step():
    """Whatever the schedule says at a step, evaluations of the same weights agree."""
    schedule = ScheduleConfig(kind="linear", first=0.0, steps=100)
    config = replace(SMOKE, objective=replace(SMOKE.objective, schedule=schedule))
    task = vae_task(config)
    state = task.init(jax.random.key(0))
    batch = batches_of(1)[0]
    assert task.evaluate is not None
    first = task.evaluate(state, batch)
    later = task.evaluate(state.replace(step=state.step + 50), batch)
    for name, value in first.items():
        np.testing.assert_array_equal(value, later[name], err_msg=name)
    assert float(first["tau"]) == 10.0
    loss = float(first["mse_sampled"]) + 2 * 10.0 / SMOKE.front.elements * float(
        first["kl"]
    )
    assert float(first["loss"]) == pytest.approx(loss, rel=1e-5)
    _, metrics = task.step(state, batch)
    assert float(metrics["tau"]) == 0.0 and float(metrics["rate"]) == 0.0


def test_geco_moves_tau_until_the_error_is_as_asked():
    """From far below and far above, on a small linear model."""
    target = 0.05
    config = replace(
        SMOKE,
        front=replace(SMOKE.front, samples=7 * 128, mel_bands=8),
        model=ModelConfig("linear", 8),
        objective=ObjectiveConfig("geco", tau=1.0, target_mse=target, geco_rate=0.1),
        data=DataConfig(batch_size=16),
        optimizer=OptimizerConfig(learning_rate=1e-2),
    )
    task = vae_task(config)
    batch = {"audio": tones(16, config=config)}
    for tau in (1e-3, 10.0):
        state = task.init(jax.random.key(0))
        log_multiplier = jnp.asarray(-np.log(2 * tau), jnp.float32)
        geco = {**state.extra["geco"], "log_multiplier": log_multiplier}
        state = state.replace(extra={**state.extra, "geco": geco})
        state, metrics = task.step(state, batch)
        assert float(metrics["tau"]) == pytest.approx(tau, rel=1e-5)
        for _ in range(1400):
            state, metrics = task.step(state, batch)
        assert float(state.extra["geco"]["mse"]) == pytest.approx(target, rel=0.2)
        # Where both ends meet.
        assert 0.15 < float(metrics["tau"]) < 0.5


def test_level_and_fades():
    data = DataConfig(peak_db=-12.0, fade_ms=10.0)
    config = replace(SMOKE, data=data)
    sound = jnp.asarray(tones(2)[:, 0])
    louder, quieter = to_image(config, 3 * sound), to_image(config, sound)
    np.testing.assert_allclose(louder.image, quieter.image, atol=1e-3)
    np.testing.assert_allclose(3 * louder.gain, quieter.gain, rtol=1e-5)
    scaled = synthesize(
        config.front,
        louder.image,
        louder.spectrum,
        normalization=louder.normalization,
    )
    assert abs(float(scaled[0, 0])) < 1e-2
    silent = to_image(config, jnp.zeros((1, 100)))
    assert float(silent.gain[0]) == 1.0 and np.isfinite(silent.image).all()


@pytest.mark.parametrize("name", FAITHFUL)
def test_faithful_front_ends_go_there_and_back(name):
    """Per-image normalisation: undone exactly, and silence divides by nothing."""
    config = load_preset(PRESETS / f"{name}.yaml", VaeRunConfig)
    config = replace(config, front=replace(config.front, samples=8192))
    sound = jnp.asarray(tones(2, config=config)[:, 0])
    source = to_image(replace(config, data=DataConfig()), sound)
    if config.front.normalize == "range":
        assert float(jnp.min(source.image)) == 0.0
        assert float(jnp.max(source.image)) == pytest.approx(1.0)
    else:
        np.testing.assert_allclose(jnp.mean(source.image, (1, 2)), 0.0, atol=1e-4)
        np.testing.assert_allclose(jnp.std(source.image, (1, 2)), 1.0, atol=1e-4)
    back = synthesize(
        config.front, source.image, source.spectrum, normalization=source.normalization
    )
    error = jnp.sum(jnp.square(back - sound), -1) / jnp.sum(jnp.square(sound), -1)
    assert float(jnp.max(error)) < 1e-5
    assert np.isfinite(to_image(config, jnp.zeros(8192)).image).all()


def test_examples_are_whole_recordings(tmp_path):
    rate, length = SMOKE.front.sample_rate, SMOKE.front.samples
    rng = np.random.default_rng(0)
    sounds = (0.1 * rng.normal(size=(1, 3 * length))).astype(np.float32)
    for name, cut in (("a", length // 2), ("b", 5 * length // 2), ("c", length)):
        audio.save(tmp_path / f"{name}.wav", sounds[:, :cut], rate)
    clips = load_collection(tmp_path, group="stem").clips
    found = load_examples(SMOKE, clips)
    assert found.audio.shape == (4, length)
    assert [clip.path for clip in found.clips] == ["a.wav", "b.wav", "b.wav", "c.wav"]
    assert found.file.tolist() == [0, 1, 1, 2] and found.start_s[2] == length / rate
    np.testing.assert_array_equal(found.audio[0, length // 2 :], 0.0)
    np.testing.assert_allclose(found.audio[2], sounds[0, length : 2 * length])
    made = evaluation_batches(found, 3)
    assert len(made) == 1 and made[0]["audio"].shape == (3, 1, length)
    assert len(evaluation_batches(found, 6)[0]["audio"]) == 6
    unpadded = replace(SMOKE, data=replace(SMOKE.data, pad_short=False))
    assert len(load_examples(unpadded, clips, most=2).audio) == 2
    with pytest.raises(ManifestError, match="none of 1"):
        load_examples(unpadded, clips[:1])
