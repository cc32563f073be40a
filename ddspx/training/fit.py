"""The one training loop.

It draws batches, calls the task's compiled step, looks at what comes back, evaluates,
and saves. Everything that decides how training goes on is in the checkpoint (train
state, data position, running means), so a run that was killed at any moment and
resumed gives the same bits as one that was not.
"""

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
from jax.sharding import Mesh

from ddspx.training import checkpoint, parallel
from ddspx.training.configuration import (
    ConfigurationError,
    FitConfig,
    to_dict,
    to_yaml,
)
from ddspx.training.logging import Progress, RunLog
from ddspx.training.provenance import flat, git_revision, refuse_changes
from ddspx.training.task import Task, TrainState, mean_metrics
from ddspx.training.watchdog import NonFiniteError, Watchdog, stop_on_signals, survey

LOGS = "logs"


@dataclass
class _Memory:
    """What a checkpoint's record holds beside the state."""

    position: int = 0
    best: float | None = None
    best_step: int = 0
    silent_steps: int = 0
    sums: dict[str, list[float]] = field(default_factory=dict)

    def collect(self, metrics: Mapping[str, float]) -> None:
        for name, value in metrics.items():
            total, count = self.sums.get(name, (0.0, 0.0))
            self.sums[name] = [total + value, count + 1]

    def means(self) -> dict[str, float]:
        means = {f"train/{n}": total / count for n, (total, count) in self.sums.items()}
        self.sums = {}
        return means


def stream(batches: Any, start: int, config: FitConfig) -> Iterator[Any]:
    """Batches from a position on, prepared by threads ahead of time.

    Args:
        batches: a `grain.MapDataset` of batches, or a sequence of them; batch i is the
            same whenever it is asked for. A finite one is repeated.
        start: index of the first batch.
        config: for the number of threads and of batches ahead.

    Returns:
        An endless iterator.
    """
    if not isinstance(batches, grain.MapDataset):
        batches = grain.MapDataset.source(batches)
    options = grain.ReadOptions(
        num_threads=config.data_threads, prefetch_buffer_size=config.prefetch
    )
    endless = batches.repeat()[start:]
    return iter(endless.to_iter_dataset(options, allow_nones=True))


def fit(
    task: Task,
    batches: Any,
    config: FitConfig,
    run_folder: str | Path,
    *,
    evaluation: Sequence[Any] | Any | None = None,
    run_config: Any = None,
    file_names: Sequence[str] = (),
    mesh: Mesh | None = None,
    attachments: Mapping[str, str] | None = None,
) -> TrainState:
    """Trains a task until `config.steps`, or resumes the run in the folder.

    Args:
        task: what is trained; already entered if it owns anything.
        batches: `grain.MapDataset` (or sequence) of batches: dictionaries of NumPy
            arrays [batch, ...]; the entry `file`, int32 indices into `file_names`, says
            where an example comes from. With several processes: this process's rows.
        config: how long, and how often to look.
        run_folder: everything is written here. An existing run is resumed, if its
            configuration is the same; another folder's content is never touched.
        evaluation: finite sequence (or MapDataset) of batches for `task.evaluate`.
        run_config: the whole resolved configuration (a dataclass) to store and to
            compare on resume; `config` when None.
        file_names: names of the data files, for messages.
        mesh: spread the batch over these devices (the task's functions must be
            compiled for it, see `parallel.compile_step`); None for one device.
        attachments: texts by file name that belong to the run, such as a description
            of what it is trained for; written beside its record.

    Returns:
        The state after the last step, also after Ctrl-C (then `state.step` is less
        than `config.steps`, and the checkpoint is saved).

    Raises:
        NonFiniteError: a metric or the state is NaN or infinite; that is not saved.
        SilenceError: the output stayed silent.
        ConfigurationError: the run was started with another configuration.
        CheckpointError: the folder is not a run, or its checkpoints cannot be read.
    """
    run = _Run(
        task, config, Path(run_folder), run_config, file_names, mesh, attachments
    )
    with run:
        return run.train(batches, [] if evaluation is None else evaluation)


