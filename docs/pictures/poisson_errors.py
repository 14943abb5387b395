"""Draws the errors of a physics-informed network against time, from docs/evidence/joint.json."""

import json
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import gtddp_lab
from gtddp_lab.studies.joint.joint_pictures import draw_error_panel
from gtddp_lab.studies.joint.training import Moment

RESULTS = Path(gtddp_lab.__file__).parents[1] / "docs" / "evidence" / "joint.json"
FAMILIES = ("joint game", "SOAP", "L-BFGS", "Adam")

problem = json.loads(RESULTS.read_text(encoding="utf-8"))["problems"]["poisson2"]
courses = {
    family: [
        list(map(Moment, run["step"], run["seconds"], run["error"], run["loss"]))
        for run in problem[family]["runs"]
    ]
    for family in FAMILIES
}
figure = Figure(figsize=(6.0, 4.0), layout="constrained")
FigureCanvasAgg(figure)
axes = figure.subplots()
draw_error_panel(axes, "2-D Poisson equation, three seeds", courses)
axes.set_ylabel("relative error")
axes.legend(fontsize="small")
figure.savefig(Path(__file__).with_suffix(".png"), dpi=100)
