"""Programs that the tests start: a run that dies, and runs on several devices."""

import json
import os
import signal
import sys
import time

import jax


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(run, moment):
    """Trains in `run` and is killed at one exact moment."""
    from training_example import STEP, config, make_batches, make_task

    from ddspx.training.fit import fit

    deleting = []

    def watch(event, arguments):
        # The save runs in background threads; Python reports what they do to files.
        words = [os.fspath(a) for a in arguments if isinstance(a, str | os.PathLike)]
        last = os.path.join(run, "last")
        if moment == "writing" and event == "open":
            if words and words[0].startswith(f"{last}/16.") and "state" in words[0]:
                die()
        elif moment == "commit" and event == "os.rename":
            if words[-1] == f"{last}/16":
                die()
        elif moment == "deleting":
            if event == "shutil.rmtree" and words[0] == f"{last}/8":
                deleting.append(event)
            elif event in ("os.remove", "os.rmdir") and deleting:
                deleting.append(event)
                if len(deleting) == 4:
                    die()

    sys.addaudithook(watch)

    def step(state, batch):
        if moment == "step" and int(state.step) == 20:
            while not os.path.exists(os.path.join(run, "last", "16")):
                time.sleep(0.01)  # the save of step 16 may still be on its way
            die()
        return STEP(state, batch)

    evaluation = make_batches(2)
    fit(
        make_task(step=step), make_batches(), config(), run, evaluation=evaluation
    )  # fmt: skip


def train_staged(run, devices, index, count, port, steps):
    """Trains the staged task on all devices of all processes."""
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", int(devices))
    index, count = int(index), int(count)
    if count > 1:
        jax.distributed.initialize(
            f"127.0.0.1:{port}", num_processes=count, process_id=index
        )
    from training_example import config, make_batches, rows
    from training_staged import render_targets, staged_task

    from ddspx.training.fit import fit
    from ddspx.training.parallel import make_mesh

    mesh = make_mesh()
    assert mesh.size == int(devices) * count
    batches = rows(render_targets(make_batches()), index, count)
    settings = config(steps=int(steps), log_every=1, save_every=100)
    with staged_task(mesh, backend="thread" if count > 1 else "process") as task:
        state = fit(task, batches, settings, run, mesh=mesh)
    bias = state.params["bias"]
    assert len(bias.sharding.device_set) == mesh.size
    json.dump({"bias": bias.tolist(), "step": int(state.step)}, sys.stdout)


if __name__ == "__main__":
    {"die": train_and_die, "staged": train_staged}[sys.argv[1]](*sys.argv[2:])
