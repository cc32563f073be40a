"""The page that curves are drawn on: what it keeps and serves, and in a browser."""

import os
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import label
import numpy as np
import pytest
from conftest import lacking
from label_state import Drawing, Wish, parse_wish

from ddspx import audio, curves

ROOT = Path(__file__).parent.parent
SECONDS, RATE = 2.0, 50.0


@pytest.fixture
def recording(tmp_path):
    times = np.arange(int(SECONDS * 16000)) / 16000
    sound = 0.5 * np.sin(2 * np.pi * (200 + 400 * times) * times)
    path = tmp_path / "sweep.flac"
    audio.save(path, np.stack([sound, 0.5 * sound]).astype(np.float32), 16000)
    return path


@pytest.fixture
def drawing(tmp_path):
    made = Drawing(tmp_path / "sweep.csv", RATE, 101)
    made.add(Wish("mood"))
    made.add(Wish("size", -10.0, 10.0))
    return made


def test_strokes_are_taken_back_and_drawn_again(drawing):
    one, two = np.linspace(0, 1, 101), np.linspace(5, -5, 101)
    assert drawing.stroke("mood", one) and drawing.stroke("size", two)
    assert not drawing.stroke("size", two)
    assert drawing.undo() == "size" and drawing.undo() == "mood"
    assert drawing.undo() is None
    np.testing.assert_array_equal(drawing.values["mood"], 0.5)
    np.testing.assert_array_equal(drawing.values["size"], 0.0)
    assert drawing.redo() == "mood"
    np.testing.assert_array_equal(drawing.values["mood"], one)
    # A new stroke ends what can be drawn again.
    drawing.stroke("mood", one**2)
    assert drawing.redo() is None


def test_nothing_drawn_is_lost(drawing):
    ramp = np.linspace(0, 1, 101)
    drawing.stroke("mood", ramp)
    assert not drawing.saved and drawing.aside.exists() and not drawing.path.exists()
    # The next start finds it.
    after = Drawing(drawing.path, RATE, 101)
    assert "restored" in after.restore() and not after.saved
    np.testing.assert_allclose(after.values["mood"], ramp, atol=1e-7)
    after.save()
    assert after.saved and not after.aside.exists()
    found = curves.read(after.path, RATE, 101)
    assert found.names == ("mood", "size")
    np.testing.assert_allclose(found.values["mood"], ramp, atol=1e-7)
    again = Drawing(drawing.path, RATE, 101)
    assert again.restore() == "opened sweep.csv" and again.saved


def test_strokes_that_are_none_are_refused(drawing):
    for name, values in (
        ("other", np.zeros(101)),
        ("mood", np.zeros(100)),
        ("mood", np.full(101, np.nan)),
    ):
        with pytest.raises(ValueError, match="stroke of"):
            drawing.stroke(name, values)
    assert drawing.saved and not drawing.aside.exists()


def test_curves_are_named_on_the_command_line():
    assert parse_wish("mood") == Wish("mood", 0.0, 1.0)
    assert parse_wish("loudness_db:-60:0") == Wish("loudness_db", -60.0, 0.0)
    for words in ("a b", "mood:1:0", "mood:1", "mood:a:b", "", "mood:nan:1"):
        with pytest.raises(ValueError, match="expected NAME or NAME:LOW:HIGH"):
            parse_wish(words)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["none.wav"], "cannot be read"),
        (["SWEEP", "--out", "a.txt"], "written to .csv"),
        (["SWEEP", "--out", "none/a.csv"], "is no folder"),
        (["SWEEP", "--rate", "0"], "1 to 1000 values a second"),
        (["SWEEP", "--curve", "a b"], "expected NAME"),
    ],
)
def test_what_cannot_be_labelled_is_one_line(
    recording, capsys, monkeypatch, words, says
):
    monkeypatch.chdir(recording.parent)
    assert label.main([str(recording) if w == "SWEEP" else w for w in words]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


class Served:
    """label.py in a process of its own."""

    def __init__(self, recording, *words):
        self.process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "scripts/label.py"),
                str(recording),
                "--port",
                "0",
                *words,
            ],
            stdout=subprocess.PIPE,
            text=True,
            cwd=recording.parent,
        )
        assert self.process.stdout is not None
        self.url = self.process.stdout.readline().strip()
        assert self.url.startswith("http://127.0.0.1:"), self.url

    def get(self, path=""):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return answer.read()

    def end(self):
        self.process.send_signal(signal.SIGINT)
        said, _ = self.process.communicate(timeout=60)
        return said


