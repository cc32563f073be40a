"""Audio effects as pure JAX functions."""
