"""The handwritten digits that are part of scikit-learn."""

from pathlib import Path

import numpy as np

from gtddp_lab.data.dataset import Dataset

SPLIT_SEED = 0
"""Seed of the split. It is not the run's seed, so that all runs validate on the same images."""


def digits_dataset(data_dir: Path) -> Dataset:
    """Load scikit-learn's handwritten digits: 1797 grey images of 8x8 pixels in 10 classes.

    The split is stratified: 80 % of the images of each class for training, 20 % for validation.

    Args:
        data_dir: Folder of prepared data sets; not used, the images are part of scikit-learn.
    """
    del data_dir
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    pixels, classes = map(np.asarray, load_digits(return_X_y=True))  # [1797, 64] in 0..16, [1797]
    images = (pixels / 16.0).astype(np.float32).reshape(-1, 8, 8, 1)
    labels = classes.astype(np.int32)
    # Indices are split rather than images, so that both arrays stay aligned.
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
