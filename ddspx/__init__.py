"""Differentiable DSP: signal core, effects, losses, data and training.

Importing the package imports nothing heavy; take what you need from its modules,
for example ``from ddspx import losses, signal``.
"""