class _Run:
    def __init__(
        self,
        task: Task,
        config: FitConfig,
        folder: Path,
        run_config: Any,
        file_names: Sequence[str],
        mesh: Mesh | None,
        attachments: Mapping[str, str] | None,
    ) -> None:
        self.attachments = attachments
        self.task, self.config, self.folder, self.mesh = task, config, folder, mesh
        self.run_config = config if run_config is None else run_config
        if run_config is not None and config not in vars(run_config).values():
            raise ConfigurationError(
                f"run_config is a {type(run_config).__name__} whose fields do not hold "
                "the FitConfig given as `config`; expected a dataclass with it inside, "
                "so that all of it is stored and compared"
            )
        self.first = jax.process_index() == 0
        self.file_names = file_names
        self.known = checkpoint.is_run(folder)
        if self.known:
            self._refuse_other_run(checkpoint.read_run(folder))
        self.record = self._describe()
        with contextlib.ExitStack() as stack:
            self._open(stack)
            self.open = stack.pop_all()

    def _describe(self) -> dict[str, Any]:
        frozen = None
        if self.task.frozen is not None:
            frozen = checkpoint.tree_hash(self.task.frozen)
        return {
            "config": json.loads(json.dumps(to_dict(self.run_config))),
            "git_revision": git_revision(),
            "versions": {"jax": jax.__version__, "numpy": np.__version__},
            "frozen": frozen,
            "files": _files_hash(self.file_names),
        }

    def _refuse_other_run(self, run: Mapping[str, Any]) -> None:
        refuse_changes(run["config"], self.run_config)
        frozen = self.task.frozen
        now = None if frozen is None else checkpoint.tree_hash(frozen)
        files = _files_hash(self.file_names)
        for what, old, new in (
            ("frozen weights", run["frozen"], now),
            # A run that was begun without a list, such as a pruned model, takes any.
            ("list of data files", run["files"] or files, files),
        ):
            if old != new:
                raise ConfigurationError(
                    f"{self.folder} was trained with another {what} (hash {old}, now "
                    f"{new}); resume with the same, or name a new run folder"
                )

    def _open(self, stack: contextlib.ExitStack) -> None:
        config, folder = self.config, self.folder
        if self.first:
            text = to_yaml(self.run_config)
            checkpoint.write_run(folder, self.record, text, self.attachments)
        if self.task.frozen is not None:
            checkpoint.save_frozen(folder, self.task.frozen)
        self.last = stack.enter_context(
            checkpoint.CheckpointStore(
                folder / checkpoint.LAST, keep=config.keep, keep_every=config.keep_every
            )
        )
        self.best = stack.enter_context(
            checkpoint.CheckpointStore(folder / checkpoint.BEST, keep=1)
        )
        self.state, self.memory, self.saved = self._start()
        self.step = int(self.state.step)
        self.watchdog = Watchdog(config, self.file_names, self.memory.silent_steps)
        self.log = stack.enter_context(
            RunLog(
                folder / LOGS if self.first else None,
                resume_step=None if self.saved is None else self.step,
            )
        )
        self.progress = Progress(
            config.steps, self.step, quiet=config.quiet or not self.first
        )
        stack.callback(self.progress.close)

    def _start(self) -> tuple[TrainState, _Memory, int | None]:
        state = self.task.init(jax.random.key(self.config.seed))
        if self.mesh is not None:
            state = parallel.replicate(state, self.mesh)
        restored = self.last.restore_newest(checkpoint.abstract_like(state))
        if restored is None:
            return state, _Memory(), None
        step, state, record = restored
        return state, _Memory(**record["memory"]), step

    def __enter__(self) -> "_Run":
        return self

    def __exit__(self, *error: Any) -> None:
        self.open.__exit__(*error)

    # ------------------------------------------------------------------------ the loop

    def train(self, batches: Any, evaluation: Any) -> TrainState:
        config = self.config
        judged = self._evaluation_batches(evaluation)
        if self.saved is None:
            values = flat(self.record["config"])
            self.log.text(0, "config", f"```yaml\n{to_yaml(self.run_config)}```")
            self.log.hyperparameters(values, name=self.folder.name)
            self._evaluate(judged)
        if self.step >= config.steps:
            return self.state
        source = stream(batches, self.memory.position, config)
        with stop_on_signals() as stop:
            while self.step < config.steps:
                self._one_step(next(source))
                due = self.step % config.log_every == 0
                if due:
                    self._read()
                    self.log.scalars(self.step, self.memory.means())
                if self.step % config.evaluate_every == 0 or self.step == config.steps:
                    self._evaluate(judged)
                if self.step % config.save_every == 0:
                    self._save()
                # Processes may only stop together; they talk when they log.
                if parallel.any_process(bool(stop)) if due else self._alone(stop):
                    self.progress.say(f"stopped at step {self.step}, saving")
                    break
        self._read()
        if self.saved != self.step:
            self._save()
        return self.state

    @staticmethod
    def _alone(stop: Any) -> bool:
        return bool(stop) and jax.process_count() == 1

    def _place(self, batch: Any) -> Any:
        return batch if self.mesh is None else parallel.shard_batch(batch, self.mesh)

    def _one_step(self, batch: Any) -> None:
        if batch is None:
            raise ValueError(
                f"batch {self.memory.position} is None; expected a dictionary of "
                "arrays: a dataset may not filter after batching"
            )
        files = batch.get("file", ()) if isinstance(batch, Mapping) else ()
        self.state, metrics = self.task.step(self.state, self._place(batch))
        self.step += 1
        self.memory.position += 1
        self.watchdog.add(self.step, metrics, files)
        self.progress.advance()

    def _read(self) -> None:
        """Reads the metrics of all steps so far; raises if one is bad."""
        try:
            for _, metrics in self.watchdog.read():
                self.memory.collect(metrics)
                self.progress.show(metrics.get("loss"))
        except Exception as error:
            error.add_note(self._last_good())
            raise
        self.memory.silent_steps = self.watchdog.silent_steps

    def _last_good(self) -> str:
        where = self.folder / checkpoint.LAST
        if self.saved is None:
            return f"no checkpoint was saved before, in {where}"
        return f"the last good checkpoint is step {self.saved} in {where}"

    def _evaluation_batches(self, evaluation: Any) -> list[Any]:
        if self.task.evaluate is None and self.task.show is None:
            return []
        count = len(evaluation)
        if self.config.evaluation_batches is not None:
            count = min(count, self.config.evaluation_batches)
        # Kept in memory: an evaluation set is small and is used again and again.
        return [evaluation[i] for i in range(count)]

    def _evaluate(self, batches: list[Any]) -> None:
        if not batches:
            return
        self._read()
        if self.task.show is not None:
            sounds = self.task.show(self.state, self._place(batches[0]))
            for tag, (samples, sample_rate) in sounds.audio.items():
                self.log.audio(self.step, tag, samples, sample_rate)
            for tag, pixels in sounds.images.items():
                self.log.image(self.step, tag, pixels)
            for tag, text in sounds.text.items():
                self.log.text(self.step, tag, text)
        if self.task.evaluate is None:
            return
        placed = map(self._place, batches)
        values = mean_metrics(self.task, self.state, placed)
        self.log.scalars(self.step, {f"evaluation/{n}": v for n, v in values.items()})
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        self.progress.say(f"step {self.step}: {shown}")
        self._check_evaluation(values)
        self._keep_best(values)

    def _check_evaluation(self, values: Mapping[str, float]) -> None:
        try:
            named = {f"evaluation/{n}": v for n, v in values.items()}
            self.watchdog.check_finite(self.step, named)
        except NonFiniteError as error:
            error.add_note(self._last_good())
            raise

    def _keep_best(self, values: Mapping[str, float]) -> None:
        config, memory = self.config, self.memory
        if config.best_metric not in values:
            raise ConfigurationError(
                f"best_metric: got '{config.best_metric}', expected one of the "
                f"evaluation's metrics {sorted(values)}"
            )
        value = values[config.best_metric]
        sign = 1 if config.best_is == "lowest" else -1
        if memory.best is None or sign * value < sign * memory.best:
            memory.best, memory.best_step = value, self.step
            self._write(self.best)

    def _save(self) -> None:
        self._read()
        self._write(self.last)
        self.saved = self.step

    def _write(self, store: checkpoint.CheckpointStore) -> None:
        if int(self.state.step) != self.step:
            raise ValueError(
                f"the task returned step {int(self.state.step)} after {self.step} "
                "steps; expected `state.step + 1` from each step"
            )
        bad, checksum = survey(self.state)
        if bad:
            error = NonFiniteError(
                f"{', '.join(bad)} not finite after step {self.step}, which gave "
                "finite metrics (return `gradient_norm` to see it in its step)"
            )
            error.add_note(self._last_good())
            raise error
        self.log.flush()
        record = {
            **self.record,
            "step": self.step,
            "memory": vars(self.memory),
            "checksum": checksum,
        }
        store.save(self.step, self.state, record)


def _files_hash(names: Sequence[str]) -> str | None:
    """A hash of the files' own names: the folder around them may move."""
    if not names:
        return None
    text = "\n".join(Path(name).name for name in names)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
