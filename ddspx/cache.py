"""Results on disk by the content of what they were made from.

A result is found again when everything that it depends on is the same: the key is a
hash of arrays, texts and numbers, never a file name or a date.
"""

import hashlib
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ddspx.audio import written_aside

Arrays = dict[str, np.ndarray]
_DIGEST = "content_digest"


def content_key(*parts: Any) -> str:
    """A hash of arrays, bytes, texts, numbers, and lists and tables of these.

    Args:
      *parts: order counts; a table is taken in the order of its names. An array counts
        by type, shape and values.

    Returns:
      40 hexadecimal digits.

    Raises:
      TypeError: something else was given, which has no content to go by.
    """
    digest = hashlib.sha256()
    for part in parts:
        _add(digest, part)
    return digest.hexdigest()[:40]


def cached(
    folder: str | Path | None, key: str, make: Callable[[], Mapping[str, Any]]
) -> Arrays:
    """Arrays from the cache, or made and kept there.

    Args:
      folder: of the cache; None makes them each time and keeps nothing.
      key: from `content_key`.
      make: gives arrays by name.

    Returns:
      The arrays. A file that is damaged is made again.

    Raises:
      OSError: the folder cannot be written.
    """
    if folder is None:
        return {name: np.asarray(value) for name, value in make().items()}
    path = Path(folder) / f"{key}.npz"
    kept = _read(path)
    if kept is not None:
        return kept
    made = {name: np.asarray(value) for name, value in make().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    digest = np.array(content_key(made))
    np.savez(buffer, **made, **{_DIGEST: digest})  # type: ignore[arg-type]
    with written_aside(path, overwrite=True) as aside:
        aside.write_bytes(buffer.getvalue())
    return made


def _read(path: Path) -> Arrays | None:
    if not path.is_file():
        return None
    try:
        # Read first: np.load leaves a file open that it cannot make sense of.
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        digest = str(arrays.pop(_DIGEST))
    except Exception:  # a damaged archive raises whatever its bytes lead to
        return None
    return arrays if content_key(arrays) == digest else None


def _add(digest: Any, part: Any) -> None:
    if isinstance(part, Mapping):
        digest.update(b"{%d" % len(part))
        for name in sorted(part):
            _add(digest, name)
            _add(digest, part[name])
    elif isinstance(part, (list, tuple)):
        digest.update(b"[%d" % len(part))
        for one in part:
            _add(digest, one)
    elif isinstance(part, (np.ndarray, np.generic)):
        array = np.ascontiguousarray(part)
        digest.update(f"array {array.dtype.str} {array.shape} ".encode())
        digest.update(array.tobytes())
    elif isinstance(part, bytes):
        digest.update(b"bytes %d " % len(part) + part)
    elif part is None or isinstance(part, (str, int, float, bool)):
        text = repr(part).encode()
        digest.update(b"value %d " % len(text) + text)
    else:
        raise TypeError(
            f"a {type(part).__name__} has no content to go by; give arrays, bytes,"
            " texts, numbers, or lists and tables of these"
        )
