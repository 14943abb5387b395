"""Readers of data sets in the formats published by their authors.

One module per format: ``idx`` (MNIST, Fashion-MNIST), ``cifar`` (pickled and binary) and ``svhn``
(MATLAB). ``original_files`` finds the files, bounds their size and compares their checksums; a
reader parses the bytes into ``Examples``. The files are untrusted: nothing is extracted to disk, a
pickle may name nothing but NumPy's arrays, and every claimed size is checked.
"""

from gtddp_lab.data.raw.cifar import CIFAR10_READERS, CIFAR100_READERS
from gtddp_lab.data.raw.examples import Examples, RawSet, Reader
from gtddp_lab.data.raw.idx import FASHION_MNIST_READER, MNIST_READER
from gtddp_lab.data.raw.svhn import SVHN_READER

READERS: dict[str, tuple[Reader, ...]] = {
    "mnist": (MNIST_READER,),
    "fashion_mnist": (FASHION_MNIST_READER,),
    "svhn_cropped": (SVHN_READER,),
    "cifar10": CIFAR10_READERS,
    "cifar100": CIFAR100_READERS,
}
"""The readers of each data set, one per format, by name of the data set."""

__all__ = ["READERS", "Examples", "RawSet", "Reader"]
