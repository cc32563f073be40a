"""Beta-VAEs on audio, and how much each latent dimension matters to the output.

Front-ends there and back (`spectrogram`), encoders and decoders (`models`), objectives
and their schedules (`objectives`, `schedules`), closed forms of the linear beta-VAE
(`linear`), measures of a posterior (`information`), scores against known factors
(`disentanglement`), estimators of what a latent does to any output (`sensitivity`,
`jacobian`), the proposal of a size (`size`) and pruning to it (`prune`). What a run is
and a trained model read back (`run`), its training (`task`), fixed examples of
recordings (`examples`), pictures and their augmentation (`pictures`, `images`). All of
an analysis in one call (`analysis`, what it found in `findings`), the outputs that it
judges by (`outputs`), the prediction before training (`preflight`), the report and the
smaller run (`report`, `pruned`).
"""
