"""A controller cut in two: parts that are frozen, and behind them those that train.

What is frozen is run forward only, and once a batch; what it gives are the features
that the rest is trained on.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

from styletransfer.models import Controller, Prediction


class Halves(NamedTuple):
    """A controller cut in front of the first part that trains.

    Attributes:
      frozen: weights of the parts in front, by name.
      trained: weights of the others.
      features: ``(frozen, example) -> features`` of the first half.
      predict: ``(trained, *features) -> Prediction`` of the second.
    """

    frozen: Mapping[str, Any]
    trained: Mapping[str, Any]
    features: Callable[[Any, Mapping[str, Any]], tuple[jax.Array, ...]]
    predict: Callable[..., Prediction]


def cut_controller(
    controller: Controller, params: Mapping[str, Any], trained: tuple[str, ...]
) -> Halves:
    """Cuts a controller in front of the first part that trains.

    Args:
      controller: direct, or with latents.
      params: its weights by part.
      trained: names of the parts that train.

    Returns:
      `Halves`. The first one takes ``dry_code`` and ``reference_code`` of an example
      where it has them, and else encodes ``audio`` and ``reference``.

    Raises:
      ValueError: parts that the controller does not have, or one that trains in front
        of one that does not.
    """
    infer, settle = controller.latents, controller.settle
    latent = infer is not None and settle is not None
    last = "decoder" if "decoder" in params else "head"
    parts = ("encoder", "latents", last) if latent else ("encoder", last)
    first = parts.index(trained[0]) if trained and trained[0] in parts else 0
    if not trained or trained != parts[first:]:
        choices = " or ".join(str(parts[i:]) for i in range(len(parts)))
        raise ValueError(
            f"trained {trained} of a controller of the parts {parts}: give the last"
            f" ones, {choices}"
        )
    frozen = {name: params[name] for name in parts[:first]}

    def codes(params, example):
        if "dry_code" in example:
            return example["dry_code"], example["reference_code"]
        sounds = (example["audio"], example["reference"])
        return tuple(controller.encode(params, controller.image(s)) for s in sounds)

    def images(params, example):
        return controller.image(example["audio"]), controller.image(
            example["reference"]
        )

    def from_images(params, *images):
        return controller.decide(
            params, *(controller.encode(params, i) for i in images)
        )

    def latents(params, example):
        assert infer is not None
        return (infer(params, *codes(params, example))[0],)

    if first == 0:
        features, predict = images, from_images
    elif latent and first == len(parts) - 1:
        assert settle is not None
        features, predict = latents, settle
    else:
        features, predict = codes, controller.decide
    return Halves(frozen, {name: params[name] for name in trained}, features, predict)
