"""The main job on sound that the project makes itself; minutes on two cores.

    python scripts/demo.py --out demo_output

Renders two different melodies, treats one with hidden settings of a channel strip, and
asks scripts/transfer.py to make the other sound like it. Since the hidden settings are
known here, it also says how near the result is to the truth.
"""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import compiler
import numpy as np
import tyro

from ddspx import audio
from ddspx.data.practice import render_piece
from ddspx.parameters import identity_controls, settings
from styletransfer.evaluation import truth_loss
from styletransfer.hosts import open_host
from styletransfer.presets import load_effect

SAMPLE_RATE = 44100
# The sound to find: a bright, thin, squashed strings track. Physical values.
HIDDEN = {
    "high_pass.cutoff_frequency_hz": 180.0,
    "low_peak.cutoff_frequency_hz": 400.0,
    "low_peak.gain_db": -8.0,
    "mid_peak.cutoff_frequency_hz": 1500.0,
    "mid_peak.gain_db": 6.0,
    "high_shelf.cutoff_frequency_hz": 4000.0,
    "high_shelf.gain_db": 10.0,
    "compressor.threshold_db": -35.0,
    "compressor.ratio": 4.0,
    "gain.gain_db": 4.0,
}


@dataclass(frozen=True)
class Arguments:
    """Command line of demo.py."""

    out: Path = Path("demo_output")
    """Folder to write."""
    renders: int = 500
    """Renders that the search may use."""
    overwrite: bool = False
    """Replace an earlier demo."""


def main(arguments: list[str] | None = None) -> int:
    """Writes the sounds, calls the transfer script, compares; returns the exit code."""
    options = tyro.cli(Arguments, args=arguments, description=__doc__)
    out = options.out
    out.mkdir(parents=True, exist_ok=True)
    dry = render_piece("strings", 0, sample_rate=SAMPLE_RATE)
    other = render_piece("strings", 1, sample_rate=SAMPLE_RATE)
    effect = load_effect("channel_strip")
    with open_host(effect, SAMPLE_RATE) as host:
        hidden = identity_controls(host.specs)
        for index, spec in enumerate(host.specs):
            if spec.name in HIDDEN:
                hidden[index] = spec.to_unit(np.float64(HIDDEN[spec.name]))
        reference = host.render(other[None], hidden[None]).audio[0]
        truth = host.render(dry[None], hidden[None]).audio[0]
        wanted = settings(host.specs, hidden)
    sounds = {"input": dry, "reference": reference, "truth": truth}
    try:
        for name, samples in sounds.items():
            audio.save(
                out / f"{name}.wav", samples, SAMPLE_RATE, overwrite=options.overwrite
            )
    except audio.AudioFileError as error:
        print(f"demo.py: {error}", file=sys.stderr)
        return 2
    command = [
        *("scripts/transfer.py", str(out / "input.wav")),
        *("--reference", str(out / "reference.wav"), "--effect", "channel_strip"),
        *("--output", str(out / "output.wav"), "--renders", str(options.renders)),
        *(["--overwrite"] if options.overwrite else []),
    ]
    print("$ python", *command, flush=True)
    script = Path(__file__).resolve().parent / "transfer.py"
    finished = subprocess.run([sys.executable, str(script), *command[1:]], check=False)
    if finished.returncode:
        return finished.returncode
    output = audio.load(out / "output.wav").samples
    nothing, done = (float(truth_loss(a, truth)) for a in (dry, output))
    print("\nhidden settings, for comparison (what is not listed does nothing)")
    for name in HIDDEN:
        print(f"  {name:<31} {wanted[name]['text']}")
    print(
        f"\nmulti-resolution STFT loss to the truth: doing nothing {nothing:.3f},"
        f" transfer {done:.3f} ({done / nothing:.0%})"
    )
    print(f"Listen to {out}/input.wav, reference.wav, output.wav and truth.wav;")
    print(f"look at {out}/output.png and output.json.")
    return 0


if __name__ == "__main__":
    compiler.prepare()
    sys.exit(main())
