"""Default network, epochs, batch size, rates and augmentation of every data set. Imports no JAX."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gtddp_lab.core.look_up import look_up


@dataclass(frozen=True)
class Recipe:
    """Defaults for one data set.

    Attributes:
        network: Key in ``networks.NETWORKS``.
        epochs: Passes over the training images.
        batch_size: Images in a batch.
        augmentation: Key in ``data.AUGMENTATIONS``.
        normalise: Whether every channel is shifted and scaled to mean 0 and standard deviation 1.
        learning_rates: Rates by optimizer, key in ``methods.OPTIMIZERS``; for all others, the
            optimizer's default.
    """

    network: str
    epochs: int
    batch_size: int
    augmentation: str = "none"
    normalise: bool = True
    learning_rates: Mapping[str, float] = field(default_factory=dict)


RECIPES: dict[str, Recipe] = {
    # The rates with the lowest final training loss, alone and in the implicit game, of five: the
    # problem `digits_conv` of the tuned study, and "How the rate was chosen" in docs/quickstart.md.
    "digits": Recipe(
        "residual-conv",
        epochs=10,
        batch_size=32,
        normalise=False,
        learning_rates={"sgd": 0.1, "nesterov": 0.1, "schedule_free": 0.01},
    ),
    "mnist1d": Recipe("residual-mlp", epochs=10, batch_size=32),
    "pydoc_topics": Recipe("char-gpt", epochs=1, batch_size=16, normalise=False),
    "mnist": Recipe("residual-conv-stride", epochs=3, batch_size=128),
    "fashion_mnist": Recipe("residual-conv-stride", epochs=5, batch_size=128),
    "svhn_cropped": Recipe("residual-conv-stride", epochs=10, batch_size=128),
    "cifar10": Recipe("four-blocks", 20, 128, augmentation="crop-flip"),
    "cifar100": Recipe("resnet18", 100, 128, augmentation="crop-flip"),
}
"""Defaults by data set; the keys are those of ``data.DATASETS``."""


def recipe_for(dataset: str) -> Recipe:
    """The defaults of a data set.

    Raises:
        ValueError: If ``dataset`` is unknown.
    """
    return look_up(RECIPES, dataset, "dataset")
