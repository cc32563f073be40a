"""The `Synth`: a small tuple of functions that turns controls into sound.

Controls are a dictionary of arrays with frames first, [frames] or [frames, k], in
physical units (Hz, linear amplitude); a frame is `hop` samples. A synth makes one
mono signal; batch it with ``jax.vmap``. Three steps have names: what a network puts
out -> ``to_controls`` -> ``render``. Nothing is normalised or clipped.

A synth is written once, as a `Core` that renders the hops between frames from an
explicit state; whole signals and streams are both made from it, so that a stream of
blocks is the whole by construction.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from ddspx.types import RandomKey

State = Any
# Physical controls by name, frames first.
Controls = Mapping[str, Any]


class Core(NamedTuple):
    """What is particular to a synth, at one sample rate and hop.

    Attributes:
      init_state: ``(key) -> state`` at the start of a sound: a small pytree of arrays;
        a synth without chance ignores the key.
      process: ``(state, controls[n + 1 frames]) -> (state, audio[n hop])``: the n hops
        between n + 1 frames, n from 1. What a hop of noise draws depends on the key
        and the number of the hop alone, so that blocks do not matter.
      delay: samples by which `process` lags what its frames ask for (half of a linear
        phase filter).
      frame_at: sample of its hop at which a frame's values hold: 0, or ``hop // 2``
        where frames lie in the middle.
    """

    init_state: Callable[[RandomKey], State]
    process: Callable[[State, Controls], tuple[State, jax.Array]]
    delay: int = 0
    frame_at: int = 0


class Synth(NamedTuple):
    """A synthesiser at one sample rate and one hop.

    Attributes:
      sizes: what a network has to put out, by name: the last axis of each output.
      to_controls: ``(outputs) -> controls``: unbounded network outputs [..., frames,
        size], and what is physical already (such as ``f0_hz`` [..., frames]), to
        physical controls; any leading dimensions.
      render: ``(controls, key) -> audio[frames hop]``: the whole sound; after the last
        frame its values hold.
      init_state: ``(key, controls) -> state`` of a stream; of the controls only names
        and shapes behind the frames matter.
      render_block: ``(state, controls[n frames]) -> (state, audio[n hop])``, n from 1:
        blocks in sequence, without their first `latency` samples and followed by
        enough blocks of the last frame, give what `render` gives.
      hop: samples from frame to frame.
      latency: samples by which blocks lag; `render` does not lag.
      core: what the synth is made from; `mix` needs it.
    """

    sizes: Mapping[str, int]
    to_controls: Callable[[Mapping[str, Any]], dict[str, jax.Array]]
    render: Callable[[Controls, RandomKey], jax.Array]
    init_state: Callable[[RandomKey, Controls], State]
    render_block: Callable[[State, Controls], tuple[State, jax.Array]]
    hop: int
    latency: int
    core: Core


def make_synth(
    core: Core,
    hop: int,
    *,
    sizes: Mapping[str, int],
    to_controls: Callable[[Mapping[str, Any]], dict[str, jax.Array]],
) -> Synth:
    """A `Synth` from its core.

    Args:
      core: see `Core`.
      hop: samples from frame to frame.
      sizes: of the network outputs that `to_controls` reads.
      to_controls: see `Synth`.

    Returns:
      A `Synth`; its functions raise ValueError where controls disagree about the number
      of frames or have none.
    """
    lead = hop - core.frame_at if core.frame_at else 0
    # Frames after the end whose hops bring out what lags.
    extra = -(-(core.delay + hop - core.frame_at) // hop)

    def render(controls, key):
        frames = count_frames(controls)
        controls = jax.tree.map(
            lambda c: _edge(c, 1 if core.frame_at else 0, extra), dict(controls)
        )
        _, audio = core.process(core.init_state(key), controls)
        start = lead + core.delay
        return audio[start : start + frames * hop]

    def init_state(key, controls):
        last = jax.tree.map(
            lambda c: jnp.zeros(jnp.shape(c)[1:], jnp.result_type(c)), dict(controls)
        )
        inner = core.init_state(key)
        # A fresh state may be of another precision than controls make of it.
        two = jax.tree.map(lambda c: jnp.stack([c, c]), last)
        kinds, _ = jax.eval_shape(core.process, inner, two)
        inner = jax.tree.map(
            lambda s, kind: s if s.dtype == kind.dtype else s.astype(kind.dtype),
            inner,
            kinds,
        )
        return inner, last, jnp.zeros((), bool)

    def render_block(state, controls):
        frames = count_frames(controls)
        inner, last, started = state
        if dict(controls).keys() != last.keys():
            raise ValueError(
                f"the stream began with controls {sorted(last)}, got {sorted(controls)}"
            )
        controls = jax.tree.map(jnp.asarray, dict(controls))

        def go_on(inner):
            joined = jax.tree.map(
                lambda before, c: jnp.concatenate([before[None], c]), last, controls
            )
            return core.process(inner, joined)

        def begin(inner):
            if core.frame_at:
                # Half a hop before the first frame is heard: its values hold there.
                return core.process(
                    inner, jax.tree.map(lambda c: _edge(c, 1, 0), controls)
                )
            # Nothing comes before the first frame, and no time passes.
            kind = jax.eval_shape(go_on, inner)[1]
            silence = jnp.zeros(hop, kind.dtype)
            if frames == 1:
                return inner, silence
            after, audio = core.process(inner, controls)
            return after, jnp.concatenate([silence, audio])

        inner, audio = lax.cond(started, go_on, begin, inner)
        last = jax.tree.map(lambda c: c[-1], controls)
        return (inner, last, jnp.ones((), bool)), audio

    return Synth(
        dict(sizes),
        to_controls,
        render,
        init_state,
        render_block,
        hop,
        hop - core.frame_at + core.delay,
        core,
    )


def mix(*synths: Synth) -> Synth:
    """The sum of synths, as a synth: harmonic plus noise, for example.

        y[t] = sum_j y_j[t]

    Args:
      synths: of one hop, whose frames lie at the same place. Their controls and outputs
        are joined by name: those of one name are shared. Each gets a key of its own.

    Returns:
      A `Synth`, as late as the latest of them.

    Raises:
      ValueError: none is given; hops or places of frames differ; or two ask a network
        for outputs of one name and different sizes.
    """
    if not synths:
        raise ValueError("mix takes one synth or more, got none")
    hops = {synth.hop for synth in synths}
    places = {synth.core.frame_at for synth in synths}
    if len(hops) > 1 or len(places) > 1:
        raise ValueError(
            "mix takes synths of one hop whose frames lie at the same place, got hops"
            f" {sorted(hops)} and places {sorted(places)}; make them with the same"
        )
    delay = max(synth.core.delay for synth in synths)
    cores = [_delayed(synth.core, delay - synth.core.delay) for synth in synths]

    def init_state(key):
        keys = jax.random.split(key, len(cores))
        return tuple(
            core.init_state(one) for core, one in zip(cores, keys, strict=True)
        )

    def process(states, controls):
        done = [
            core.process(state, controls)
            for core, state in zip(cores, states, strict=True)
        ]
        audio = done[0][1]
        for _, more in done[1:]:
            audio = audio + more
        return tuple(state for state, _ in done), audio

    def to_controls(outputs):
        found = {}
        for synth in synths:
            found |= synth.to_controls(outputs)
        return found

    sizes: dict[str, int] = {}
    for synth in synths:
        for name, n in synth.sizes.items():
            if sizes.setdefault(name, n) != n:
                raise ValueError(
                    f"mix takes synths that share an output of one size, got {name!r}"
                    f" of {sizes[name]} and {n}; rename one"
                )
    core = Core(init_state, process, delay, synths[0].core.frame_at)
    return make_synth(core, synths[0].hop, sizes=sizes, to_controls=to_controls)


def stream(
    synth: Synth, blocks: Iterable[Controls], key: RandomKey
) -> Iterator[jax.Array]:
    """Sound of controls that come block by block, in constant memory.

    Args:
      synth: any.
      blocks: controls of successive frames; blocks of equal length compile once.
      key: of its noise.

    Yields:
      Pieces of sound, without the latency; joined they are what `render` gives for the
      joined controls.

    Raises:
      ValueError: there is no block.
    """
    state, frames, late = None, 0, synth.latency
    made, controls = 0, None
    step = jax.jit(synth.render_block)
    for controls in blocks:
        if state is None:
            state = synth.init_state(key, controls)
        frames += count_frames(controls)
        state, audio = step(state, controls)
        audio, late = audio[late:], max(0, late - audio.shape[-1])
        made += audio.shape[-1]
        if audio.shape[-1]:
            yield audio
    if controls is None:
        raise ValueError("stream takes one block of controls or more, got none")
    held = jax.tree.map(lambda c: jnp.asarray(c)[-1:], dict(controls))
    while made < frames * synth.hop:
        state, audio = step(state, held)
        audio, late = audio[late:], max(0, late - audio.shape[-1])
        audio = audio[: frames * synth.hop - made]
        made += audio.shape[-1]
        if audio.shape[-1]:
            yield audio


def count_frames(controls: Controls) -> int:
    """Frames of controls.

    Raises:
      ValueError: there are none, or controls disagree.
    """
    counts = {
        name: jnp.shape(c)[0] if jnp.ndim(c) else 0 for name, c in controls.items()
    }
    if len(set(counts.values())) != 1 or not min(counts.values()):
        raise ValueError(
            "controls are arrays with frames first, as many in each and at least one,"
            f" got frames {counts or 'of no control'}"
        )
    return next(iter(counts.values()))


def _edge(control: Any, before: int, after: int) -> jax.Array:
    control = jnp.asarray(control)
    widths = [(before, after)] + [(0, 0)] * (control.ndim - 1)
    return jnp.pad(control, widths, mode="edge")


def _delayed(core: Core, samples: int) -> Core:
    """The same sound, so many samples later."""
    if not samples:
        return core

    def init_state(key):
        return core.init_state(key), jnp.zeros(samples)

    def process(state, controls):
        inner, waiting = state
        inner, audio = core.process(inner, controls)
        joined = jnp.concatenate([waiting.astype(audio.dtype), audio])
        return (inner, joined[audio.shape[-1] :]), joined[: audio.shape[-1]]

    return core._replace(
        init_state=init_state, process=process, delay=core.delay + samples
    )
