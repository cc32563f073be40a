"""How JAX compiles in scripts and tests: call before anything is computed."""

import os
from pathlib import Path

import jax
import jaxlib

CACHE = Path.home() / ".cache" / "ddspx-jax"
# jaxlib 0.10 for CPU hands sums of products to a library (YNNPACK) that gets some of
# them wrong (a constant times a signal, summed over a middle axis: see
# tests/test_compiler.py) and others forty times too slow (the gradient of a gain by
# example). 0.12 does neither.
_FAULTY = "0.10."
_WITHOUT = "--xla_cpu_experimental_ynn_fusion_type="


def avoid_faulty_sums() -> None:
    """Switches the faulty fusion off where this jaxlib has it; XLA reads it once."""
    flags = os.environ.get("XLA_FLAGS", "")
    if jaxlib.__version__.startswith(_FAULTY) and _WITHOUT not in flags:
        os.environ["XLA_FLAGS"] = f"{flags} {_WITHOUT}".strip()


def prepare() -> None:
    """For every script: right sums, and programs kept from one start to the next."""
    avoid_faulty_sums()
    # What was compiled once need not be again: seconds of every start.
    jax.config.update("jax_compilation_cache_dir", str(CACHE))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
