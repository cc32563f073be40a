"""Where a run writes what it sees: a TensorBoard file and the terminal.

The writer uses the `tensorboard` package alone (no TensorFlow). A run has one event
file. A resumed run first rewrites it without the entries after its checkpoint and
without a torn last entry, so that no step stands there twice.
"""

import io
import os
import struct
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.audio import metadata as audio_metadata
from tensorboard.plugins.audio import plugin_data_pb2 as audio_data
from tensorboard.plugins.hparams import summary_v2 as hparams_summary
from tensorboard.plugins.image import metadata as image_metadata
from tensorboard.plugins.scalar import metadata as scalar_metadata
from tensorboard.plugins.text import metadata as text_metadata
from tensorboard.summary.writer.record_writer import RecordWriter
from tensorboard.util import tensor_util
from tqdm import tqdm

# The protocol buffers' classes are made at import: a type checker cannot see them.
Event: Any = vars(event_pb2)["Event"]
Summary: Any = vars(summary_pb2)["Summary"]
AUDIO_ENCODING: Any = vars(audio_data)["AudioPluginData"].Encoding
EVENT_FILE = "events.out.tfevents.0000000001.run"


def _records(path: Path) -> Iterator[bytes]:
    """The complete records of an event file; a torn last one is left out."""
    with path.open("rb") as file:
        while len(header := file.read(12)) == 12:
            (length,) = struct.unpack("<Q", header[:8])
            record = file.read(length)
            if len(record) < length or len(file.read(4)) < 4:
                return
            yield record


def _events(path: Path) -> Iterator[tuple[bytes, Any]]:
    for record in _records(path):
        event = Event()
        event.ParseFromString(record)
        yield record, event


def _forget_after(path: Path, step: int) -> None:
    aside = path.with_name(f".{path.name}.tmp")
    with aside.open("wb") as file:
        writer = RecordWriter(file)
        for record, event in _events(path):
            if event.step <= step:
                writer.write(record)
    os.replace(aside, path)


