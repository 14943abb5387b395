"""Text for language models: the help topics that come with Python."""

from pathlib import Path

import numpy as np

from gtddp_lab.data.dataset import DataError, Dataset

WINDOW = 64
"""Characters of a sample."""

ASCII_CODES = 128
"""Number of classes; other characters of the text, a few hundred, are left out."""

TRAINING_SHARE = 0.9
"""Share of the text, from its beginning, that is for training."""


def pydoc_topics_dataset(data_dir: Path) -> Dataset:
    """Cut the text of ``pydoc_data.topics`` into windows of 64 characters.

    The image of a sample [64, 1, 1] holds the codes of its characters, divided by 255, and its
    labels [64] the codes of the characters that follow each of them. Python 3.11 has 465 kB of
    text; other versions differ a little.

    Args:
        data_dir: Folder of prepared data sets; not used, the text is part of Python.

    Raises:
        DataError: If Python was installed without this text.
    """
    del data_dir
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise DataError(
            "pydoc_topics is the text of Python's module pydoc_data, which is not found. Install "
            "the complete standard library of Python."
        ) from error
    text = "\n".join(topics[name] for name in sorted(topics))
    codes = np.frombuffer(text.encode("ascii", "ignore"), np.uint8)
    train, validation = np.split(codes, [int(TRAINING_SHARE * len(codes))])
    return Dataset(
        name="pydoc_topics",
        train_images=_windows(train[:-1]),
        train_labels=_windows(train[1:], as_labels=True),
        validation_images=_windows(validation[:-1]),
        validation_labels=_windows(validation[1:], as_labels=True),
        classes=ASCII_CODES,
    )


def _windows(codes: np.ndarray, *, as_labels: bool = False) -> np.ndarray:
    """Windows side by side: images [N, 64, 1, 1], or labels [N, 64]; the rest is dropped."""
    windows = codes[: len(codes) // WINDOW * WINDOW].reshape(-1, WINDOW)
    if as_labels:
        return windows.astype(np.int32)
    return (windows / 255).astype(np.float32)[:, :, None, None]
