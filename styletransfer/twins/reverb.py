"""The twin of pedalboard's Reverb (juce::dsp::Reverb, which is Freeverb).

Audio [1 or 2, time]; nothing is clipped. A fresh instance, which every render of
`styletransfer.hosts` is, is prepared when it first processes: JUCE then sets its
smoothed values to their targets, so that nothing glides and the twin needs no ramps.
For the same reason freeze_mode holds nothing there: its input is shut before any sound
went in, and only the dry signal is left.

Measured on speech and music, 3 s, 20 random settings each, mono and stereo at 22.05,
24, 44.1, 48 and 96 kHz: relative RMS error at most 8e-6, in the middle 2e-6. It is
pedalboard's own: JUCE adds 0.1 to every number in its loops and takes it away again,
against denormals, which rounds them to multiples of 7e-9.
"""

from ddspx.effects.base import Processor
from ddspx.effects.freeverb import freeverb_processor
from ddspx.types import Rate
from styletransfer.twins.twin import Twin


def reverb(sample_rate: Rate) -> Processor:
    """The Reverb of pedalboard.

    Args:
      sample_rate: Hz.

    Returns:
      A `Processor` of room_size, damping, wet_level, dry_level and width in [0, 1] and
      freeze_mode (0 off, 1 on).
    """
    inner = freeverb_processor(sample_rate)

    def process(state, audio, values):
        return inner.process(state, audio, {**values, "freeze": values["freeze_mode"]})

    return Processor(inner.init_state, process)


TWINS: dict[str, Twin] = {
    "Reverb": Twin(
        {
            "room_size": 0.5,
            "damping": 0.5,
            "wet_level": 0.33,
            "dry_level": 0.4,
            "width": 1.0,
            "freeze_mode": "off",
        },
        reverb,
    )
}
