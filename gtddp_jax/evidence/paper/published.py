"""What the paper's Table 2 says: six seeds, base → GT-DDP."""

LOSS, ACCURACY = "training loss", "validation accuracy, %"

TABLE_2: dict[str, dict[str, dict[str, tuple[float, float]]]] = {
    "digits": {
        "sgd": {LOSS: (0.0053, 0.0050), ACCURACY: (96.09, 96.10)},
        "rmsprop": {LOSS: (0.0247, 0.0124), ACCURACY: (95.61, 95.92)},
        "adam": {LOSS: (0.0182, 0.0081), ACCURACY: (95.81, 95.84)},
        "ekfac": {LOSS: (0.0514, 0.0514), ACCURACY: (95.31, 95.55)},
    },
    "mnist": {
        "sgd": {LOSS: (0.0250, 0.0240), ACCURACY: (98.59, 98.62)},
        "rmsprop": {LOSS: (0.0284, 0.0282), ACCURACY: (98.52, 98.53)},
        "adam": {LOSS: (0.0330, 0.0312), ACCURACY: (98.51, 98.51)},
        "ekfac": {LOSS: (0.0290, 0.0291), ACCURACY: (98.56, 98.56)},
    },
    "svhn_cropped": {
        "sgd": {LOSS: (0.2755, 0.2692), ACCURACY: (88.58, 89.90)},
        "rmsprop": {LOSS: (0.2670, 0.2637), ACCURACY: (88.96, 89.02)},
        "adam": {LOSS: (0.2544, 0.2517), ACCURACY: (89.20, 89.22)},
        "ekfac": {LOSS: (0.2049, 0.2047), ACCURACY: (88.75, 89.91)},
    },
    "cifar10": {
        "sgd": {LOSS: (0.0296, 0.0284), ACCURACY: (74.69, 74.69)},
        "rmsprop": {LOSS: (0.0107, 0.0069), ACCURACY: (70.88, 70.97)},
        "adam": {LOSS: (0.0127, 0.0096), ACCURACY: (72.51, 72.68)},
        "ekfac": {LOSS: (0.0922, 0.0907), ACCURACY: (74.33, 74.18)},
    },
    "cifar100": {
        "sgd": {LOSS: (0.0075, 0.0075), ACCURACY: (71.78, 72.06)},
        "rmsprop": {LOSS: (0.0058, 0.0058), ACCURACY: (71.65, 71.91)},
        "adam": {LOSS: (0.0055, 0.0054), ACCURACY: (71.96, 72.19)},
        "ekfac": {LOSS: (0.0120, 0.0125), ACCURACY: (71.95, 72.24)},
    },
}
"""By data set and base optimizer. The paper has no Fashion-MNIST, and names no learning rates."""
