"""Sound of a known number of independent effect parameters: is that number proposed?

The suite `benchmarks.factors` renders, trains and judges. The thresholds are those of
`AnalysisOptions`, chosen before these runs: 95 % of the variance of the output in dB,
or 0.5 dB. The width of the bands was chosen after earlier runs: with bands that
overlap, 95 % of the variance takes fewer latents than there are parameters, which the
suite shows. Sixteen latents, one water level throughout.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from benchmarks.factor_sounds import Knobs, fixed_content, opened, varying_content
from benchmarks.factors import SPECIAL, Arguments, Study
from benchmarks.recordings import collection

from ddspx.data.practice import render_practice_corpus
from vae.analysis import AnalysisOptions, analyze
from vae.outputs import rendered_output

pytestmark = pytest.mark.slow

RATE = 16000
OPTIONS = Arguments(votes=100)
# Of a latent or a knob that is not heard, and of one that is, dB rms.
SILENT_DB, LOUD_DB = 0.2, 1.0


def rows_of(engine, label, knobs, seed, content=None):
    content = fixed_content() if content is None else content
    with opened(engine, knobs) as render:
        return Study(engine, render, content, label, knobs, seed, OPTIONS).rows()


def check(row, count):
    expected = row["preflight"]
    assert expected["predicted"] == expected["lowest"] == count
    for rule in ("fidelity", "audible", "worth", "active"):
        proposal = row["proposals"][rule]
        assert proposal["keep"] == count, (rule, proposal)
        assert proposal["low"] <= count <= proposal["high"]
    assert row["directions"] == count
    # Those that are left over do nothing that is heard.
    rms = row["rms_db"]
    assert len(rms) == 16
    assert rms[count - 1] > LOUD_DB and max(rms[count:]) < SILENT_DB
    assert row["noise_floor"] == 0.0


def test_three_factors_are_proposed():
    (row,) = rows_of("jax", "3", Knobs(3), 0)
    check(row, 3)


@pytest.mark.parametrize("engine", ["jax", "pedalboard"])
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("count", [2, 3, 5])
def test_as_many_factors_are_proposed_from_any_start(count, seed, engine):
    (row,) = rows_of(engine, str(count), Knobs(count), seed)
    check(row, count)
    assert row["scores"]["informativeness"] > 0.99


@pytest.mark.parametrize("engine", ["jax", "pedalboard"])
def test_no_latent_is_spent_on_a_gain_before_peak_normalisation(engine):
    (row,) = rows_of(engine, "dead", SPECIAL["dead"], 0)
    check(row, 2)
    gain, *peaks = (row["factors"][name] for name in ("gain1", "peak1", "peak2"))
    assert gain["information"] < 1.2 * gain["chance"] and gain["r2"] < 0.02
    assert min(p["r2"] for p in peaks) > 0.95
    # The knob by itself, without a model: heard less than rounding, by derivatives too.
    heard = row["knobs"]["rms_db"]
    assert heard[0] < 1e-3 and min(heard[1:]) > LOUD_DB
    assert row["knobs"]["rank"] == 2
    if engine == "jax":
        assert row["knobs"]["bound_db"][0] < 1e-3 < row["knobs"]["bound_db"][1]


@pytest.mark.parametrize("engine", ["jax", "pedalboard"])
def test_two_gains_in_series_are_one_direction(engine):
    (row,) = rows_of(engine, "duplicate", SPECIAL["duplicate"], 0)
    check(row, 3)
    assert row["knobs"]["rank"] == 3
    assert row["knobs"]["cosine"][0][1] == pytest.approx(1.0, abs=1e-6)
    told = row["factors"]
    assert told["sum"]["r2"] > 0.98
    assert told["contrast"]["r2"] < 0.02
    for name in ("gain1", "gain2"):
        assert told[name]["r2"] == pytest.approx(0.5, abs=0.1)


def check_confounded(content, most):
    rows = rows_of("pedalboard", "3", Knobs(3), 0, content)
    found = {row["question"]: row for row in rows}
    size = {q: row["proposals"]["fidelity"]["keep"] for q, row in found.items()}
    assert size["sound"] > 6 and found["sound"]["preflight"]["wanted"] > 16
    # What the effect does to the codes: as many directions, along more axes.
    assert size["held"] > 3 and found["held"]["all_directions"] == [3, 3, 3]
    assert 3 <= size["difference"] <= most
    assert found["sound"]["content_db"] > 2.0 * found["sound"]["effect_db"]
    told = {q: found[q]["scores"]["informativeness"] for q in ("sound", "difference")}
    assert told["sound"] < 0.6 and told["difference"] > 0.9


def test_content_confounds_until_it_is_left_out(tmp_path):
    render_practice_corpus(tmp_path / "corpus", sample_rate=RATE)
    clips = collection(tmp_path / "corpus", tmp_path)
    # Of tones a band's gain depends on where in the band they are: one latent more.
    check_confounded(varying_content(clips, "music", 2048), 4)


@pytest.mark.data
def test_speech_confounds_until_it_is_left_out(data_root):
    clips = collection(data_root, data_root)
    check_confounded(varying_content(clips, "speech", 8192), 3)


@pytest.fixture(scope="module")
def sound():
    noise = np.random.default_rng(9).normal(size=(1, 4096))
    return (0.1 * noise).astype(np.float32)


def test_rendered_sound_tells_a_dead_knob_from_a_live_one(sound):
    """A gain before peak normalisation moves a control and no sound."""
    bins = jnp.arange(sound.shape[-1] // 2 + 1)
    low = (bins < 500).astype(jnp.float32)

    def predict(codes):
        codes = jnp.asarray(codes)
        # Two latents on the second knob; the last turns the gain.
        knobs = [codes[:, 0], 0.6 * (codes[:, 1] + codes[:, 2]), 2.0 * codes[:, 3]]
        return 0.5 + 0.05 * jnp.stack(knobs, 1)

    def render(audio, controls):
        db = 40.0 * (controls - 0.5)
        curve = db[:, :1] * low[None] + db[:, 1:2] * (1.0 - low[None]) + db[:, 2:]
        spectrum = jnp.fft.rfft(jnp.asarray(audio)) * 10.0 ** (curve[:, None] / 20.0)
        made = jnp.fft.irfft(spectrum, audio.shape[-1])
        return made / jnp.max(jnp.abs(made), (1, 2), keepdims=True)

    rng = np.random.default_rng(0)
    mean = rng.normal(size=(128, 4))
    mean[:, 2] = mean[:, 1]
    output = rendered_output(
        predict, render, sound[None], RATE, differentiable=True, fft_size=512
    )
    options = AnalysisOptions(
        pairs=32, order_pairs=8, derivative_examples=1, gram_examples=2
    )
    found = analyze(mean, np.full((128, 4), -6.0), output, options=options)
    assert found.output == "rendered" and found.unit == "dB"
    assert found.order[-1] == 3 and found.dimensions[3].rms < 1e-3
    assert min(found.dimensions[i].rms for i in range(3)) > 0.5
    assert "Latents 1, 2 follow from the others" in found.warnings[0]
    # The normalisation leaves of two bands' gains their difference: one direction.
    values = np.array(found.subspace)
    assert np.sum(values > 1e-4 * values[0]) == 1
    # A black box gets the same but what needs derivatives.
    hidden, host = jax.jit(predict), jax.jit(render)
    black = rendered_output(
        lambda codes: np.asarray(hidden(codes)),
        lambda audio, controls: np.asarray(host(audio, controls)),
        sound[None],
        RATE,
        fft_size=512,
    )
    again = analyze(mean, np.full((128, 4), -6.0), black, options=options)
    assert again.subspace is None and again.dimensions[0].bound is None
    for one, other in zip(found.dimensions, again.dimensions, strict=True):
        assert one.rms == pytest.approx(other.rms, rel=1e-3, abs=1e-3)
