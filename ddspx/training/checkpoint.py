"""Checkpoints and the run folder: the only module that knows orbax.

A run folder holds `run.json` (resolved configuration, git revision, versions, hash of
the frozen weights), `config.yaml` (the configuration again, usable as a preset),
`last/` and `best/` (checkpoints by step), `frozen/` and `logs/`. It is all that
inference needs. A checkpoint is the train state and a record: a JSON file with the
data position, the configuration and a checksum of the state.
"""

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Sharding, SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from ddspx.training.watchdog import survey

logger = logging.getLogger(__name__)

LAST, BEST, FROZEN, DAMAGED = "last", "best", "frozen", "damaged"


class CheckpointError(RuntimeError):
    """A checkpoint or run folder that cannot be used; says why and what to do."""


def abstract_like(tree: Any) -> Any:
    """Shapes, dtypes and shardings of a pytree of arrays: the target of a restore."""
    return jax.tree.map(
        lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), tree
    )


def _context() -> Any:
    """Orbax's settings: records are JSON files, whatever is in them."""
    registry = ocp.handlers.local_registry()
    registry.add(ocp.handlers.JsonHandler, checkpointable_name="record")
    context: Any = ocp.Context()
    context.checkpointables.registry = registry
    return context


class CheckpointStore:
    """The checkpoints of one folder, by step; writes in the background.

    Args:
        folder: the folder of the checkpoints.
        keep: how many of the newest are kept.
        keep_every: keep also every one at a multiple of this step.
    """

    def __init__(
        self, folder: str | Path, *, keep: int = 2, keep_every: int | None = None
    ) -> None:
        self.folder = Path(folder).absolute()
        policies: Any = ocp.training.preservation_policies
        kept = [policies.LatestN(keep)]
        if keep_every is not None:
            kept.append(policies.EveryNSteps(keep_every))
        self._policy = policies.AnyPreservationPolicy(kept)
        self._orbax = self._open()

    def _open(self) -> Any:
        decisions: Any = ocp.training.save_decision_policies
        return ocp.training.Checkpointer(
            str(self.folder),
            context=_context(),
            save_decision_policy=decisions.FixedIntervalPolicy(1),
            preservation_policy=self._policy,
            cleanup_tmp_directories=True,
        )

    @property
    def steps(self) -> list[int]:
        """The steps of the complete checkpoints, oldest first."""
        return [checkpoint.step for checkpoint in self._orbax.checkpoints]

    def save(
        self, step: int, state: Any, record: Mapping[str, Any], *, wait: bool = False
    ) -> None:
        """Saves a state and its record; the arrays are copied before this returns.

        A checkpoint of the same step is kept if it holds the same bits (a resumed run
        comes by again), else replaced. A failure of an earlier save in the background
        is raised here.

        Args:
            step: number of steps taken.
            state: pytree of arrays.
            record: plain values that JSON can hold.
            wait: whether to return only when the checkpoint is complete.
        """
        exists = step in self.steps
        if exists and self._record(step).get("checksum") == record.get("checksum"):
            return
        # Several processes write one checkpoint together; one at a time is simplest.
        wait = wait or jax.process_count() > 1
        content = {"state": state, "record": json.loads(json.dumps(record))}
        response = self._orbax.save_checkpointables_async(
            step, content, force=True, overwrite=exists
        )
        if wait and response is not None:
            response.result()

    def _record(self, step: int) -> dict[str, Any]:
        try:
            return self._orbax.load_checkpointables(step, {"record": None})["record"]
        except Exception:  # a damaged one is replaced
            return {}

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict[str, Any]]:
        """Reads one checkpoint and verifies its checksum.

        Args:
            step: which one.
            abstract: pytree of `ShapeDtypeStruct` with shardings (`abstract_like`);
                they decide the devices, whatever devices it was saved from.

        Returns:
            The state and the record.

        Raises:
            CheckpointError: if the values are not those that were saved.
        """
        # One after the other: when one of two fails, orbax leaves the other dangling.
        record = self._orbax.load_checkpointables(step, {"record": None})["record"]
        state = self._orbax.load_checkpointables(step, {"state": abstract})["state"]
        if "checksum" in record and survey(state)[1] != record["checksum"]:
            raise CheckpointError(
                f"the arrays of {self.folder / str(step)} are not those that were saved"
            )
        return state, record

    def restore_newest(self, abstract: Any) -> tuple[int, Any, dict[str, Any]] | None:
        """Reads the newest intact checkpoint; damaged newer ones are set aside.

        Args:
            abstract: as in `restore`.

        Returns:
            Step, state and record, or None if the folder holds no checkpoint.

        Raises:
            CheckpointError: if there are checkpoints but none can be read; then nothing
                is moved.
        """
        failures: dict[int, Exception] = {}
        for step in reversed(self.steps):
            try:
                state, record = self.restore(step, abstract)
            except Exception as error:  # damage shows as many kinds of error
                failures[step] = error
                continue
            self._set_aside(failures)
            return step, state, record
        if failures:
            newest = max(failures)
            raise CheckpointError(
                f"none of the checkpoints {sorted(failures)} in {self.folder} can be "
                f"read; the newest says: {failures[newest]!r}. If the model changed, "
                "name a new run folder"
            ) from failures[newest]
        return None

    def _set_aside(self, failures: Mapping[int, Exception]) -> None:
        if not failures:
            return
        self._orbax.close()
        for step, error in failures.items():
            logger.warning(
                "checkpoint %d of %s is damaged and was set aside in %s: %r",
                step, self.folder, DAMAGED, error,
            )  # fmt: skip
            if jax.process_index() == 0:
                aside = self.folder.parent / DAMAGED
                aside.mkdir(exist_ok=True)
                target = aside / f"{self.folder.name}-{step}"
                shutil.rmtree(target, ignore_errors=True)
                os.rename(self.folder / str(step), target)
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints set aside")
        self._orbax = self._open()

    def close(self) -> None:
        """Waits for saves in the background and ends them; raises their failure."""
        self._orbax.close()

    def __enter__(self) -> "CheckpointStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


