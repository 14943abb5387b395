"""The HTML page: one file that contains style, script, pictures and numbers."""

import base64
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from typing import Any

from gtddp_lab.report import curves, game, origin, sample_weights, timing
from gtddp_lab.report.charts import Chart
from gtddp_lab.report.collect import ReportedRun
from gtddp_lab.report.series import MethodSeries, method_series


def _page_file(name: str) -> str:
    return (files("gtddp_lab.report") / "page" / name).read_text(encoding="utf-8")


def render_report(runs: Sequence[ReportedRun]) -> str:
    """Render the report of runs as HTML.

    Args:
        runs: At least one run; different runs have different short names.

    Returns:
        A self-contained document. Its content security policy forbids loading anything and running
        any script but its own.
    """
    from jinja2 import Environment, FunctionLoader, StrictUndefined
    from markupsafe import Markup

    series = method_series(runs)
    drawn = curves.draw_charts(series)
    weight_views = sample_weights.sample_weight_views(series)
    script = _page_file("script.js")
    # The policy allows exactly this script, by its hash.
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    # Autoescaping keeps text from files from becoming markup.
    environment = Environment(
        loader=FunctionLoader(_page_file),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2").render(
        style=Markup(_page_file("style.css")),  # part of the package, hence trusted
        script=Markup(script),
        script_hash=digest,
        version=version("gtddp-jax"),
        runs=runs,
        series=series,
        summary=curves.summary_rows(series),
        charts=drawn,
        figures=curves.EPOCH_METRICS,
        values=curves.value_tables(series),
        graphs=game.game_graphs(series),
        row=game.ROW_HEIGHT,
        weight_views=weight_views,
        times=timing.method_times(series),
        loading=[(run, timing.loading_seconds(run)) for run in runs],
        part_names=timing.PART_NAMES,
        settings=origin.setting_rows(runs),
        starts=origin.start_facts(runs),
        data=_script_data(
            series, [*drawn, *(each.chart for each in weight_views if each.chart is not None)]
        ),
    )


def _script_data(series: Sequence[MethodSeries], charts: Sequence[Chart]) -> dict[str, Any]:
    """The values that the script shows at the cursor."""
    return {
        "labels": {entry.key: entry.label for entry in series},
        "charts": {chart.key: {"last": chart.last, "curves": chart.data} for chart in charts},
    }
