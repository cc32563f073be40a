"""Synthesisers: pure functions from controls at a frame rate to sound."""
