"""What is tuned against what: the methods with their rates, and the problems."""

from typing import Any

TUNING_SEEDS = 2
"""Seeds on which rates are chosen; others are reported."""

GRADIENT_RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
ADAPTIVE_RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SIGN_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
MATRIX_RATES = (1e-3, 3e-3, 1e-2, 3e-2, 0.1)

TUNED_METHODS: dict[tuple[str, str], tuple[float, ...]] = {
    ("sgd", "base"): GRADIENT_RATES,
    ("nesterov", "base"): GRADIENT_RATES,
    ("nesterov", "implicit"): GRADIENT_RATES,
    ("ema_nesterov", "base"): GRADIENT_RATES,
    ("sgd", "extragradient"): GRADIENT_RATES,
    ("sgd", "sam"): GRADIENT_RATES,
    ("adam", "base"): ADAPTIVE_RATES,
    ("nadam", "base"): ADAPTIVE_RATES,
    ("adam", "momo"): ADAPTIVE_RATES,
    ("adam", "extragradient"): ADAPTIVE_RATES,
    ("adam", "sam"): ADAPTIVE_RATES,
    ("schedule_free", "base"): ADAPTIVE_RATES,
    ("lion", "base"): SIGN_RATES,
    ("muon", "base"): MATRIX_RATES,
    ("soap", "base"): ADAPTIVE_RATES,
    ("ekfac", "base"): MATRIX_RATES,
    ("sgd", "sequential"): GRADIENT_RATES,
    ("adam", "sequential"): ADAPTIVE_RATES,
    ("adam", "sequential-paper"): ADAPTIVE_RATES,
    ("ekfac", "sequential"): MATRIX_RATES,
    ("nadam", "implicit"): ADAPTIVE_RATES,
    ("lion", "implicit"): SIGN_RATES,
    ("muon", "implicit"): MATRIX_RATES,
    ("schedule_free", "implicit"): ADAPTIVE_RATES,
}
"""Base and variant of each method, with its rates, half a decade apart."""

BUDGET = ("schedule_free", "implicit")
"""The method whose time all others get: the game around the best base."""

TARGET = "NAdam"
"""The method whose final training loss after equal epochs is the target of each problem."""

QUICK_METHODS = {("nesterov", "base"): (0.03, 0.1), ("nesterov", "implicit"): (0.03, 0.1)}
"""The methods of the quick version."""

QUICK_BUDGET = ("nesterov", "implicit")
QUICK_TARGET = "Nesterov"

TUNED_PROBLEMS: dict[str, dict[str, Any]] = {
    "digits_mlp": {
        "dataset": "digits",
        "network": "residual-mlp",
        "batch_size": 32,
        "epochs": 10,
    },
    "digits_conv": {
        "dataset": "digits",
        "network": "residual-conv",
        "batch_size": 32,
        "epochs": 10,
    },
    "digits_resnet": {
        "dataset": "digits",
        "network": "narrow-resnet18",
        "batch_size": 32,
        "epochs": 5,
    },
    "mnist1d_mlp": {
        "dataset": "mnist1d",
        "network": "residual-mlp",
        "batch_size": 32,
        "epochs": 10,
    },
    "mnist1d_conv": {
        "dataset": "mnist1d",
        "network": "residual-conv",
        "batch_size": 32,
        "epochs": 10,
    },
    "fashion_mlp": {
        "dataset": "fashion_mnist",
        "network": "residual-mlp",
        "batch_size": 128,
        "epochs": 3,
    },
    "fashion_conv": {
        "dataset": "fashion_mnist",
        "network": "residual-conv-stride",
        "batch_size": 64,
        "epochs": 5,
        "subset": 5000,
    },
    "pydoc_gpt": {
        "dataset": "pydoc_topics",
        "network": "char-gpt",
        "batch_size": 16,
        "epochs": 4,
        "subset": 1536,
    },
}
"""Fields of `Cell` by problem."""

GAMES = tuple(key for key in TUNED_METHODS if key[1].startswith(("sequential", "implicit")))
"""The methods in which the layers act together, by base and variant."""
