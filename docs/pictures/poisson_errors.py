"""Draws the errors of a physics-informed network against time, from docs/evidence/joint.json."""

import json
from pathlib import Path

import matplotlib

import gtddp_jax as gt

matplotlib.use("Agg")
import matplotlib.pyplot as plt

RESULTS = Path(gt.__file__).parents[1] / "docs" / "evidence" / "joint.json"
COLOURS = {"joint game": "#0072b2", "SOAP": "#cc79a7", "L-BFGS": "#009e73", "Adam": "#d55e00"}

figure, axes = plt.subplots(figsize=(6.0, 4.0), layout="constrained")
problem = json.loads(RESULTS.read_text(encoding="utf-8"))["problems"]["poisson2"]
for method, colour in COLOURS.items():
    for number, run in enumerate(problem[method]["runs"]):
        label = method if number == 0 else None
        axes.loglog(run["seconds"][1:], run["error"][1:], color=colour, label=label, alpha=0.8)
axes.set(xlabel="seconds", ylabel="relative error", title="2-D Poisson equation, three seeds")
axes.grid(alpha=0.3)
axes.legend(fontsize="small")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
