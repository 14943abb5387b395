"""Readers of data sets in the formats in which their authors publish them.

One module per format: ``idx`` (MNIST and its relatives), ``cifar`` (python and binary), ``svhn``
(MATLAB). A reader takes bytes that ``files`` has found, bounded and compared with the checksums of
the originals, and returns ``Examples``. Files are data from strangers: nothing is ever extracted to
disk, no pickle may name a class or a function other than NumPy's arrays, and no size is believed.
"""

from gtddp_jax.training.data.raw.cifar import CIFAR10, CIFAR100
from gtddp_jax.training.data.raw.examples import Examples, RawSet, Reader
from gtddp_jax.training.data.raw.idx import FASHION_MNIST, MNIST
from gtddp_jax.training.data.raw.svhn import SVHN_CROPPED

READERS: dict[str, tuple[Reader, ...]] = {
    "mnist": (MNIST,),
    "fashion_mnist": (FASHION_MNIST,),
    "svhn_cropped": (SVHN_CROPPED,),
    "cifar10": CIFAR10,
    "cifar100": CIFAR100,
}
"""The formats in which a data set may lie in a folder, by the set's name."""

__all__ = ["READERS", "Examples", "RawSet", "Reader"]
