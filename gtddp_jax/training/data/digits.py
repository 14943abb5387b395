"""Scikit-learn's handwritten digits, which come with the package."""

from pathlib import Path

import numpy as np

from gtddp_jax.training.data.dataset import Dataset

SPLIT_SEED = 0
"""Seed of the split: never the run's, so that all runs are scored on the same images."""


def digits(data_dir: Path) -> Dataset:
    """Loads scikit-learn's handwritten digits: 1797 grey images of 8x8 pixels in 10 classes.

    The split is stratified: 80 % training images, 20 % validation images of every class.

    Args:
        data_dir: Folder of prepared sets; not read, as these images come with scikit-learn.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))  # [1797, 64] in 0..16, [1797]
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = classes.astype(np.int32)
    train, validation = map(
        np.asarray,
        train_test_split(
            np.arange(len(labels)), test_size=0.2, stratify=labels, random_state=SPLIT_SEED
        ),
    )
    return Dataset(
        name="digits",
        train_images=images[train],
        train_labels=labels[train],
        validation_images=images[validation],
        validation_labels=labels[validation],
        classes=10,
    )
