"""Figures of spectrogram images, made without a display."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from vae.spectrogram import SpectrogramConfig


def image_grid(
    images: Mapping[str, np.ndarray],
    config: SpectrogramConfig,
    *,
    columns: int = 4,
    title: str = "",
) -> Figure:
    """Images [frames, bins] by name, time to the right, all on one colour scale.

    Args:
      images: features.
      config: front-end they come from, for the axes.
      columns: images in a row.
      title: above everything.

    Returns:
      A figure.
    """
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(3.0 * columns + 0.8, 2.5 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
    low = min(float(np.min(image)) for image in images.values())
    high = max(float(np.max(image)) for image in images.values())
    seconds = config.samples / config.sample_rate
    rows_named = config.scale in ("log_mel", "waveform")
    top = config.bins if rows_named else 5e-4 * config.sample_rate
    shown = None
    for axis in axes.flat[len(images) :]:
        axis.set_axis_off()
    for axis, (name, image) in zip(axes.flat, images.items(), strict=False):
        shown = axis.imshow(
            np.asarray(image).T,
            origin="lower",
            aspect="auto",
            extent=(0.0, seconds, 0.0, top),
            vmin=low,
            vmax=high,
            cmap="magma",
            interpolation="nearest",
        )
        axis.set_title(name, fontsize=9)
    figure.supxlabel("time / s", fontsize=9)
    names = {"log_mel": "mel band", "waveform": "sample of the row"}
    figure.supylabel(names.get(config.scale, "frequency / kHz"), fontsize=9)
    if shown is not None:
        label = "level / dB" if config.db_per_unit == 1.0 else "feature"
        figure.colorbar(shown, ax=axes, label=label, pad=0.01)
    if title:
        figure.suptitle(title)
    return figure
