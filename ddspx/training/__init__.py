"""The one training loop: tasks, states, configuration, checkpoints, logs, devices.

Example:
    A task is functions; `fit` runs them and never compiles them::

        optimizer = make_optimizer(config.optimizer)

        def init(key):
            params = model.init(key, example)
            return create_state(params, optimizer.init(params), key)

        def train(state, batch):
            loss, gradients = jax.value_and_grad(loss_fn)(
                state.params, batch, state.step_key()
            )
            state, norms = apply_gradients(state, gradients, optimizer)
            return state, {"loss": loss, **norms}

        def judge(state, batch):
            return {"loss": loss_fn(state.params, batch, state.key)}

        task = Task(init, compile_step(train), compile_step(judge, donate=False))
        with task:
            fit(task, batches, config.fit, "runs/a", evaluation=held_out,
                run_config=config, file_names=dataset.files)
        params = restore_params("runs/a")

    `train_config = parse_command_line(TrainConfig, words)` reads `--config=preset.yaml`
    and options; the same command resumes a run that was stopped or killed.
"""
