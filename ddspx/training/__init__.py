"""The one training loop: configuration, checkpoints, logging, fit."""
