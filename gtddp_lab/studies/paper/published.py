"""The paper's Table 2: means over six seeds, base → GT-DDP."""

PAPER_LOSS, PAPER_ACCURACY = "training loss", "validation accuracy, %"

TABLE_2: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "digits": {
        "sgd": {PAPER_LOSS: (0.0053, 0.0050), PAPER_ACCURACY: (96.09, 96.10)},
        "rmsprop": {PAPER_LOSS: (0.0247, 0.0124), PAPER_ACCURACY: (95.61, 95.92)},
        "adam": {PAPER_LOSS: (0.0182, 0.0081), PAPER_ACCURACY: (95.81, 95.84)},
        "ekfac": {PAPER_LOSS: (0.0514, 0.0514), PAPER_ACCURACY: (95.31, 95.55)},
    },
    "mnist": {
        "sgd": {PAPER_LOSS: (0.0250, 0.0240), PAPER_ACCURACY: (98.59, 98.62)},
        "rmsprop": {PAPER_LOSS: (0.0284, 0.0282), PAPER_ACCURACY: (98.52, 98.53)},
        "adam": {PAPER_LOSS: (0.0330, 0.0312), PAPER_ACCURACY: (98.51, 98.51)},
        "ekfac": {PAPER_LOSS: (0.0290, 0.0291), PAPER_ACCURACY: (98.56, 98.56)},
    },
    "svhn_cropped": {
        "sgd": {PAPER_LOSS: (0.2755, 0.2692), PAPER_ACCURACY: (88.58, 89.90)},
        "rmsprop": {PAPER_LOSS: (0.2670, 0.2637), PAPER_ACCURACY: (88.96, 89.02)},
        "adam": {PAPER_LOSS: (0.2544, 0.2517), PAPER_ACCURACY: (89.20, 89.22)},
        "ekfac": {PAPER_LOSS: (0.2049, 0.2047), PAPER_ACCURACY: (88.75, 89.91)},
    },
    "cifar10": {
        "sgd": {PAPER_LOSS: (0.0296, 0.0284), PAPER_ACCURACY: (74.69, 74.69)},
        "rmsprop": {PAPER_LOSS: (0.0107, 0.0069), PAPER_ACCURACY: (70.88, 70.97)},
        "adam": {PAPER_LOSS: (0.0127, 0.0096), PAPER_ACCURACY: (72.51, 72.68)},
        "ekfac": {PAPER_LOSS: (0.0922, 0.0907), PAPER_ACCURACY: (74.33, 74.18)},
    },
    "cifar100": {
        "sgd": {PAPER_LOSS: (0.0075, 0.0075), PAPER_ACCURACY: (71.78, 72.06)},
        "rmsprop": {PAPER_LOSS: (0.0058, 0.0058), PAPER_ACCURACY: (71.65, 71.91)},
        "adam": {PAPER_LOSS: (0.0055, 0.0054), PAPER_ACCURACY: (71.96, 72.19)},
        "ekfac": {PAPER_LOSS: (0.0120, 0.0125), PAPER_ACCURACY: (71.95, 72.24)},
    },
}
"""Results by data set and base optimizer.

The paper does not use Fashion-MNIST and does not state learning rates.
"""