class RunLog:
    """Writes scalars, audio, images, text and hyper-parameters of one run.

    Args:
        folder: where the event file stands; None writes nothing (a process other than
            the first one).
        resume_step: keep what an earlier run wrote up to this step and continue;
            None begins anew.
    """

    def __init__(
        self, folder: str | Path | None, *, resume_step: int | None = None
    ) -> None:
        self._file = self._writer = None
        if folder is None:
            return
        path = Path(folder) / EVENT_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        if resume_step is not None and path.is_file():
            _forget_after(path, resume_step)
            self._file = path.open("ab")
        else:
            self._file = path.open("wb")
        self._writer = RecordWriter(self._file)
        if not self._file.tell():
            self._add_event(Event(file_version="brain.Event:2"))

    def _add_event(self, event: Any) -> None:
        if self._writer is not None:
            event.wall_time = time.time()
            self._writer.write(event.SerializeToString())

    def _add(self, tag: str, array: Any, metadata: Any, step: int) -> None:
        value = Summary.Value(
            tag=tag, tensor=tensor_util.make_tensor_proto(array), metadata=metadata
        )
        self._add_event(Event(step=step, summary=Summary(value=[value])))

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """Writes one number a tag (`group/name`)."""
        for tag, value in values.items():
            metadata = scalar_metadata.create_summary_metadata("", "")
            self._add(tag, np.float32(value), metadata, step)

    def audio(
        self, step: int, tag: str, samples: Any, sample_rate: float | int
    ) -> None:
        """Writes a sound as it is, unclipped and unscaled.

        Args:
            step: number of steps taken.
            tag: its name, `group/name`.
            samples: float [time] or [channels, time], nominally in [-1, 1].
            sample_rate: in Hz.
        """
        wave = io.BytesIO()
        frames = np.atleast_2d(np.asarray(samples, np.float32)).T
        soundfile.write(wave, frames, round(sample_rate), format="WAV", subtype="FLOAT")
        encoding = AUDIO_ENCODING.Value("WAV")
        metadata = audio_metadata.create_summary_metadata("", "", encoding)
        array = np.array([[wave.getvalue(), b""]], dtype=object)
        self._add(tag, array, metadata, step)

    def image(self, step: int, tag: str, pixels: Any) -> None:
        """Writes a picture.

        Args:
            step: number of steps taken.
            tag: its name, `group/name`.
            pixels: [height, width, 3], uint8 or float in [0, 1].
        """
        png, width, height = _png(np.asarray(pixels))
        metadata = image_metadata.create_summary_metadata("", "")
        array = np.array([str(width).encode(), str(height).encode(), png], dtype=object)
        self._add(tag, array, metadata, step)

    def text(self, step: int, tag: str, markdown: str) -> None:
        """Writes a text in Markdown."""
        metadata = text_metadata.create_summary_metadata("", "")
        array = np.array([markdown.encode()], dtype=object)
        self._add(tag, array, metadata, step)

    def hyperparameters(self, values: Mapping[str, Any], *, name: str) -> None:
        """Writes the table of hyper-parameters, by dotted key, under the run's name."""
        plain = {
            key: value if isinstance(value, (bool, int, float, str)) else str(value)
            for key, value in values.items()
        }
        summary = hparams_summary.hparams_pb(plain, trial_id=name, start_time_secs=0)
        self._add_event(Event(step=0, summary=summary))

    def flush(self) -> None:
        """Hands everything to the operating system; called before each checkpoint."""
        if self._writer is not None:
            self._writer.flush()

    def close(self) -> None:
        """Closes the file."""
        if self._writer is not None:
            self._writer.close()

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_scalars(folder: str | Path) -> dict[str, list[tuple[int, float]]]:
    """The scalars in a run's log.

    Args:
        folder: the folder of the event file (`<run>/logs`).

    Returns:
        tag -> list of (step, value) in the order of writing.
    """
    found: dict[str, list[tuple[int, float]]] = {}
    for _, event in _events(Path(folder) / EVENT_FILE):
        for value in event.summary.value:
            if value.metadata.plugin_data.plugin_name == scalar_metadata.PLUGIN_NAME:
                number = float(tensor_util.make_ndarray(value.tensor))
                found.setdefault(value.tag, []).append((event.step, number))
    return found


def _png(pixels: np.ndarray) -> tuple[bytes, int, int]:
    """Encodes [height, width, 3] as PNG; returns it with width and height."""
    if pixels.ndim != 3 or pixels.shape[2] != 3:
        raise ValueError(f"got pixels of shape {pixels.shape}, expected [h, w, 3]")
    if pixels.dtype != np.uint8:
        pixels = np.round(np.clip(pixels, 0.0, 1.0) * 255).astype(np.uint8)
    height, width = pixels.shape[:2]

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + check

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    # Each row begins with its filter type: 0, none.
    rows = np.pad(pixels.reshape(height, -1), ((0, 0), (1, 0)))
    data = zlib.compress(rows.tobytes(), 6)
    signature = b"\x89PNG\r\n\x1a\n"
    image = chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return signature + image, width, height


class Progress:
    """One line in the terminal: step, rate, time left, loss.

    Args:
        total: the step at which training ends.
        initial: the step at which it begins.
        quiet: write nothing.
    """

    def __init__(self, total: int, initial: int, *, quiet: bool = False) -> None:
        self._bar = tqdm(
            total=total, initial=initial, unit="step", disable=quiet, dynamic_ncols=True
        )

    def advance(self) -> None:
        """One step more."""
        self._bar.update(1)

    def show(self, loss: float | None) -> None:
        """Shows the newest loss."""
        if loss is not None:
            self._bar.set_postfix_str(f"loss {loss:.4g}", refresh=False)

    def say(self, line: str) -> None:
        """Writes a line above the bar."""
        if not self._bar.disable:
            self._bar.write(line, file=self._bar.fp)

    def close(self) -> None:
        """Ends the line."""
        self._bar.close()
