"""What a comparison shows, in a sentence that is computed from its records."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from gtddp_lab.training.equal_time import elapsed_seconds, loss_at_time
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.run_summary import records_by_method

RunPair = tuple[Sequence[EpochRecord], Sequence[EpochRecord]]
"""The same epochs of one seed, of two methods."""


class PairedRatio(NamedTuple):
    """A positive quantity of one method divided by that of another, paired by seed.

    Attributes:
        ratio: Geometric mean over the seeds in which both are finite and positive; None without
            such a seed.
        smaller: Number of seeds in which the first is smaller; a number that is not finite counts
            as larger than any other.
        seeds: Number of seeds.
    """

    ratio: float | None
    smaller: int
    seeds: int


def paired_ratio(first: Sequence[float], second: Sequence[float]) -> PairedRatio:
    """Divides two quantities, one number for each seed.

    Example:
        >>> paired_ratio([1.0, 4.0, 1.0], [2.0, 2.0, float("nan")])
        PairedRatio(ratio=1.0, smaller=2, seeds=3)
    """
    pairs = np.array([first, second], np.float64)
    comparable = pairs[:, (np.isfinite(pairs) & (pairs > 0)).all(axis=0)]
    ratio = None
    if comparable.size:
        ratio = float(np.exp(np.log(comparable[0] / comparable[1]).mean()))
    ordered = np.where(np.isfinite(pairs), pairs, np.inf)
    return PairedRatio(ratio, int((ordered[0] < ordered[1]).sum()), pairs.shape[1])


def describe_findings(experiment: Experiment, records: Sequence[EpochRecord]) -> list[str]:
    """One sentence for each game: its loss and time against those of the base and the rival.

    Only seeds and epochs that both methods have are compared, so an interrupted run is described
    as well.

    Args:
        experiment: The comparison.
        records: Its epochs so far.
    """
    runs = records_by_method(records)
    methods = [method for method in experiment.methods() if method.name in runs]
    games = [method for method in methods if method.has_sample_weights]
    others = [method for method in methods if not method.has_sample_weights]
    sentences: list[str] = []
    for game in games if others else ():
        pairs = {other.label: _run_pairs(runs[game.name], runs[other.name]) for other in others}
        base, *_ = pairs
        if all(pairs.values()):
            losses = " and ".join(_loss_phrase(label, pairs[label]) for label in pairs)
            time = _time_phrase(base, pairs[base])
            sentences.append(f"{game.label} ended with {losses}; {time}.")
    return sentences


def _run_pairs(
    game: Mapping[int, Sequence[EpochRecord]], other: Mapping[int, Sequence[EpochRecord]]
) -> list[RunPair]:
    pairs: list[RunPair] = []
    for seed in (seed for seed in game if seed in other):
        epochs = min(len(game[seed]), len(other[seed]))
        pairs.append((game[seed][:epochs], other[seed][:epochs]))
    return pairs


def _loss_phrase(label: str, pairs: Sequence[RunPair]) -> str:
    """The final training loss against that of ``label``."""
    found = paired_ratio(
        [game[-1].train_loss for game, _ in pairs], [other[-1].train_loss for _, other in pairs]
    )
    counted = f"lower in {found.smaller} of {found.seeds} seeds"
    if found.ratio is None:
        return f"a training loss that cannot be divided by that of {label} ({counted})"
    return f"{_multiple(found.ratio)} times the training loss of {label} ({counted})"


def _time_phrase(label: str, pairs: Sequence[RunPair]) -> str:
    """The time against that of ``label``, and the loss when ``label`` had finished."""
    ends = [(elapsed_seconds(game)[-1], elapsed_seconds(base)[-1]) for game, base in pairs]
    time = paired_ratio([end for end, _ in ends], [end for _, end in ends]).ratio
    reached = [loss_at_time(game, end) for (game, _), (_, end) in zip(pairs, ends, strict=True)]
    loss = paired_ratio(reached, [base[-1].train_loss for _, base in pairs]).ratio
    text = "after the same epochs" if time is None else f"it took {_multiple(time)} times as long"
    if loss is not None and not np.isnan(reached).any():  # else a game had no epoch by then
        text += f", and had {_multiple(loss)} times the loss of {label} when that had finished"
    return text


def _multiple(ratio: float) -> str:
    """Two decimals, or one digit of what is less than a tenth."""
    return f"{ratio:.2f}" if ratio >= 0.1 else f"{ratio:.1g}"