@pytest.fixture
def served(recording):
    pytest.importorskip("bokeh")
    server = Served(recording, "--curve", "mood", "--curve", "size:-10:10")
    yield server
    if server.process.poll() is None:
        server.process.kill()
        server.process.communicate()


def test_the_server_gives_page_and_sound_and_takes_strokes(served, recording):
    from bokeh.client import pull_session

    page = served.get().decode()
    assert "sweep.flac - curves" in page and "static/js/bokeh" in page
    # Everything comes from this computer.
    assert "cdn" not in page and "https://" not in page
    assert b"Bokeh" in served.get("static/js/bokeh.min.js")[:20000]
    (recording.parent / "played.wav").write_bytes(served.get("sound/sound.wav"))
    played = audio.load(recording.parent / "played.wav").samples
    np.testing.assert_allclose(played, audio.load(recording).samples, atol=1e-4)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        served.get("sound/other.wav")
    with pull_session(url=served.url) as session:
        document = session.document
        source = document.get_model_by_name("curve")
        ramp = np.linspace(0.0, 1.0, len(source.data["x"]))
        source.data = {"x": source.data["x"], "y": ramp}
        commands = document.get_model_by_name("commands")
        commands.data = {"word": ["save"], "at": [1.0]}
        session.force_roundtrip()
    assert served.end() == ""
    found = curves.read(recording.with_suffix(".csv"), RATE)
    np.testing.assert_allclose(found.values["mood"], ramp, atol=1e-6)
    np.testing.assert_array_equal(found.values["size"], 0.0)


def test_what_was_not_saved_is_said_at_the_end(served, recording):
    from bokeh.client import pull_session

    with pull_session(url=served.url) as session:
        source = session.document.get_model_by_name("curve")
        source.data = {"x": source.data["x"], "y": np.ones(len(source.data["x"]))}
        session.force_roundtrip()
    assert ".sweep.autosave.csv keeps what was drawn" in served.end()
    assert not recording.with_suffix(".csv").exists()


# ----------------------------------------------------------------------- browser


@pytest.fixture
def browser():
    driver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.chrome.service import Service

    binary, service = shutil.which("chromium"), shutil.which("chromedriver")
    if binary is None or service is None:
        lacking("no Chromium; apt-get install chromium chromium-driver", "browser")
    options = driver.ChromeOptions()
    options.binary_location = binary
    # The sandbox needs another user than root.
    for word in ("--headless=new", "--no-sandbox", "--window-size=1400,900"):
        options.add_argument(word)
    options.add_argument("--disable-dev-shm-usage")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = driver.Chrome(service=Service(service), options=options)
    yield opened
    opened.quit()


def wait(browser, script, *words):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(browser, 60).until(
        lambda b: b.execute_script(script, *words), f"waited for: {script}"
    )


def drag(browser, places, shift=False):
    """With the mouse, over points in shares of the canvas, from its lower left."""
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    box = wait(
        browser,
        """
        const view = Bokeh.index.find_one(
          Bokeh.documents[0].get_model_by_name("canvas"))
        const frame = view.frame.bbox
        const from = view.canvas_view.el.getBoundingClientRect()
        return [from.left + frame.left, from.top + frame.top, frame.width, frame.height]
        """,
    )
    at = [
        (round(box[0] + x * box[2]), round(box[1] + (1 - y) * box[3]))
        for x, y in places
    ]
    if shift:
        ActionChains(browser).key_down(Keys.SHIFT).perform()
    chain = ActionChains(browser, duration=30)
    mouse = chain.w3c_actions.pointer_action
    mouse.move_to_location(*at[0]).pointer_down()
    for place in at[1:]:
        mouse.move_to_location(*place)
    mouse.release()
    chain.perform()
    if shift:
        ActionChains(browser).key_up(Keys.SHIFT).perform()


