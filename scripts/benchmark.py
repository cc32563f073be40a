"""Measurements of speed and quality, one suite a question.

    python scripts/benchmark.py SUITE [options]      (SUITE --help lists the options)
    python scripts/benchmark.py all                  every suite at its defaults

Suites: hosts (render throughput against the machine's limit, cost of faults),
gradients (estimators against autodiff through the twins, per render), transfer (loss
against renders for every search, target given), matching (hidden settings recovered by
autodiff and by renders, side by side), style (how much each style term moves
with content alone: the scales of the style distance), twins (how far the JAX twins are
from pedalboard, and what a render of both costs), effects (forward and gradient time,
memory and compile time of the JAX effects, against C++ doing the forward pass),
accuracy (the DSP in float32 against float64, as SNR in dB), factors (whether as many
latents are proposed as an effect has parameters), embedding (which effect an
unsupervised code tells, against PCA of the same images; information about settings),
encoder_probes (what the codes of an encoder of sounds tell of effect and settings, on
speakers not heard, and what is left of the content),
recovery (hidden settings of plug-ins, found with a target given; which controls can be
told at all), plugins (every installed one: does it load, repeat, give sound), devices
(how near chains of plug-ins come to real hardware), controller_gradients (methods that
train a controller by sound, at equal renders), controller_steps (where the time of such
a training step goes), pitch (f0 beside librosa: right on tones of known pitch in noise
and rooms, alike on recordings, how fast), synths (forward and gradient time and memory
of the synths, against their plain formulation in JAX and the roofline), textures (noise
bands against filtered noise of several sizes: equal parameters, equal time, sounds not
trained on).
"""

import importlib
import sys

import compiler

SUITES = (
    "hosts",
    "gradients",
    "transfer",
    "matching",
    "style",
    "twins",
    "effects",
    "accuracy",
    "factors",
    "digits",
    "presets",
    "latents",
    "embedding",
    "encoder_probes",
    "recovery",
    "plugins",
    "devices",
    "controller_gradients",
    "controller_steps",
    "pitch",
    "noisebandnet",
    "synths",
    "textures",
)


def main() -> int:
    """Hands the rest of the command line to the suite; returns the exit code."""
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help"):
        print(__doc__)
        return 0 if arguments else 2
    name, rest = arguments[0], arguments[1:]
    if name != "all" and name not in SUITES:
        print(
            f"benchmark.py: suite {name!r} unknown; choose one of {', '.join(SUITES)},"
            " all",
            file=sys.stderr,
        )
        return 2
    for suite in SUITES if name == "all" else (name,):
        print(f"== {suite}", flush=True)
        try:
            importlib.import_module(f"benchmarks.{suite}").main(rest)
        except ValueError as error:
            print(f"benchmark.py: {suite}: {error}", file=sys.stderr)
            return 2
    return 0


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
