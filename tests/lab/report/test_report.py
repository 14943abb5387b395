"""The report: its content, missing parts, refused files."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gtddp_lab.cli.main import main
from gtddp_lab.report import curves, game, sample_weights, timing
from gtddp_lab.report.charts import draw_chart
from gtddp_lab.report.collect import ReportedRun, read_run, read_runs
from gtddp_lab.report.page import render_report
from gtddp_lab.report.series import Curve, method_series
from gtddp_lab.report.sources import ReportError
from tests.lab.report.report_runs import STAGES, change, experiment, records, write_run

EVIL = "<script>alert(1)</script>"


class Page(HTMLParser):
    """Content of a page: tags with attributes, text, and the JSON for its script."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.within: list[str] = []
        self.feed(html)
        found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.S)
        assert found is not None
        self.data = json.loads(found[1])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.within.append(tag)

    def handle_data(self, data: str) -> None:
        if self.within and self.within[-1] not in ("style", "script"):
            self.texts.append(data)

    def handle_endtag(self, tag: str) -> None:
        if tag in self.within:
            while self.within.pop() != tag:
                pass

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def run(folder: Path) -> ReportedRun:
    return read_run(folder)


@pytest.fixture(scope="module")
def page(run: ReportedRun) -> Page:
    return Page(render_report([run]))


def test_a_whole_run_lacks_nothing(run: ReportedRun) -> None:
    assert run.missing == ()


def test_charts_hold_the_values_of_the_results(folder: Path, page: Page) -> None:
    content = json.loads((folder / "results.json").read_text())
    keys = {label: key for key, label in page.data["labels"].items()}
    assert list(keys) == ["Adam", "GT-DDP-Adam", "Implicit-Adam"]
    for key, field, factor in (
        ("train-loss", "train_loss", 1),
        ("average-loss", "average_loss", 1),
        ("validation-loss", "validation_loss", 1),
        ("validation-accuracy", "validation_accuracy", 100),
    ):
        for label, method in (("Adam", "adam"), ("GT-DDP-Adam", "gtddp-adam")):
            told = [
                [
                    factor * epoch[field]
                    for epoch in content["epochs"]
                    if (epoch["method"], epoch["seed"]) == (method, seed)
                ]
                for seed in (0, 1)
            ]
            shown = page.data["charts"][key]["curves"][keys[label]]
            np.testing.assert_allclose(shown["middle"], np.mean(told, axis=0), rtol=1e-12)
            ((low, high),) = shown["bands"]
            np.testing.assert_array_equal(low, np.min(told, axis=0))
            np.testing.assert_array_equal(high, np.max(told, axis=0))


def test_tables_hold_the_values_of_the_results(run: ReportedRun, page: Page) -> None:
    for method in ("adam", "gtddp-adam", "implicit-adam"):
        last = [r for r in run.records_of(method) if r.epoch == 4]
        assert f"{np.mean([r.train_loss for r in last]):.4f}" in page.text
        assert f"{np.mean([r.train_loss for r in last]):.6g}" in page.text
        assert f"{100 * np.mean([r.validation_accuracy for r in last]):.2f} ±" in page.text
    gap = np.log([r.train_loss for r in run.records_of("gtddp-adam") if r.epoch == 4]) - np.log(
        [r.train_loss for r in run.records_of("adam") if r.epoch == 4]
    )
    (row,) = [
        r for r in curves.summary_rows(method_series([run])) if r.series.method.name == "gtddp-adam"
    ]
    assert row.loss_gap.startswith(f"{gap.mean():+.2f} ± ")


def test_the_page_loads_nothing_and_runs_its_own_script_alone(run: ReportedRun, page: Page) -> None:
    html = render_report([run])
    assert not re.search(r"(?:src|href|action)=\"(?!#|data:image/png;base64,)", html)
    assert "url(" not in html
    assert "@import" not in html
    (policy,) = [a["content"] for a in page.all("meta") if "http-equiv" in a]
    assert policy is not None
    assert "default-src 'none'" in policy
    assert re.search(r"script-src 'sha256-[\w+/]{43}='", policy)
    assert not [a for _, a in page.tags for name in a if name.startswith("on")]


def test_the_game_is_drawn(run: ReportedRun, page: Page) -> None:
    (graph,) = game.game_graphs(method_series([run]))
    assert [node.players for node in graph.nodes] == [
        [],
        ["Conv_0"],
        ["Conv_1", "Conv_2"],
        ["Dense_0"],
    ]
    assert [edge.shortcut for edge in graph.edges] == [False, False, False, True]
    ratios = [r.report["feedback_ratio"] for r in run.records_of("gtddp-adam") if r.epoch == 4]
    shown = [node.strengths[0].value for node in graph.nodes[1:]]
    np.testing.assert_allclose(shown, np.mean(ratios, axis=0))
    assert max(node.strengths[0].width for node in graph.nodes[1:]) == 100
    for text in (
        "Conv, 4×4×2 → 4×4×2, 38 parameters",
        "recomputed: per-sample gradients are computed again",
        "4×4×2 of stage 0 (shortcut)",
        "3 stages, 4 players, 426 parameters; 1 state bypasses a stage",
    ):
        assert text in page.text


