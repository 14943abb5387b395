"""The page: one HTML file with style, script, pictures and numbers in it."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from gtddp_jax.training.report import curves, game, origin, timing, weights
from gtddp_jax.training.report.charts import Chart
from gtddp_jax.training.report.collect import Run
from gtddp_jax.training.report.series import series_of


def _file(name: str) -> str:
    return (files("gtddp_jax.training.report") / "page" / name).read_text(encoding="utf-8")


def render(runs: Sequence[Run]) -> str:
    """The report of runs as HTML.

    Args:
        runs: At least one, with different names.

    Returns:
        A document that needs nothing beside itself: a content security policy forbids it to load
        anything, and to run any script but its own.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    series = series_of(runs)
    drawn = curves.charts(series)
    weighed = weights.weighed(series)
    script = _file("script.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FunctionLoader(_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        style=Markup(_file("style.css")),  # the package's own
        script=Markup(script),
        script_hash=digest,
        version=version("gtddp-jax"),
        runs=runs,
        series=series,
        summary=curves.summary(series),
        charts=drawn,
        figures=curves.FIGURES,
        values=curves.values(series),
        graphs=game.graphs(series),
        row=game.ROW,
        weighed=weighed,
        times=timing.times(series),
        loading=[(run, timing.loading(run)) for run in runs],
        part_names=timing.NAMES,
        settings=origin.settings(runs),
        starts=origin.starts(runs),
        data=_data(series, [*drawn, *(each.chart for each in weighed if each.chart is not None)]),
    )


def _data(series: Sequence[Any], charts: Sequence[Chart]) -> dict[str, Any]:
    """What the script shows at the cursor."""
    return {
        "labels": {one.key: one.label for one in series},
        "charts": {chart.key: {"last": chart.last, "curves": chart.data} for chart in charts},
    }
