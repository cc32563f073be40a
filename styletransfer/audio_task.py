"""Training of a controller by the sound that its settings make, through a black box.

After a warm start on known settings, which costs no renders, chosen parts of the
controller go on with the loss of the render at the predicted settings to the target
(`styletransfer.audio_losses`). The parts in front of them are frozen: run forward once,
never differentiated, saved once.

    frozen (device)    sounds -> codes, or latents
    propose (device)   trained parts -> settings, and where to render
    render (host)      all points of all examples
    conclude (device)  losses -> gradient of the settings -> gradient of the weights

Steps are split into micro-batches, so that the host renders one while the device works
on the next and on the one before. The gradient's method is one switch, `Gradient`; a
gradient through JAX instead of a host is computed without one.

What has no slope is trained by what is known. A discrete control is a step function of
the setting: both ends of a perturbation mostly take the same choice, and where they do
not, the difference quotient is as large as the step is small. Such controls are
therefore not perturbed and get no gradient from the sound, but that of the likelihood
of the choice that the target was made with (`settings_likelihood`). Neither does the
sound say how sure a prediction is: deviations follow the errors of the labelled
examples, by the same likelihood with the means of continuous controls held.

An example that is not valid, or whose target is next to silent, is not rendered; one
with a render that failed has no loss. Both are counted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ddspx.training.optimizer import OptimizerConfig, apply_gradients, make_optimizer
from ddspx.training.parallel import (
    by_row,
    compile_step,
    host_map,
    on_every_device,
    replicate,
)
from ddspx.training.task import Task, create_state
from styletransfer.audio_gradients import (
    IN_JAX,
    WITH_STAND_IN,
    AudioTaskConfig,
    StandIn,
    make_estimator,
    twin_of,
)
from styletransfer.audio_losses import make_audio_loss
from styletransfer.decoder_task import settings_likelihood
from styletransfer.frozen_parts import cut_controller
from styletransfer.gradients import compile_halves, mean_over_valid, render_points
from styletransfer.hosts import Host, Status
from styletransfer.models import Controller
from styletransfer.prediction_metrics import (
    is_loud,
    judge_prediction,
    show_prediction,
)


def audio_task(
    controller: Controller,
    host: Host,
    start: Mapping[str, Any],
    config: AudioTaskConfig,
    optimizer_config: OptimizerConfig,
    mesh: Mesh | None = None,
    *,
    stand_in: StandIn | None = None,
    sizes: np.ndarray | None = None,
    timer: Callable[[str], None] | None = None,
) -> Task:
    """The task of training a controller by sound, on batches of `pair_batches`.

    Args:
      controller: what is trained.
      host: the opened effect.
      start: weights of all its parts, after a warm start on known settings.
      config: what trains, and how.
      optimizer_config: the optimizer.
      mesh: devices that share the batch; None for one.
      stand_in: for the methods that need one; the effect's twin when None.
      sizes: see `make_estimator`.
      timer: called as a step comes to them, for measurements, with ``"wait"`` (all is
        dispatched, points are awaited), ``"render"`` and ``"rendered"`` (the host is
        at work), these for each micro-batch, and ``"finish"``.

    Returns:
      A `Task`. Its params are the trained parts alone; ``frozen`` holds the parts in
      front, by name, and as ``"stand_in"`` the weights of a learned one.
      Steps give ``loss``, ``likelihood``, ``invalid`` and ``failed``, shares of the
      batch, and ``control_gradient``; evaluations see `judge_prediction`.

    Raises:
      ValueError: parts that cannot train, too few renders, or no twin where one is
        needed.
    """
    task = _AudioTask(
        controller, host, start, config, optimizer_config, mesh, stand_in, sizes, timer
    )
    return Task(
        task.init,
        task.step_in_jax if config.gradient in IN_JAX else task.step_by_renders,
        task.evaluate,
        task.show,
        frozen=task.frozen(),
    )


class _AudioTask:
    def __init__(
        self,
        controller: Controller,
        host: Host,
        start: Mapping[str, Any],
        config: AudioTaskConfig,
        optimizer_config: OptimizerConfig,
        mesh: Mesh | None,
        stand_in: StandIn | None,
        sizes: np.ndarray | None,
        timer: Callable[[str], None] | None,
    ):
        self.host, self.config, self.mesh = host, config, mesh
        self.halves = cut_controller(controller, start, config.trained)
        self.optimizer = make_optimizer(optimizer_config)
        self.loss = make_audio_loss(config.loss, host.sample_rate)
        self.smooth = jnp.asarray([not spec.choices for spec in host.specs])
        self.stand_in = StandIn(lambda params, audio, controls: audio, {})
        if config.gradient == "autodiff":
            self.stand_in = twin_of(host)
        elif config.gradient in WITH_STAND_IN:
            self.stand_in = twin_of(host) if stand_in is None else stand_in
        self.tick = (lambda name: None) if timer is None else timer
        self._compile(sizes)

    def _compile(self, sizes):
        config, mesh = self.config, self.mesh
        self.frozen_weights = _fresh(self.halves.frozen)
        if mesh is None:
            self.prepare = jax.jit(self._prepare)
            self.part = jax.jit(self._part, static_argnums=1)
        else:
            self.frozen_weights = replicate(self.halves.frozen, mesh)
            whole, rows = on_every_device(mesh), by_row(mesh)
            self.prepare = jax.jit(
                self._prepare, in_shardings=(whole, rows), out_shardings=rows
            )
            self.part = jax.jit(self._part, static_argnums=1, out_shardings=rows)
        self.keys = jax.jit(
            lambda state: jax.random.split(state.step_key(), config.micro_batches)
        )
        self.predicted = jax.jit(self._predict)
        if config.gradient in IN_JAX:
            self._step_in_jax = compile_step(self._exact_step, mesh)
            return
        proxied = config.gradient in WITH_STAND_IN

        def proxy(audio, controls):
            return self.stand_in.render(self.stand_in.params, audio, controls)

        self.black_box = compile_halves(
            lambda params, batch: self._controls(params, batch["features"]),
            self.loss,
            make_estimator(config, self.host.specs, sizes),
            # The full hybrid pulls back what is heard.
            form="vector" if config.gradient == "proxy_full" else config.form,
            proxy=proxy if proxied else None,
            mesh=mesh,
            by_example=True,
        )
        self.finish = jax.jit(self._finish, donate_argnums=0)

    # ----------------------------------------------------------------- functions of JAX

    def _prepare(self, frozen, batch):
        """What a step needs of a batch, with all that the frozen parts say of it."""
        kept = {
            name: batch[name]
            for name in ("audio", "target", "controls", "labelled", "valid")
        }
        features = jax.vmap(self.halves.features, (None, 0))(frozen, batch)
        kept["valid"] = kept["valid"] & is_loud(batch["target"])
        return {**kept, "features": jax.lax.stop_gradient(features)}

    def _part(self, batch, at):
        return jax.tree.map(lambda rows: rows[at :: self.config.micro_batches], batch)

    def _predict(self, params, features):
        return jax.vmap(lambda f: self.halves.predict(params, *f))(features)

    def _controls(self, params, features):
        controls = self._predict(params, features).controls
        return jnp.where(self.smooth, controls, jax.lax.stop_gradient(controls))

    def _likelihood(self, params, features, controls, counted):
        """Of known settings, over the examples that count; see the module."""
        prediction = self._predict(params, features)
        means = prediction.controls
        held = jax.lax.stop_gradient(means)
        held += self.config.pull * (means - jax.lax.stop_gradient(means))
        held = jnp.where(self.smooth, held, means)
        each = jax.vmap(lambda p, c: settings_likelihood(self.host.specs, p, c))(
            prediction._replace(controls=held), controls
        )
        return mean_over_valid(each, counted)

    def _update(self, state, gradients, batch, metrics):
        """Adds the likelihood's gradient, and takes the optimizer's step."""
        counted = batch["valid"] & batch["labelled"]
        likelihood, own = jax.value_and_grad(self._likelihood)(
            state.params, batch["features"], batch["controls"], counted
        )
        gradients = jax.tree.map(
            lambda a, b: a + self.config.likelihood * b, gradients, own
        )
        state, norms = apply_gradients(state, gradients, self.optimizer)
        return state, {**metrics, "likelihood": likelihood, **norms}

    def _exact_step(self, state, batch):
        """A step with the effect in JAX from end to end."""
        features, valid = batch["features"], batch["valid"]
        controls, vjp = jax.vjp(lambda p: self._controls(p, features), state.params)

        def one(audio, target, controls):
            def total(controls):
                heard = self.stand_in.render(self.stand_in.params, audio, controls)
                return self.loss(heard, {"target": target})

            return jax.value_and_grad(total)(controls)

        each = jax.vmap if self.mesh is not None else _by_example
        losses, slopes = each(one)(batch["audio"], batch["target"], controls)
        finite = jnp.isfinite(losses) & jnp.all(jnp.isfinite(slopes), axis=1)
        good = valid & finite
        gradient = jnp.where(good[:, None], slopes, 0.0)
        gradient /= jnp.maximum(jnp.sum(good), 1)
        metrics = {
            "loss": mean_over_valid(losses, good),
            "invalid": jnp.mean(~valid),
            "failed": jnp.mean(valid & ~finite),
            "control_gradient": jnp.sqrt(jnp.mean(gradient**2)),
        }
        return self._update(state, vjp(gradient)[0], batch, metrics)

    def _finish(self, state, concluded, batches):
        """Brings the micro-batches together, each by the examples that count in it."""
        sizes = jnp.asarray([batch["valid"].shape[0] for batch in batches])
        excluded = jnp.stack([metrics["excluded"] for _, metrics in concluded])
        shares = (sizes - excluded) / jnp.maximum(jnp.sum(sizes - excluded), 1.0)

        def mean(*values):
            return sum(s * v for s, v in zip(shares, values, strict=True))

        gradients = jax.tree.map(mean, *(found for found, _ in concluded))
        batch = jax.tree.map(lambda *rows: jnp.concatenate(rows), *batches)
        invalid = jnp.sum(~batch["valid"])
        count = batch["valid"].shape[0]
        # Each is of a mean over its own part; together, of the mean over all.
        squares = jnp.stack([m["control_gradient"] ** 2 for _, m in concluded])
        metrics = {
            "loss": mean(*(metrics["loss"] for _, metrics in concluded)),
            "invalid": invalid / count,
            "failed": (jnp.sum(excluded) - invalid) / count,
            "control_gradient": jnp.sqrt(jnp.sum(shares**2 * squares * sizes) / count),
        }
        return self._update(state, gradients, batch, metrics)

    # ----------------------------------------------------------- functions of the task

    def frozen(self) -> dict[str, Any] | None:
        weights = dict(self.halves.frozen)
        if jax.tree.leaves(self.stand_in.params):
            weights["stand_in"] = self.stand_in.params
        return weights or None

    def init(self, key):
        params = _fresh(self.halves.trained)
        return create_state(params, self.optimizer.init(params), key)

    def step_in_jax(self, state, batch):
        batch = self.prepare(self.frozen_weights, _arrays(batch))
        return self._step_in_jax(state, batch)

    def step_by_renders(self, state, batch):
        batch, keys = _arrays(batch), self.keys(state)
        parts, proposed, concluded = [], [], []
        for at in range(self.config.micro_batches):
            part = self.prepare(self.frozen_weights, self._rows(batch, at))
            proposed.append(self.black_box.propose(state.params, part, keys[at]))
            parts.append(part)
        for part, (points, pending) in zip(parts, proposed, strict=True):
            self.tick("wait")
            rendered, status = host_map(
                self._render, points, part["audio"], part["valid"]
            )
            judged = {name: part[name] for name in ("audio", "target", "features")}
            concluded.append(self.black_box.conclude(pending, rendered, status, judged))
        self.tick("finish")
        kept = ("features", "controls", "labelled", "valid")
        small = [{name: part[name] for name in kept} for part in parts]
        return self.finish(state, concluded, small)

    def evaluate(self, state, batch):
        return judge_prediction(self.host, self._prediction(state, batch), batch)

    def show(self, state, batch):
        return show_prediction(self.host, self._prediction(state, batch), batch)

    def _prediction(self, state, batch):
        prepared = self.prepare(self.frozen_weights, _arrays(batch))
        return self.predicted(state.params, prepared["features"])

    def _rows(self, batch, at):
        """Every so many rows, that each device keeps its own."""
        count = self.config.micro_batches
        if len(batch["valid"]) % count:
            raise ValueError(
                f"a batch of {len(batch['valid'])} cannot be split into {count}"
                " micro-batches of one size; choose a multiple"
            )
        if count == 1:
            return batch
        if self.mesh is not None:
            return self.part(batch, at)
        return {name: values[at::count] for name, values in batch.items()}

    def _render(self, points, audio, valid):
        """Renders what is valid; NumPy only."""
        self.tick("render")
        shape = (*points.shape[:2], *audio.shape[1:])
        rendered = np.zeros(shape, np.float32)
        status = np.full(shape[:2], Status.ERROR, np.int32)
        if valid.any():
            found = render_points(self.host.render, audio[valid], points[valid])
            rendered[valid], status[valid] = found
        self.tick("rendered")
        return rendered, status


def _fresh(weights: Any) -> Any:
    """Copies, as a step gives them: it donates the state, and the start is its owner's.

    Weights from a file are bound to a device, and Python's numbers have no type of
    their own: the step after the first would be compiled again.
    """
    return jax.tree.map(lambda leaf: jnp.array(np.asarray(leaf)), weights)


def _by_example(function):
    # The gradient is taken inside, so that nothing is kept or computed twice.
    if jax.default_backend() != "cpu":
        return jax.vmap(function)
    return lambda *arrays: jax.lax.map(lambda rows: function(*rows), arrays)


def _arrays(batch: Mapping[str, Any]) -> dict[str, Any]:
    """Of a batch what this task reads."""
    names = ["audio", "target", "controls", "labelled", "valid"]
    coded = "dry_code" in batch
    names += ["dry_code", "reference_code"] if coded else ["reference"]
    return {name: batch[name] for name in names}