def press(browser, name):
    """Clicks a button by its name; it lies in a shadow tree."""
    browser.execute_script(
        """
        const model = Bokeh.documents[0].get_model_by_name(arguments[0])
        Bokeh.index.find_one(model).button_el.click()
        """,
        name,
    )


def status(browser, words):
    wait(
        browser,
        "return Bokeh.documents[0].get_model_by_name('status').text"
        ".includes(arguments[0])",
        words,
    )


@pytest.mark.slow
def test_a_curve_is_drawn_in_a_browser(served, recording, browser):
    browser.get(served.url)
    wait(browser, "return window.labelSound && window.labelSound.readyState > 0")
    assert browser.execute_script("return window.labelSound.duration") == pytest.approx(
        SECONDS, abs=0.01
    )
    path = recording.with_suffix(".csv")
    # A ramp over the middle, by many small moves; it is kept before it is saved.
    drag(browser, [(0.25 + 0.5 * i / 20, 0.2 + 0.6 * i / 20) for i in range(21)])
    status(browser, "not saved")
    assert (recording.parent / ".sweep.autosave.csv").exists() and not path.exists()
    press(browser, "save")
    status(browser, "<b>saved</b>")
    mood = curves.read(path, RATE).values["mood"]
    times = np.arange(len(mood)) / RATE
    inside = (times > 0.55) & (times < 1.45)
    wanted = 0.2 + 0.6 * (times - 0.5) / 1.0
    # A pixel is 0.004 of the axis, and a move of the mouse 20 of them.
    np.testing.assert_allclose(mood[inside], wanted[inside], atol=0.02)
    np.testing.assert_array_equal(mood[(times < 0.45) | (times > 1.55)], 0.5)
    # With shift the way does not matter, only its end; then it is taken back.
    drag(browser, [(0.05, 0.9), (0.1, 0.1), (0.15, 0.5), (0.2, 0.9)], shift=True)
    status(browser, "not saved")
    press(browser, "save")
    status(browser, "<b>saved</b>")
    mood = curves.read(path, RATE).values["mood"]
    np.testing.assert_allclose(mood[(times > 0.12) & (times < 0.38)], 0.9, atol=0.02)
    press(browser, "undo")
    status(browser, "undid a stroke of mood")
    # Another curve, with its own axis.
    browser.execute_script(
        "Bokeh.documents[0].get_model_by_name('choose').value = 'size'"
    )
    wait(
        browser,
        "return Bokeh.documents[0].get_model_by_name('canvas').y_range.end == 10",
    )
    drag(browser, [(0.1, 0.75), (0.5, 0.75), (0.9, 0.75)])
    status(browser, "not saved")
    press(browser, "save")
    status(browser, "<b>saved</b>")
    found = curves.read(path, RATE).values
    np.testing.assert_allclose(
        found["size"][(times > 0.25) & (times < 1.75)], 5.0, atol=0.2
    )
    np.testing.assert_array_equal(found["mood"][times < 0.45], 0.5)
    # The sound is heard: its time goes on.
    press(browser, "play")
    wait(browser, "return window.labelSound.currentTime > 0.05")
    severe = [m for m in browser.get_log("browser") if m["level"] == "SEVERE"]
    assert not [m for m in severe if "favicon" not in m["message"]], severe
    if "LABEL_SCREENSHOT" in os.environ:
        browser.save_screenshot(os.environ["LABEL_SCREENSHOT"])
