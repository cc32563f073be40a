"""Draws control curves over a recording, in a browser.

    python scripts/label.py RAIN.wav --out RAIN.csv --curve mood:0:1 --curve size:0:10
    python scripts/label.py RAIN.wav --browser

Serves a page on this computer alone (127.0.0.1) that shows waveform and spectrogram,
plays the sound, and lets curves be drawn with the mouse. RAIN.csv beside RAIN.wav, the
default, is where training and resynthesize.py look for drawn curves. What is drawn is
kept after every stroke, in .RAIN.autosave.csv until it is saved, and found again at the
next start. Needs the extra "label" (bokeh). Ctrl-C ends it. Bad input: one line, exit
code 2.
"""

import math
import signal
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro
from label_state import Drawing, parse_wish

from ddspx import audio
from ddspx.curves import CurveError

# More than this is too much to look at, and to draw.
_LONGEST_S = 3600.0


@dataclass(frozen=True)
class Arguments:
    """Command line of label.py."""

    recording: tyro.conf.Positional[Path]
    """What is labelled."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o", "--output"])] = None
    """CSV to write, and to go on with where it exists; beside the recording if left."""
    curve: tyro.conf.UseAppendAction[tuple[str, ...]] = ()
    """NAME or NAME:LOW:HIGH; more can be added on the page."""
    rate: float = 50.0
    """Values a second."""
    port: int = 5006
    """Of the page; 0 takes a free one."""
    browser: bool = False
    """Open the page."""


def main(arguments: list[str] | None = None) -> int:
    """Checks everything, then serves until Ctrl-C; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    try:
        drawing, sound, said = _opened(options)
        with tempfile.TemporaryDirectory() as folder:
            server = start(options, drawing, sound, Path(folder))
            # Read by whoever started this, also through a pipe.
            print(f"http://127.0.0.1:{server.port}/", flush=True)
            if said:
                print(said, flush=True)
            if options.browser:
                server.show("/")
            loop = server.io_loop
            # Also where whoever started this has it ignore Ctrl-C, as shells do
            # with what they put in the background.
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.asyncio_loop.add_signal_handler(number, loop.stop)
            try:
                loop.start()
            finally:
                server.stop()
    except (ValueError, OSError, ImportError) as error:
        print(f"label.py: {error}", file=sys.stderr)
        return 2
    if not drawing.saved:
        print(f"not saved; {drawing.aside} keeps what was drawn for the next start")
    return 0


def _opened(options: Arguments) -> tuple[Drawing, audio.Audio, str]:
    """The drawing as it was left, and the sound."""
    path = options.out or options.recording.with_suffix(".csv")
    if path.suffix.lower() != ".csv":
        raise CurveError(f"{path}: curves are written to .csv")
    if not path.parent.is_dir():
        raise CurveError(f"{path.parent}: is no folder to write to")
    if not 1.0 <= options.rate <= 1000.0:
        raise ValueError(f"--rate {options.rate}: expected 1 to 1000 values a second")
    wishes = [parse_wish(words) for words in options.curve]
    seconds = audio.info(options.recording).seconds
    if seconds > _LONGEST_S:
        raise ValueError(
            f"{options.recording}: lasts {seconds:.0f} s; cut it to an hour or less"
        )
    sound = audio.load(options.recording)
    length_s = sound.samples.shape[1] / sound.sample_rate
    frames = max(2, math.ceil(length_s * options.rate) + 1)
    drawing = Drawing(path, options.rate, frames)
    said = drawing.restore()
    for wish in wishes or ([] if drawing.values else [parse_wish("mood")]):
        drawing.add(wish)
    return drawing, sound, said


def start(
    options: Arguments, drawing: Drawing, sound: audio.Audio, folder: Path
) -> Any:
    """The server, listening and not yet looping.

    Args:
      options: of the command line.
      drawing: shared by all windows.
      sound: shown and played.
      folder: where the sound is kept as a browser can play it.

    Returns:
      A `bokeh.server.server.Server`.

    Raises:
      ImportError: the extra is not installed.
      OSError: the port is taken.
    """
    try:
        from bokeh.server.server import Server
        from label_page import make_page
        from tornado.web import StaticFileHandler
    except ImportError as error:
        raise ImportError(
            f"drawing curves needs bokeh ({error}); pip install 'ddspx[label]'"
        ) from error
    samples = sound.samples[:2]
    audio.save(
        folder / "sound.wav", samples, sound.sample_rate, subtype="PCM_16", clip=True
    )
    try:
        return Server(
            {"/": make_page(drawing, sound, options.recording.name)},
            address="127.0.0.1",
            port=options.port,
            extra_patterns=[
                (r"/sound/(sound\.wav)", StaticFileHandler, {"path": str(folder)})
            ],
            # A whole hour in one message.
            websocket_max_message_size=100 * 2**20,
        )
    except OSError as error:
        raise OSError(
            f"port {options.port} is taken ({error}); try --port 0"
        ) from error


if __name__ == "__main__":
    sys.exit(main())
