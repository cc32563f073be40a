"""Audio of one or two channels through plug-ins that have their own idea of both."""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

# [inputs, time] to [outputs, time], from a cleared state each time.
Process = Callable[[np.ndarray], np.ndarray]


_libc = ctypes.CDLL(None)


def seed_chance() -> None:
    """Starts the C library's random numbers anew, so that their users repeat.

    MDA's Dither, TestTone and RezFilter do; a plug-in that seeds a generator of its own
    by the clock remains random.
    """
    _libc.srand(1)
    _libc.srand48(ctypes.c_long(1))


class Stage(NamedTuple):
    """One opened plug-in of a chain.

    Attributes:
      inputs, outputs: channels, 1 or 2 each.
      held: values of parameters that are not controlled, by name.
      run: ``(audio[inputs, time], values by name) -> audio[outputs, time]``, from a
        cleared state.
    """

    inputs: int
    outputs: int
    held: Mapping[str, Any]
    run: Callable[[np.ndarray, Mapping[str, Any]], np.ndarray]


class StagedSegment:
    """Plug-ins one after the other, as `styletransfer.hosts.engine.Segment`.

    Args:
      stages: one for each slot.
    """

    def __init__(self, stages: Sequence[Stage]):
        self._stages = tuple(stages)

    def render(
        self, audio: np.ndarray, settings: Sequence[dict[str, Any] | None]
    ) -> np.ndarray:
        """See `styletransfer.hosts.engine.Segment.render`."""
        for stage, values in zip(self._stages, settings, strict=True):
            if values is not None:
                run = partial(_at, stage, {**stage.held, **values})
                audio = routed(audio, stage.inputs, stage.outputs, run)
        return audio


def _at(stage: Stage, values: Mapping[str, Any], audio: np.ndarray) -> np.ndarray:
    return stage.run(audio, values)


def routed(
    audio: np.ndarray, inputs: int, outputs: int, process: Process
) -> np.ndarray:
    """Renders mono or stereo through a plug-in of one or two inputs and outputs.

    As many channels as the plug-in has go straight through. Else

    * mono into a stereo plug-in: both inputs get it, and the mean of the outputs is
      what comes out (as when a mixer is listened to in mono);
    * stereo into a mono plug-in: each channel by itself, from a cleared state;
    * a plug-in that makes mono of stereo: both channels get it.

    Args:
      audio: [channels, time], one or two channels.
      inputs: of the plug-in, 1 or 2.
      outputs: of the plug-in, 1 or 2.
      process: renders [inputs, time] to [outputs, time].

    Returns:
      [channels, time].

    Raises:
      ValueError: more than two channels, or a plug-in of other sizes.
    """
    channels = len(audio)
    if channels > 2:
        raise ValueError(
            f"{channels} channels: third-party plug-ins render mono or stereo; split"
            " the file"
        )
    if not (1 <= inputs <= 2 and 1 <= outputs <= 2):
        raise ValueError(
            f"a plug-in of {inputs} inputs and {outputs} outputs is no mono or stereo"
            " effect"
        )
    if inputs == 1 and channels == 2:
        parts = [routed(audio[k : k + 1], inputs, outputs, process) for k in range(2)]
        return np.concatenate(parts)
    given = np.repeat(audio, 2, axis=0) if inputs > channels else audio
    made = process(np.ascontiguousarray(given, np.float32))
    if len(made) == channels:
        return made
    if channels == 1:
        return made.mean(axis=0, keepdims=True)
    return np.repeat(made, 2, axis=0)