# ---------------------------------------------------------------- reading for inference


def _newest_step(run_folder: Path, which: str) -> Path:
    folder = run_folder / which
    steps = [int(p.name) for p in folder.glob("*") if p.name.isdecimal()]
    if not steps:
        raise CheckpointError(
            f"{folder} holds no checkpoint; expected a run folder that training made"
        )
    return folder.absolute() / str(max(steps))


def restore_params(
    run_folder: str | Path,
    keys: Sequence[str] = ("params",),
    *,
    which: str = BEST,
    sharding: Sharding | None = None,
) -> Any:
    """Reads one part of the state of a run, and only the arrays of that part.

    Nothing of the program that trained is needed: dataclasses and tuples come back as
    dictionaries and lists.

    Args:
        run_folder: the folder of the run.
        keys: the way to the part, for example `("params", "encoder")`.
        which: `best` (as `FitConfig.best_metric` says) or `last`.
        sharding: where the arrays go; the first local device when None.

    Returns:
        The part as nested dictionaries and lists of arrays.

    Raises:
        CheckpointError: if there is no such run, checkpoint or part.
    """
    step = _newest_step(Path(run_folder), which)
    place = sharding or SingleDeviceSharding(jax.local_devices()[0])
    content: Any = ocp.metadata(str(step), checkpointable_name="state").metadata
    for depth, key in enumerate(keys):
        if not isinstance(content, Mapping) or key not in content:
            known = sorted(content) if isinstance(content, Mapping) else []
            raise CheckpointError(
                f"{step} has no part {'.'.join(keys[: depth + 1])}; expected one of "
                f"{known}"
            )
        content = content[key]
    part = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=place), content
    )
    wanted = part
    for key in reversed(keys):
        wanted = {key: wanted}
    context = ocp.Context()
    context.pytree.loading.partial_load = True
    with context:
        read: Any = ocp.load(str(step), wanted, checkpointable_name="state")
    for key in keys:
        read = read[key]
    return read


