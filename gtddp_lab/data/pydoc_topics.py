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
    return Dataset("pydoc_topics", *text_samples(train), *text_samples(validation), ASCII_CODES)


def text_samples(codes: np.ndarray, window: int = WINDOW) -> tuple[np.ndarray, np.ndarray]:
    """Cut a text into windows side by side; what is left at its end is dropped.

    Args:
        codes: Codes of the characters, integers from 0 to 255, shape [length].
        window: Characters of a window, T.

    Returns:
        Images [N, T, 1, 1], the codes divided by 255, and the codes that follow each of them,
        labels [N, T].
    """
    count = (len(codes) - 1) // window
    inputs, following = (
        part[: count * window].reshape(count, window) for part in (codes[:-1], codes[1:])
    )
    return (inputs / 255).astype(np.float32)[:, :, None, None], following.astype(np.int32)
