"""Write run folders for tests of the report, without training."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from gtddp_jax.network import EdgeFacts, PlayerFacts, StageFacts
from gtddp_lab.training import results
from gtddp_lab.training.description import describe_stages
from gtddp_lab.training.experiment import Experiment
from gtddp_lab.training.records import EpochRecord
from gtddp_lab.training.settings import TrainSettings
from gtddp_lab.training.watch import png_base64, weight_digest

STAGES = (
    StageFacts(
        (PlayerFacts("Conv_0", "Conv", (8, 4, 4, 1), (8, 4, 4, 2), 20, "kept"),),
        (EdgeFacts(-1, (8, 4, 4, 1)),),
        ((8, 4, 4, 2),),
    ),
    StageFacts(
        (
            PlayerFacts("Conv_1", "Conv", (8, 4, 4, 2), (8, 4, 4, 2), 38, "kept"),
            PlayerFacts("Conv_2", "Conv", (8, 4, 4, 2), (8, 4, 4, 2), 38, "recomputed"),
        ),
        (EdgeFacts(0, (8, 4, 4, 2)),),
        ((8, 4, 4, 2), (8, 4, 4, 2)),
    ),
    StageFacts(
        (PlayerFacts("Dense_0", "Dense", (8, 32), (8, 10), 330, "factored"),),
        (EdgeFacts(1, (8, 32)), EdgeFacts(0, (8, 4, 4, 2))),
        ((8, 10),),
    ),
)
IMAGES = np.arange(24)
START: dict[str, Any] = {
    "time": "2026-01-02T03:04:05+00:00",
    "command": ["gtddp", "train", "--game", "sequential", "implicit"],
    "python": "3.12.0",
    "packages": {"jax": "0.10.0"},
    "devices": ["cpu cpu"],
    "git": {"commit": "0123abcd", "changed": ["notes.txt"]},
    "seconds": {
        "": {"loading": 1.5},
        "adam": {"steps": 3.0, "evaluation": 0.5},
        "gtddp-adam": {"compilation": 2.0, "steps": 4.0, "weights": 0.25, "checkpoints": 0.125},
    },
}


def experiment(**changes: Any) -> Experiment:
    """Adam against both games on the digits."""
    told: dict[str, Any] = {
        "dataset": "digits",
        "network": "residual-conv",
        "optimizer": "adam",
        "games": ("none", "sequential", "implicit"),
        "settings": TrainSettings(0.001),
        "epochs": 4,
        "batch_size": 8,
        "seeds": (0, 1),
    }
    return Experiment(**(told | changes))


def records(experiment: Experiment, watched: bool = True) -> list[EpochRecord]:
    """All epochs of an experiment, with random numbers."""
    rng = np.random.default_rng(0)
    found: list[EpochRecord] = []
    for seed in experiment.seeds:
        for method in experiment.methods():
            sequential = method.name.startswith("gtddp")
            stages = len(STAGES) if sequential else 1
            for epoch in range(1, experiment.epochs + 1):
                weights = rng.lognormal(sigma=0.2 * epoch, size=(stages, len(IMAGES)))
                report = {
                    "sample_weight_min": float(weights.min()),
                    "sample_weight_mean": float(weights.mean()),
                    "sample_weight_max": float(weights.max()),
                    "feedback_ratio": rng.uniform(size=stages).tolist() if sequential else [],
                }
                kept = (
                    weight_digest(weights, IMAGES)
                    if watched and method.has_sample_weights
                    else None
                )
                loss = float(rng.uniform(0.8, 1.2)) / epoch
                accuracy = 1 - 0.1 * loss
                found.append(
                    EpochRecord(
                        method.name,
                        seed,
                        epoch,
                        loss,
                        1.5 * loss,
                        1.2 * loss,
                        accuracy,
                        0.5,
                        report if method.has_sample_weights else {},
                        kept,
                    )
                )
    return found


def write_run(
    folder: Path,
    *,
    watched: bool = True,
    epochs: list[EpochRecord] | None = None,
    starts: list[dict[str, Any]] | None = None,
    status: str = "finished",
    **changes: Any,
) -> Path:
    """Write a whole run folder; ``epochs`` and ``starts`` replace the default content."""
    folder.mkdir(parents=True)
    told = experiment(**changes)
    found = records(told, watched) if epochs is None else epochs
    document = results.results_document(
        told, found, {"adam": 1.0}, status, [START] if starts is None else starts
    )
    results.write_json(folder / "results.json", document)
    results.write_json(folder / "network.json", describe_stages(STAGES))
    (folder / "config.yaml").write_text("dataset: digits\nlearning_rate: 0.001\n")
    if watched:
        rng = np.random.default_rng(1)
        images = [
            {"index": int(i), "label": int(i) % 10, "png": png_base64(rng.uniform(size=(4, 4, 1)))}
            for i in IMAGES
        ]
        results.write_json(folder / "watched.json", {"format": 1, "images": images})
    return folder


def change(path: Path, edit: Any) -> None:
    """Change a JSON file by a function of its content."""
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