def read_record(run_folder: str | Path, *, which: str = BEST) -> dict[str, Any]:
    """The record of a run's newest (or best) checkpoint: step, config, position ...

    Raises:
        CheckpointError: if there is no checkpoint.
    """
    step = _newest_step(Path(run_folder), which)
    with _context():
        read: Any = ocp.load_checkpointables(str(step), {"record": None})
    return read["record"]


# ----------------------------------------------------------------------- frozen weights


def tree_hash(tree: Any) -> str:
    """SHA-256 over names, shapes, dtypes and bytes of a pytree of arrays."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        array = np.asarray(leaf)
        name = jax.tree_util.keystr(path, simple=True, separator=".")
        digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save_frozen(run_folder: str | Path, tree: Any) -> str:
    """Saves frozen weights once, in a folder named by their hash.

    Args:
        run_folder: the folder of the run.
        tree: pytree of arrays.

    Returns:
        The hash.
    """
    digest = tree_hash(tree)
    target = Path(run_folder).absolute() / FROZEN / digest
    if not target.exists():
        ocp.save(str(target), tree, checkpointable_name="state")
    return digest


def load_frozen(run_folder: str | Path) -> Any:
    """The frozen weights of a run, or None if it has none.

    Raises:
        CheckpointError: if they are not those that the run was trained with.
    """
    digest = read_run(run_folder).get("frozen")
    if digest is None:
        return None
    folder = Path(run_folder).absolute() / FROZEN / digest
    place = SingleDeviceSharding(jax.local_devices()[0])
    content: Any = ocp.metadata(str(folder), checkpointable_name="state").metadata
    wanted = jax.tree.map(
        lambda m: jax.ShapeDtypeStruct(m.shape, m.dtype, sharding=place), content
    )
    tree = ocp.load(str(folder), wanted, checkpointable_name="state")
    if tree_hash(tree) != digest:
        raise CheckpointError(f"the frozen weights in {folder} are damaged")
    return tree


# ------------------------------------------------------------------------- the run file


def write_run(
    run_folder: str | Path,
    run: Mapping[str, Any],
    config_yaml: str,
    attachments: Mapping[str, str] | None = None,
) -> None:
    """Writes `run.json`, `config.yaml` and more texts, each aside and then renamed.

    Args:
        run_folder: made where it does not exist.
        run: what `read_run` gives back.
        config_yaml: the configuration for people.
        attachments: text by file name, written before the folder counts as a run.
    """
    folder = Path(run_folder)
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(run, indent=2) + "\n"
    files = {**(attachments or {}), "config.yaml": config_yaml, "run.json": text}
    for name, content in files.items():
        aside = folder / f".{name}.tmp"
        aside.write_text(content, encoding="utf-8")
        os.replace(aside, folder / name)


def read_run(run_folder: str | Path) -> dict[str, Any]:
    """The content of `run.json`: config, git revision, versions, hashes.

    Raises:
        CheckpointError: if the folder is not a run.
    """
    path = Path(run_folder) / "run.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{run_folder} is not a run folder: cannot read {path.name} ({error})"
        ) from None


def is_run(run_folder: str | Path) -> bool:
    """Whether a folder holds a run.

    Raises:
        CheckpointError: if the folder holds other things; a run needs its own folder.
    """
    folder = Path(run_folder)
    if (folder / "run.json").is_file():
        return True
    if folder.exists() and (
        not folder.is_dir() or any(p.name[0] != "." for p in folder.iterdir())
    ):
        raise CheckpointError(
            f"{folder} exists and is not a run; name a new or an empty folder"
        )
    return False