def test_weights_and_images_are_shown(run: ReportedRun, page: Page) -> None:
    found = sample_weights.sample_weight_views(method_series([run]))
    assert [one.series.label for one in found] == ["GT-DDP-Adam", "Implicit-Adam"]
    assert [moment.epoch for moment in found[0].moments] == [1, 3, 4]
    last = [r.sample_weights for r in run.records_of("gtddp-adam") if r.epoch == 4]
    medians = [kept["quantiles"][20] for kept in last if kept is not None]
    shown = page.data["charts"][f"weights-{found[0].series.key}"]["curves"]
    np.testing.assert_allclose(shown[found[0].series.key]["middle"][-1], np.mean(medians))
    (first, weight), *_ = last[0]["highest"] if last[0] is not None else []
    assert (found[0].moments[-1].highest[0].number, found[0].moments[-1].highest[0].weight) == (
        first,
        f"{weight:.3g}",
    )
    sources = {a["src"]: a["alt"] for a in page.all("img")}
    assert f"training image {first}, class {first % 10}" in sources.values()
    assert all(str(source).startswith("data:image/png;base64,iVBOR") for source in sources)


def test_times_add_up(run: ReportedRun, page: Page) -> None:
    adam, feedback, implicit = timing.method_times(method_series([run]))
    assert {share.key: share.seconds for share in feedback.shares} == {
        "compilation": 2.0,
        "steps": 4.0,
        "weights": 0.25,
        "checkpoints": 0.125,
    }
    assert feedback.total == 6.375
    # 8 epochs of half a second are more than the start recorded, or it recorded none of them.
    assert {s.key: s.seconds for s in adam.shares} == {
        "compilation": 1.0,
        "steps": 4.0,
        "evaluation": 0.5,
    }
    assert {s.key: s.seconds for s in implicit.shares} == {"steps": 4.0}
    assert "loading data, building: 1.5 s" in page.text


def test_configuration_and_provenance_are_there(page: Page) -> None:
    for text in (
        "learning rate 0.001",
        "games Adam, GT-DDP-Adam, Implicit-Adam",
        "learning_rate: 0.001",
        "gtddp train --game sequential implicit",
        "commit 0123abcd, changed: notes.txt",
        "jax 0.10.0",
    ):
        assert text in page.text


def test_several_runs_stand_in_the_same_charts(folder: Path, tmp_path: Path) -> None:
    other = write_run(tmp_path / "two", games=("none", "sequential"), settings=_slow())
    runs = read_runs([folder, other])
    page = Page(render_report(runs))
    labels = list(page.data["labels"].values())
    assert labels == [
        "Adam, A",
        "GT-DDP-Adam, A",
        "Implicit-Adam, A",
        "Adam, B",
        "GT-DDP-Adam, B",
    ]
    assert len(page.data["charts"]["train-loss"]["curves"]) == 5
    assert len(game.game_graphs(method_series(runs))) == 1  # the same network
    assert [a for a in page.all("tr") if a.get("class") == "differs"]


def _slow() -> Any:
    return replace(experiment().settings, learning_rate=0.0001)


def test_a_run_of_an_older_version_says_what_is_missing(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "old", watched=False, starts=[{"time": "then"}])
    (folder / "network.json").unlink()
    change(folder / "results.json", lambda c: [e.pop("sample_weights") for e in c["epochs"]])
    run = read_run(folder)
    page = Page(render_report([run]))
    for text in (
        "The game of the network cannot be shown: network.json is missing.",
        "Sample weights of single images are not recorded for 16 of 16 epochs",
        "Times of evaluation, checkpoints and other work are not recorded for every start",
        "No run recorded its network.",
        "Line: mean sample weight of the epoch's batches. Band: smallest to largest.",
    ):
        assert text in page.text
    found, _ = sample_weights.sample_weight_views(method_series([run]))
    assert found.chart is not None
    lows = [r.report["sample_weight_min"] for r in run.records_of("gtddp-adam") if r.epoch == 1]
    assert found.chart.data[found.series.key]["bands"][0][0][0] == np.mean(lows)


def test_an_interrupted_run_is_reported(tmp_path: Path) -> None:
    told = records(experiment())[:6]  # base whole, game half, of the first seed
    run = read_run(write_run(tmp_path / "cut", epochs=told, status="interrupted"))
    page = Page(render_report([run]))
    assert "The run is interrupted: it has 6 of 24 epochs." in page.text
    assert list(page.data["labels"].values()) == ["Adam", "GT-DDP-Adam"]


