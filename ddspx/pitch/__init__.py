"""Fundamental frequency of monophonic sound: candidates, and a path through them.

`track_f0` is all that most callers need: frames of audio -> how well each repeats
after each lag (`periodicity`) -> candidates with probabilities (`candidates`) -> the
likeliest path through them (`path`) -> a continuous curve (`track`). No weights, any
sample rate.
"""

from ddspx.pitch.track import VERSION, Pitch, Prior, track_f0

__all__ = ["VERSION", "Pitch", "Prior", "track_f0"]
