"""Networks as pure functions: the only modules that know flax."""