def test_a_run_without_an_epoch_is_reported(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "none", epochs=[], status="running"))
    assert "No epoch has finished yet." in Page(render_report([run])).text


def test_numbers_that_are_not_finite_leave_a_gap(tmp_path: Path) -> None:
    told = records(experiment(seeds=(0,)))
    told[1] = replace(told[1], train_loss=float("nan"), validation_loss=float("inf"))
    told[5] = replace(told[5], validation_loss=float("inf"), validation_accuracy=-1e308)
    told[2] = replace(told[2], validation_accuracy=1e308)
    run = read_run(write_run(tmp_path / "nan", epochs=told, seeds=(0,)))
    page = Page(render_report([run]))
    assert page.data["charts"]["train-loss"]["curves"]["s0"]["middle"][1] is None
    (drawn,) = [c for c in curves.draw_charts(method_series([run])) if c.key == "train-loss"]
    assert [scale.name for scale in drawn.scales] == ["log", "linear"]
    assert drawn.scales[0].lines[0].path.count("M") == 2
    assert not re.search(r" d=\"[^\"]*(nan|inf)", render_report([run]))


def test_a_chart_of_one_epoch_is_a_point(run: ReportedRun) -> None:
    one, *_ = method_series([run])
    drawn = draw_chart("k", "t", "n", [(one, Curve([2.0], []))])
    assert drawn is not None
    assert drawn.scales[0].lines[0].dots == "M500.0 500.0h0"
    assert draw_chart("k", "t", "n", [(one, Curve([float("nan")], []))]) is None


def test_places_follow_values(run: ReportedRun) -> None:
    """On both scales: values read back from the path by means of the ticks."""
    one, *_ = method_series([run])
    values = [0.01, 0.1, 1.0, 10.0]
    drawn = draw_chart("k", "t", "n", [(one, Curve(values, []))], log=True)
    assert drawn is not None
    for scale, move in zip(drawn.scales, (np.log10, np.asarray), strict=True):
        heights = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", scale.lines[0].path)]
        ticks = np.array([(tick.position, float(tick.label)) for tick in scale.ticks])
        slope, start = np.polyfit(move(ticks[:, 1]), ticks[:, 0], 1)
        np.testing.assert_allclose(heights, start + slope * move(np.array(values)), atol=0.2)


def test_names_stay_text(tmp_path: Path) -> None:
    """A folder, a player, a package and a label whose name is a script."""
    start = {
        "time": EVIL,
        "command": [EVIL],
        "packages": {EVIL: EVIL},
        "source": {"commit": EVIL, "digest": EVIL},
    }
    folder = write_run(tmp_path / EVIL.replace("/", "|"), starts=[start], status="finished")

    def rename(content: Any) -> None:
        content["stages"][0]["players"][0] |= {"name": EVIL, "layer": EVIL, "rule": EVIL}

    change(folder / "network.json", rename)
    change(folder / "results.json", lambda c: c.update(status=f'"{EVIL}'))
    (folder / "config.yaml").write_text(f"a: {EVIL}\n</pre>{EVIL}")
    (run,) = read_runs([folder])
    html = render_report([replace(run, short=short) for short in (EVIL, f"{EVIL}2")])
    page = Page(html)
    assert len(re.findall(r"<script", html)) == 2  # the data and the page's own
    assert page.text.count("<script>alert(1)") >= 10
    assert page.data["labels"]["s0"].startswith("Adam, <script>alert(1)<")


def test_control_characters_reach_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_run(tmp_path / "a\x1b[31m[bold]b")
    change(folder / "results.json", lambda c: c.update(status="\x1b]0;title\x07"))
    assert main(["report", str(folder)]) == 0
    told = capsys.readouterr().out
    assert "\x1b" not in told
    assert "[31m[bold]b" in told


PARTS: list[tuple[str, Callable[[Any], Any], str]] = [
    ("network.json", lambda c: c.update(format=9), "network.json's format must be 1"),
    (
        "network.json",
        lambda c: c.update(stages=[]),
        "stages must be a list with at least one entry",
    ),
    (
        "network.json",
        lambda c: c["stages"][0]["reads"][0].update(stage=2),
        "the stage that is read must be an earlier one",
    ),
    (
        "network.json",
        lambda c: c["stages"][0]["players"][0].update(name="x" * 2000),
        "a player's name must be a short text",
    ),
    ("watched.json", lambda c: c["images"][0].update(png="AAAA"), "png must be a PNG file"),
    ("watched.json", lambda c: c["images"][0].update(png='"><b'), "png must be a small PNG file"),
    ("watched.json", lambda c: c["images"][0].update(index=-1), "must be an integer of at least 0"),
]


