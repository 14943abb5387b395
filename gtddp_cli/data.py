"""The command ``gtddp data``."""

from gtddp_cli.errors import UsageError
from gtddp_cli.options import Data
from gtddp_jax.training.data import Dataset, default_data_dir, load, official, store


def data(options: Data) -> None:
    """Prepares a data set, if it is not yet, and describes it.

    Raises:
        UsageError: If it is not there, or its files cannot be used.
    """
    name, data_dir = options.name, options.data_dir or default_data_dir()
    if options.own and options.source is None:
        raise UsageError("--own goes with --from, the folder of your files.")
    try:
        if name in official.OFFICIAL:
            official.prepare(name, options.source, data_dir, options.own)
        elif options.source is not None:
            raise UsageError(f"{name} comes with a Python package; it takes no --from.")
        print(_contents(load(name, data_dir)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if name in official.OFFICIAL:
        print(store.describe(name, data_dir))


def _contents(dataset: Dataset) -> str:
    size = "x".join(map(str, dataset.train_images.shape[1:]))
    mean, std = (
        " ".join(f"{value:.4f}" for value in values)
        for values in (dataset.channel_mean, dataset.channel_std)
    )
    return (
        f"{dataset.name}: {len(dataset.train_labels)} training and "
        f"{len(dataset.validation_labels)} validation images {size}, {dataset.classes} classes\n"
        f"Channels: mean {mean}, standard deviation {std}"
    )
