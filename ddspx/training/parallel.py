"""Data parallel training over a mesh of devices; one device is the plain case.

The batch is split along its leading axis, the state is on every device, and XLA puts
the sums between devices into the compiled step by itself (jit, `NamedSharding`, Auto
axes). The same code runs in one process or in many (`jax.distributed.initialize` is the
script's to call): every process holds its own rows of the batch and the same state.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

AXIS = "data"


def make_mesh(devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with the one axis `data`.

    Args:
        devices: the devices to use; all devices of all processes when None.

    Returns:
        A mesh with an Auto axis: shardings are XLA's business, not part of the types.
    """
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(
        (len(chosen),), (AXIS,), axis_types=(AxisType.Auto,), devices=chosen
    )


def on_every_device(mesh: Mesh) -> NamedSharding:
    """The sharding of what every device holds whole (the state, metrics)."""
    return NamedSharding(mesh, PartitionSpec())


def by_row(mesh: Mesh) -> NamedSharding:
    """The sharding of what is split along its leading axis (batches)."""
    return NamedSharding(mesh, PartitionSpec(AXIS))


def shard_batch(batch: Any, mesh: Mesh) -> Any:
    """Puts this process's rows of a batch on its devices.

    Args:
        batch: pytree of arrays [rows, ...] in host memory: the rows of this process
            alone, that is the batch size divided by the number of processes.
        mesh: the mesh of the run.

    Returns:
        The pytree as global arrays, split along the leading axis.

    Raises:
        ValueError: if the rows cannot be divided among this process's devices.
    """
    sharding = by_row(mesh)
    here = len(sharding.addressable_devices)

    def place(leaf: Any) -> jax.Array:
        array = np.asarray(leaf)
        if array.ndim == 0 or array.shape[0] % here:
            raise ValueError(
                f"a batch array of shape {array.shape} cannot be split among {here} "
                f"devices; expected a leading axis that is a multiple of {here}: "
                "choose such a batch size, or fewer devices"
            )
        return jax.make_array_from_process_local_data(sharding, array)

    return jax.tree.map(place, batch)


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a pytree on every device of the mesh; all processes pass equal values."""
    sharding = on_every_device(mesh)
    if sharding.is_fully_addressable:
        return jax.device_put(tree, sharding)

    def place(leaf: Any) -> jax.Array:
        # No process can reach all devices: each hands over its own copy, and a typed
        # key goes as the words that it is made of.
        if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            return jax.make_array_from_process_local_data(sharding, np.asarray(leaf))
        words = np.asarray(jax.random.key_data(leaf))
        words = jax.make_array_from_process_local_data(sharding, words)
        return jax.random.wrap_key_data(words, impl=jax.random.key_impl(leaf))

    return jax.tree.map(place, tree)


def compile_step(
    step: Callable[[Any, Any], Any], mesh: Mesh | None = None, *, donate: bool = True
) -> Callable[[Any, Any], Any]:
    """Compiles `step(state, batch)` for a mesh, or for one device.

    Args:
        step: a pure function of state and batch; what it returns is on every device.
        mesh: the mesh of the run; None compiles for one device.
        donate: whether the old state's memory is reused (say no for an evaluation,
            which does not return the state).

    Returns:
        The compiled function.
    """
    donated = (0,) if donate else ()
    if mesh is None:
        return jax.jit(step, donate_argnums=donated)
    whole = on_every_device(mesh)
    return jax.jit(
        step,
        in_shardings=(whole, by_row(mesh)),
        out_shardings=whole,
        donate_argnums=donated,
    )


def host_map(
    function: Callable[..., Any],
    *arrays: jax.Array,
    map_shards: Callable[[Callable[..., Any], Iterable[Any]], Iterable[Any]] = map,
) -> Any:
    """Runs a NumPy function on each device's rows and puts the results back there.

    This is how a staged step reaches an effect that is not differentiable: between two
    compiled halves, in plain Python, where exceptions and Ctrl-C work. Each process
    handles the rows of its own devices, so it scales with the processes.

    Args:
        function: `function(*rows) -> rows`, an array or a pytree of arrays with the
            same number of rows (leading axis) as it was given. It gets read-only views.
        *arrays: arrays split alike along the leading axis (or all on one device).
        map_shards: `map`, or the `map` of a thread pool to handle devices at once.

    Returns:
        The results as global arrays, sharded like the first array.

    Raises:
        ValueError: if the arrays are not split alike, or the function changes the
            number of rows.
    """
    first = arrays[0]
    devices = [shard.device for shard in first.addressable_shards]
    parts = []
    for array in arrays:
        shards = {shard.device: shard for shard in array.addressable_shards}
        rows = {d: s.index[0] if s.index else None for d, s in shards.items()}
        expected = {s.device: s.index[0] for s in first.addressable_shards}
        if rows != expected or array.shape[0] != first.shape[0]:
            raise ValueError(
                f"host_map got arrays of shapes {[a.shape for a in arrays]} with "
                f"shardings {[a.sharding for a in arrays]}; expected all of them split "
                "alike along the leading axis (compile them with `by_row(mesh)`)"
            )
        parts.append({device: np.asarray(s.data) for device, s in shards.items()})
    results = list(
        map_shards(lambda device: function(*[part[device] for part in parts]), devices)
    )

    def assemble(*rows: Any) -> jax.Array:
        host = [np.asarray(row) for row in rows]
        for got, device in zip(host, devices, strict=True):
            wanted = parts[0][device].shape[0]
            if got.ndim == 0 or got.shape[0] != wanted:
                raise ValueError(
                    f"the host function returned shape {got.shape} for {wanted} rows; "
                    "expected as many rows as it was given"
                )
        shape = (first.shape[0], *host[0].shape[1:])
        placed = [jax.device_put(h, d) for h, d in zip(host, devices, strict=True)]
        spec = first.sharding
        if isinstance(spec, NamedSharding):  # further axes of the result are whole
            spec = NamedSharding(spec.mesh, PartitionSpec(*spec.spec[:1]))
        return jax.make_array_from_single_device_arrays(shape, spec, placed)

    return jax.tree.map(assemble, *results)


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process (all processes must ask together)."""
    if jax.process_count() == 1:
        return flag
    return bool(np.any(multihost_utils.process_allgather(np.asarray(flag))))