@pytest.mark.parametrize(("name", "edit", "message"), PARTS, ids=[part[2] for part in PARTS])
def test_a_part_that_is_broken_is_named_and_left_out(
    tmp_path: Path, name: str, edit: Callable[[Any], Any], message: str
) -> None:
    folder = write_run(tmp_path / "broken")
    change(folder / name, edit)
    (sentence,) = read_run(folder).missing
    assert message in sentence


RESULTS: list[tuple[Callable[[Any], Any], str]] = [
    (lambda c: c.update(format=4), "has format 4; this version reads format 3"),
    (lambda c: c["epochs"][0].update(train_loss="low"), "train_loss is str, float is needed"),
    (lambda c: c["epochs"][0].update(train_loss=10**400), "train_loss must be a number"),
    (lambda c: c["epochs"][0].update(method="sgd"), "an epoch's method must be one of adam"),
    (lambda c: c["epochs"][0].update(seed=7), "an epoch's seed must be one of the experiment's"),
    (lambda c: c["epochs"][1].update(epoch=1), "the epochs of a seed must be 1, 2, 3"),
    (
        lambda c: c["epochs"][0].update(report=[1]),
        "report is list, dict[str, float | list[float]] is needed",
    ),
    (
        lambda c: c["epochs"][4]["report"].update(feedback_ratio=["x"]),
        "report is dict, dict[str, float | list[float]] is needed",
    ),
    (
        lambda c: c["epochs"][4]["sample_weights"].update(quantiles=[1, 2]),
        "sample_weights.quantiles must be 41 numbers or none",
    ),
    (lambda c: c.update(starts="never"), "starts is str, list"),
    (lambda c: c["experiment"].update(network="x"), "Invalid network: 'x'"),
]


@pytest.mark.parametrize(("edit", "message"), RESULTS, ids=[part[1] for part in RESULTS])
def test_results_that_are_broken_are_refused(
    tmp_path: Path, edit: Callable[[Any], Any], message: str
) -> None:
    folder = write_run(tmp_path / "broken")
    change(folder / "results.json", edit)
    with pytest.raises(ReportError, match=re.escape(message)):
        read_run(folder)


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 100_000, "results.json is not JSON"), ("[]", "is not a results file")],
)
def test_other_files_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(ReportError, match=message):
        read_run(tmp_path)


def test_files_that_are_too_large_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gtddp_lab.report.collect.RESULTS_SIZE_LIMIT", 1000)
    with pytest.raises(ReportError, match=r"results\.json is larger than 0 MiB"):
        read_run(folder)


def test_links_are_not_followed(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "linked")
    (tmp_path / "secret").write_text("a secret")
    (folder / "config.yaml").unlink()
    (folder / "config.yaml").symlink_to(tmp_path / "secret")
    run = read_run(folder)
    assert run.config is None
    assert "config.yaml is not an ordinary file; links are not followed." in run.missing[0]
    assert "a secret" not in render_report([run])
    (folder / "config.yaml").unlink()
    os.mkfifo(folder / "config.yaml")
    assert read_run(folder).config is None  # and does not wait for a writer


def test_a_summary_is_printed(
    folder: Path, run: ReportedRun, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", str(folder)]) == 0
    told = capsys.readouterr().out
    last = [r.train_loss for r in run.records_of("gtddp-adam") if r.epoch == 4]
    assert f"{np.mean(last):.4f}" in told
    assert "one: digits, batch size 8, learning rate 0.001, weighting sketch, finished" in " ".join(
        told.split()
    )
    assert re.search(r"GT-DDP-Adam: feedback by stage [▁▂▃▄▅▆▇█]{3}, strongest in stage \d", told)
    assert "GT-DDP-Adam: 95 % of the weights" in told
    assert "steps 4.0 s" in told
    assert not (folder / "report.html").exists()


def test_the_page_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    folder = write_run(tmp_path / "run")
    assert main(["report", str(folder), "--html"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"{folder}/report.html"
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    page = tmp_path / "page.html"
    assert main(["report", str(folder), "--html", str(page)]) == 0
    assert page.read_text() == (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "report needs the folder of at least one run"),
        (["{empty}"], 2, "has no results.json: it is not the folder of a run"),
        (["{run}", "{run}"], 2, "a run is named twice"),
        (["{run}", "--html", "a", "b"], 2, "--html takes one file, got 2"),
        (["{run}", "--html", "{empty}/no/page.html"], 1, "No such file or directory"),
    ],
)
def test_impossible_requests_are_refused_in_one_line(
    folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    given = [argument.format(run=folder, empty=tmp_path) for argument in arguments]
    assert main(["report", *given]) == code
    complaint = capsys.readouterr().err
    assert complaint.count("\n") == 1
    assert message in complaint


def test_stages_are_read_as_they_were_written(run: ReportedRun) -> None:
    assert run.stages == STAGES
