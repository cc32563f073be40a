"""The reverbs: Freeverb, a feedback delay network, shaped noise and convolution."""

from collections.abc import Callable

from ddspx.effects.base import Effect
from ddspx.effects.convolution import convolution
from ddspx.effects.feedback_delay_network import feedback_delay_network
from ddspx.effects.freeverb import freeverb
from ddspx.effects.noise_reverb import noise_reverb
from ddspx.types import Rate

EFFECTS: dict[str, Callable[[Rate], Effect]] = {
    "freeverb": freeverb,
    "feedback_delay_network": feedback_delay_network,
    "noise_reverb": noise_reverb,
    "convolution": convolution,
}
