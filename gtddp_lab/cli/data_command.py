"""The command ``gtddp data``."""

from gtddp_lab.cli.cli_errors import UsageError
from gtddp_lab.cli.options import DataOptions
from gtddp_lab.data import Dataset, default_data_dir, load_dataset, official, store


def prepare_data_set(options: DataOptions) -> None:
    """Prepares a data set unless it is prepared already, and describes it.

    Raises:
        UsageError: If the data set is not available, or its files cannot be used.
    """
    name, data_dir = options.name, options.data_dir or default_data_dir()
    if options.own and options.source is None:
        raise UsageError("--own goes with --from, the folder of your files.")
    try:
        if name in official.OFFICIAL_DATASETS:
            official.prepare_official(name, options.source, data_dir, options.own)
        elif options.source is not None:
            raise UsageError(f"{name} comes with a Python package; it takes no --from.")
        print(_describe_contents(load_dataset(name, data_dir)))
    except ValueError as error:
        raise UsageError(str(error)) from error
    if name in official.OFFICIAL_DATASETS:
        print(store.describe_prepared(name, data_dir))


def _describe_contents(dataset: Dataset) -> str:
    size = "x".join(map(str, dataset.train_images.shape[1:]))
    mean, standard_deviation = (
        " ".join(f"{value:.4f}" for value in values)
        for values in (dataset.channel_mean, dataset.channel_std)
    )
    return (
        f"{dataset.name}: {len(dataset.train_labels)} training and "
        f"{len(dataset.validation_labels)} validation images {size}, {dataset.classes} classes\n"
        f"Channels: mean {mean}, standard deviation {standard_deviation}"
    )
