"""The page of label.py: sound above, curve below, drawn with the mouse."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from bokeh.core.templates import get_env
from bokeh.document import Document
from bokeh.events import DocumentReady, Pan, PanEnd, PanStart, Tap
from bokeh.layouts import column, row
from bokeh.models import (
    Button,
    ColumnDataSource,
    CrosshairTool,
    CustomJS,
    Div,
    InlineStyleSheet,
    LinearColorMapper,
    NumericInput,
    Range1d,
    Select,
    Span,
    TextInput,
)
from bokeh.plotting import figure
from label_state import Drawing, Wish, parse_wish

from ddspx import audio, plotting

_LOWEST_HZ = 40.0
_ROWS, _COLUMNS = 256, 4000
_INK, _PAPER, _GRID, _ACCENT = "#d7dae0", "#16181d", "#2b2f38", "#ffb454"

# The stroke is drawn here, and goes to the server when the mouse is let go. With shift
# it is a straight line.
_DRAW = """
const { x, y } = source.data
const rate = frame_rate, n = x.length
const clip = v => Math.min(Math.max(v, range.start), range.end)
const here = [cb_obj.x, clip(cb_obj.y)]
if (cb_obj.event_name == "panstart") {
  window.stroke = { from: here, last: here, before: Array.from(y) }
}
const stroke = window.stroke
if (stroke === undefined) { return }
let from = stroke.last
if (cb_obj.modifiers && cb_obj.modifiers.shift) {
  stroke.before.forEach((v, i) => { y[i] = v })
  from = stroke.from
}
const [a, b] = from[0] <= here[0] ? [from, here] : [here, from]
const first = Math.max(0, Math.ceil(a[0] * rate - 0.5))
const last = Math.min(n - 1, Math.floor(b[0] * rate + 0.5))
for (let i = first; i <= last; i++) {
  const share = b[0] > a[0] ? (i / rate - a[0]) / (b[0] - a[0]) : 1
  y[i] = a[1] + Math.min(Math.max(share, 0), 1) * (b[1] - a[1])
}
stroke.last = here
if (cb_obj.event_name == "panend") {
  window.stroke = undefined
  // What equals the old data is not sent: give it its old values first.
  const drawn = y.slice()
  stroke.before.forEach((v, i) => { y[i] = v })
  source.data = { x: x, y: drawn }
} else {
  source.change.emit()
}
"""

_READY = """
const sound = new Audio("sound/sound.wav")
window.labelSound = sound
const tick = () => {
  if (!sound.paused || heads[0].location != sound.currentTime) {
    for (const head of heads) { head.location = sound.currentTime }
    const t = sound.currentTime
    if (!sound.paused && (t > range.end || t < range.start)) {
      const span = range.end - range.start
      range.start = Math.max(0, t - 0.02 * span)
      range.end = range.start + span
    }
  }
  button.label = sound.paused ? "\\u25b6 Play" : "\\u275a\\u275a Pause"
  requestAnimationFrame(tick)
}
requestAnimationFrame(tick)
const command = word => { commands.data = { word: [word], at: [Math.random()] } }
document.addEventListener("keydown", event => {
  const typing = event.composedPath().some(e => e.tagName == "INPUT")
  if (typing) { return }
  if (event.code == "Space") {
    event.preventDefault()
    sound.paused ? sound.play() : sound.pause()
  } else if (event.ctrlKey || event.metaKey) {
    const word = { z: event.shiftKey ? "redo" : "undo", y: "redo", s: "save" }[
      event.key.toLowerCase()]
    if (word) { event.preventDefault(); command(word) }
  }
})
window.addEventListener("beforeunload", event => {
  if (status.text.includes("not saved")) { event.preventDefault() }
})
"""

_STYLE = """
:host { font-family: system-ui, sans-serif; color: #d7dae0; }
.bk-btn { background: #262a33; color: #d7dae0; border: 1px solid #3a404d;
  border-radius: 6px; }
.bk-btn:hover { background: #323845; }
.bk-input { background: #1e2128; color: #d7dae0; border: 1px solid #3a404d;
  border-radius: 6px; }
.bk-input option { background: #1e2128; }
.bk-btn.bk-btn-success { background: #ffb454; color: #16181d; border-color: #ffb454; }
"""
_PAGE = """
{% extends base %}
{% block preamble %}
<style>
html, body { margin: 0; background: #16181d; }
body { padding: 14px 18px; box-sizing: border-box; height: 100vh; }
</style>
{% endblock %}
"""


def make_page(drawing: Drawing, sound: audio.Audio, name: str) -> Callable:
    """What makes the document of each window.

    Args:
      drawing: shared by all windows.
      sound: shown.
      name: of the recording.

    Returns:
      ``(document) -> None``.
    """
    # Once for all windows.
    wave, picture = _waveform(sound), _spectrogram(sound)
    return partial(
        _page, drawing=drawing, sound=sound, name=name, wave=wave, picture=picture
    )


def _page(document: Document, *, drawing: Drawing, sound, name, wave, picture) -> None:
    seconds = sound.samples.shape[1] / sound.sample_rate
    chosen = next(iter(drawing.values))
    low, high = drawing.ends[chosen]
    span = Range1d(start=0.0, end=seconds, bounds=(0.0, seconds), min_interval=0.02)
    level = Range1d(start=low, end=high)
    source = ColumnDataSource(
        {"x": drawing.times_s, "y": drawing.values[chosen]}, name="curve"
    )
    commands = ColumnDataSource({"word": [], "at": []}, name="commands")
    heads = [
        Span(location=0.0, dimension="height", line_color="#ff5c7a") for _ in "123"
    ]

    above = _figure("waveform", span, 130, Range1d(start=-wave[2], end=wave[2]))
    above.varea(
        "x", "low", "high", source=wave[0], fill_color="#5aa9e6", fill_alpha=0.9
    )
    middle = _figure("spectrogram", span, 210, Range1d(start=0.0, end=picture[1]))
    colours = LinearColorMapper(
        palette="Magma256", low=picture[2] - 80, high=picture[2]
    )
    middle.image(
        [picture[0]],
        x=0.0,
        y=0.0,
        dw=seconds,
        dh=picture[1],
        color_mapper=colours,  # pyright: ignore[reportCallIssue] - not in the stub
    )
    ticks = [hz for hz in (50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000)]
    ticks = [hz for hz in ticks if math.log2(hz / _LOWEST_HZ) <= picture[1]]
    middle.yaxis.ticker = [math.log2(hz / _LOWEST_HZ) for hz in ticks]
    middle.yaxis.major_label_overrides = {
        math.log2(hz / _LOWEST_HZ): f"{hz // 1000}k" if hz >= 1000 else str(hz)
        for hz in ticks
    }
    below = _figure(chosen, span, 260, level, draw=True)
    below.name = "canvas"
    area = below.varea(
        "x", y1=low, y2="y", source=source, fill_color=_ACCENT, fill_alpha=0.15
    )
    below.line("x", "y", source=source, line_color=_ACCENT, line_width=2.5)
    below.xaxis.axis_label = "time / s"
    below.add_tools(CrosshairTool(line_color="#6b7280", line_alpha=0.6))
    for plot, head in zip((above, middle, below), heads, strict=True):
        plot.add_layout(head)
        plot.js_on_event(
            Tap, CustomJS(code="window.labelSound.currentTime = Math.max(0, cb_obj.x)")
        )
    draw = CustomJS(
        args={"source": source, "range": level, "frame_rate": drawing.frame_rate_hz},
        code=_DRAW,
    )
    for event in (PanStart, Pan, PanEnd):
        below.js_on_event(event, draw)

    styles: list[Any] = [InlineStyleSheet(css=_STYLE)]

    def button(label: str, name: str, width: int = 84, **more) -> Button:
        return Button(
            label=label, name=name, width=width, height=34, stylesheets=styles, **more
        )

    play = button("\u25b6 Play", "play", 96)
    play.js_on_click(
        CustomJS(code="const s = window.labelSound; s.paused ? s.play() : s.pause()")
    )
    choose = Select(
        name="choose",
        options=list(drawing.values),
        value=chosen,
        width=170,
        height=34,
        stylesheets=styles,
    )
    undo, redo = button("\u21b6 Undo", "undo"), button("\u21b7 Redo", "redo")
    save = button("Save", "save", button_type="success")
    called = TextInput(
        name="new_name",
        placeholder="new curve",
        width=130,
        height=34,
        stylesheets=styles,
    )
    ends = [
        NumericInput(
            name=f"new_{word}",
            value=value,
            mode="float",
            width=70,
            height=34,
            stylesheets=styles,
        )
        for word, value in (("low", 0.0), ("high", 1.0))
    ]
    add = button("Add", "add", 60)
    status = Div(name="status", text="", height=34, styles={"color": _INK})
    title = Div(
        text=f"<b style='font-size:16px'>{_escaped(name)}</b> &nbsp;"
        f"<span style='color:#9aa1ad'>{seconds:.2f} s, {sound.sample_rate} Hz &nbsp;"
        "drag: draw &nbsp; shift: straight line &nbsp; click: seek &nbsp; space: play"
        " &nbsp; wheel: zoom</span>",
        styles={"color": _INK, "font-family": "system-ui, sans-serif"},
    )

    def show(words: str = "") -> None:
        state = "saved" if drawing.saved else "not saved (kept aside)"
        more = f" &nbsp; {_escaped(words)}" if words else ""
        status.text = (
            "<span style='font-family:system-ui;line-height:34px'>"
            f"<b>{state}</b> &nbsp; {_escaped(drawing.path.name)}{more}</span>"
        )

    def refresh() -> None:
        """Shows the chosen curve as the drawing has it."""
        ends = drawing.ends[choose.value]
        level.start, level.end = ends
        area.glyph.y1 = ends[0]
        below.yaxis.axis_label = choose.value
        source.data = {"x": drawing.times_s, "y": drawing.values[choose.value].copy()}

    def stroke(attr, old, new) -> None:
        try:
            changed = drawing.stroke(choose.value, np.asarray(new["y"]))
        except (ValueError, OSError) as error:
            show(str(error))
            return
        if changed:
            show()

    def swap(take: Callable[[], str | None]) -> None:
        found = take()
        if found is None:
            show("nothing left")
            return
        choose.value = found
        refresh()
        show(f"{'undid' if take == drawing.undo else 'redid'} a stroke of {found}")

    def keep() -> None:
        try:
            drawing.save()
        except (ValueError, OSError) as error:
            show(str(error))
            return
        show()

    def more() -> None:
        try:
            ends_given = [e.value if e.value is not None else math.nan for e in ends]
            given = parse_wish(
                f"{called.value.strip()}:{ends_given[0]}:{ends_given[1]}"
            )
        except ValueError as error:
            show(str(error))
            return
        drawing.add(Wish(*given.__dict__.values()))
        choose.options = list(drawing.values)
        choose.value = given.name
        called.value = ""
        refresh()
        show()

    does = {
        "undo": lambda: swap(drawing.undo),
        "redo": lambda: swap(drawing.redo),
        "save": keep,
    }
    for one, name_of in ((undo, "undo"), (redo, "redo"), (save, "save")):
        one.on_click(does[name_of])
    add.on_click(more)
    source.on_change("data", stroke)
    choose.on_change("value", lambda attr, old, new: refresh())
    commands.on_change("data", lambda attr, old, new: does[new["word"][0]]())
    ready = CustomJS(
        args={
            "heads": heads,
            "range": span,
            "button": play,
            "commands": commands,
            "status": status,
        },
        code=_READY,
    )
    document.js_on_event(DocumentReady, ready)
    show()
    bar = row(
        play,
        choose,
        undo,
        redo,
        save,
        called,
        *ends,
        add,
        status,
        sizing_mode="stretch_width",
    )
    document.add_root(commands)
    document.add_root(
        column(title, bar, above, middle, below, sizing_mode="stretch_both")
    )
    document.title = f"{name} - curves"
    document.template = get_env().from_string(_PAGE)


def _figure(label: str, span: Range1d, height: int, level: Range1d, draw: bool = False):
    plot = figure(
        height=height,
        x_range=span,
        y_range=level,
        sizing_mode="stretch_both" if draw else "stretch_width",
        min_height=height,
        tools="xwheel_zoom" if draw else "xwheel_zoom,xpan",
        active_scroll="xwheel_zoom",
        active_drag=None if draw else "xpan",
        toolbar_location=None,
        background_fill_color="#1b1e24",
        border_fill_color=_PAPER,
        outline_line_color=_GRID,
    )
    for axis in plot.axis:
        axis.major_label_text_color = "#9aa1ad"
        axis.axis_label_text_color = _INK
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = _GRID
        axis.minor_tick_line_color = None
    for grid in plot.grid:
        grid.grid_line_color = _GRID
    plot.yaxis.axis_label = label
    # Equal widths, so that times lie one below the other.
    plot.min_border_left, plot.min_border_right = 70, 20
    plot.stylesheets = [InlineStyleSheet(css=":host, :host(:focus) { outline: none; }")]
    return plot


def _waveform(sound: audio.Audio) -> tuple[dict, None, float]:
    """Extrema of what a pixel shows, and the greatest."""
    mono = sound.samples.mean(axis=0)
    group = max(1, math.ceil(len(mono) / _COLUMNS))
    padded = np.pad(mono, (0, -len(mono) % group), mode="edge").reshape(-1, group)
    times = (np.arange(len(padded)) + 0.5) * group / sound.sample_rate
    top = float(np.abs(mono).max()) or 1.0
    data = {"x": times, "low": padded.min(1), "high": padded.max(1)}
    return data, None, 1.05 * top


def _spectrogram(sound: audio.Audio) -> tuple[np.ndarray, float, float]:
    """Levels at equal steps of log frequency [rows, frames]; octaves; greatest, dB."""
    _, frequencies, level = plotting.spectrogram_db(sound.samples, sound.sample_rate)
    octaves = math.log2(0.5 * sound.sample_rate / _LOWEST_HZ)
    wanted = _LOWEST_HZ * 2.0 ** (np.linspace(0, octaves, _ROWS))
    places = np.interp(wanted, frequencies, np.arange(len(frequencies)))
    left = np.minimum(places.astype(int), len(frequencies) - 2)
    share = (places - left)[:, None]
    rows = (1 - share) * level[left] + share * level[left + 1]
    return rows.astype(np.float32), octaves, float(rows.max())


def _escaped(words: str) -> str:
    return words.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
