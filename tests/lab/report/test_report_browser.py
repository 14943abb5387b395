"""The report's page in a real browser: mouse, keyboard, dark mode, a phone's width.

Needs playwright (``pip install -e ".[browser]"``) and a Chromium: the one that GTDDP_BROWSER names,
else one of `NAMES` on the PATH. Without them the tests are skipped and say so; a GTDDP_BROWSER that
is not there fails.
"""

import io
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from gtddp_lab.report.collect import read_runs
from gtddp_lab.report.page import render_report
from gtddp_lab.report.series import SERIES_COLOURS
from tests.lab.report.report_runs import write_run

pytestmark = pytest.mark.slow

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
WIDTHS = {"desk": 1280, "phone": 360}
OVERFLOW = """() => [...document.querySelectorAll("body *")].filter((element) => {
  const box = element.getBoundingClientRect();
  return box.width > 0 && box.right > innerWidth + 1 && !element.closest(".scroll, pre");
}).map((element) => element.outerHTML.slice(0, 80))"""


def browser_path() -> str:
    named = os.environ.get("GTDDP_BROWSER")
    if named is not None:
        if shutil.which(named) is None:
            pytest.fail(f"GTDDP_BROWSER={named} is no program.")
        return named
    found = [path for name in NAMES if (path := shutil.which(name)) is not None]
    if not found:
        pytest.skip(f"no browser: set GTDDP_BROWSER or install one of {', '.join(NAMES)}")
    return found[0]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    reason = 'playwright is not installed: pip install -e ".[browser]"'
    playwright = pytest.importorskip("playwright.sync_api", reason=reason)
    path = browser_path()
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=path)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def page_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    runs = read_runs([write_run(folder / "one"), write_run(folder / "two", seeds=(0,))])
    (folder / "report.html").write_text(render_report(runs), encoding="utf-8")
    return folder / "report.html"


Open = Callable[..., Any]


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Open]:
    """Open the page; afterwards check that the browser logged no error and loaded nothing."""
    complaints: list[str] = []
    requests: list[str] = []
    contexts: list[Any] = []

    def open_page(width: int = WIDTHS["desk"], scheme: str = "light", **options: Any) -> Any:
        context = browser.new_context(
            viewport={"width": width, "height": 800}, color_scheme=scheme, **options
        )
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(page_file.as_uri())
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert all(url == page_file.as_uri() or url.startswith("data:image/png") for url in requests)


def pixels(page: Any) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(page.screenshot(full_page=True))).convert("RGB"))


def has(image: np.ndarray, colour: tuple[int, ...]) -> int:
    """Number of pixels of an image that are close to a colour."""
    return int((np.abs(image.astype(int) - colour).max(axis=-1) < 12).sum())


def colour(page: Any, name: str) -> tuple[int, ...]:
    """The value of a colour variable of the style sheet."""
    script = """(name) => {
      const probe = document.body.appendChild(document.createElement("i"));
      probe.style.color = `var(${name})`;
      const canvas = document.createElement("canvas").getContext("2d");
      canvas.fillStyle = getComputedStyle(probe).color;
      canvas.fillRect(0, 0, 1, 1);
      probe.remove();
      return [...canvas.getImageData(0, 0, 1, 1).data].slice(0, 3);
    }"""
    return tuple(page.evaluate(script, name))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_the_page_is_drawn_and_fits(opened: Open, width: int, scheme: str) -> None:
    page = opened(width, scheme)
    image = pixels(page)
    paper = colour(page, "--paper")
    assert (np.mean(paper) > 128) == (scheme == "light")
    assert 0.5 < has(image, paper) / image[..., 0].size < 0.98
    for name in ("--ink", "--base", "--c0", "--c1"):
        assert has(image, colour(page, name)) > 200, name
    assert page.evaluate("document.documentElement.scrollWidth") == width
    assert page.evaluate(OVERFLOW) == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read_on_its_ground(opened: Open, scheme: str) -> None:
    """Contrast of at least 4.5 (WCAG 2.2, success criterion 1.4.3)."""
    page = opened(scheme=scheme)
    for name in (
        "--ink",
        "--soft",
        "--base",
        "--warn",
        *(f"--c{i}" for i in range(SERIES_COLOURS)),
    ):
        low, high = sorted(luminance(colour(page, each)) for each in (name, "--paper"))
        assert (high + 0.05) / (low + 0.05) >= 4.5, name


def luminance(rgb: tuple[int, ...]) -> float:
    """Relative luminance as WCAG 2.2 defines it."""
    parts = np.array(rgb) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])


def test_the_mouse_reads_values(opened: Open) -> None:
    page = opened()
    chart = page.locator('[data-chart="train-loss"]')
    plot = chart.locator(".plot:visible")
    plot.scroll_into_view_if_needed()
    box = plot.bounding_box()
    page.mouse.move(box["x"] + 0.99 * box["width"], box["y"] + 30)
    shown = page.evaluate("""() => JSON.parse(document.getElementById("data").textContent)""")
    value = shown["charts"]["train-loss"]["curves"]["s0"]["middle"][3]
    tip = chart.locator(".tip:visible").inner_text()
    assert tip.startswith("epoch 4")
    assert f"Adam, A {float(f'{value:.5g}')}" in tip
    page.mouse.move(5, 5)
    assert chart.locator(".tip:visible").count() == 0


def test_the_keyboard_reads_values(opened: Open) -> None:
    page = opened()
    plot = page.locator(".plot:visible").first
    plot.focus()
    assert plot.evaluate("(plot) => getComputedStyle(plot).outlineStyle") == "solid"
    for key, epoch in (("ArrowRight", 1), ("ArrowRight", 2), ("End", 4), ("ArrowRight", 4)):
        page.keyboard.press(key)
        assert plot.locator(".tip").inner_text().startswith(f"epoch {epoch}")
    page.keyboard.press("Home")
    assert plot.locator(".tip").inner_text().startswith("epoch 1")
    page.keyboard.press("Escape")
    assert page.locator(".tip:visible").count() == 0
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "plot"


@pytest.mark.parametrize("way", ["hover", "focus"])
def test_a_stage_says_what_it_is(opened: Open, way: str) -> None:
    page = opened()
    node = page.locator("button.node").nth(1)
    getattr(node, way)()
    facts = page.locator(".facts:visible")
    assert facts.count() == 1
    text = facts.inner_text()
    for part in ("Conv_2", "4×4×2 → 4×4×2", "recomputed", "of stage 0", "feedback, GT-DDP-Adam"):
        assert part in text
    page.keyboard.press("Escape")
    assert page.locator(".facts:visible").count() == 0


def test_arrows_go_from_stage_to_stage(opened: Open) -> None:
    page = opened()
    nodes = page.locator(".stages").first.locator("button.node")
    nodes.first.focus()
    for key, number in (("ArrowDown", 1), ("End", 2), ("ArrowUp", 1)):
        page.keyboard.press(key)
        assert nodes.nth(number).evaluate("(node) => node === document.activeElement")
    assert page.locator(".facts:visible").count() == 1
    stops = [node.get_attribute("tabindex") for node in nodes.all()]
    assert stops == ["-1", "0", "-1"]


def test_a_method_is_hidden_and_shown(opened: Open) -> None:
    page = opened()
    button = page.locator(".toggle").nth(1)
    assert button.get_attribute("aria-pressed") == "true"
    before = page.locator('[data-series="s1"]:visible').count()
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-pressed") == "false"
    assert before > 10
    assert page.locator('[data-series="s1"]:visible').count() == 0
    page.locator(".plot:visible").first.focus()
    page.keyboard.press("Home")
    assert "GT-DDP-Adam, A" not in page.locator(".tip:visible").inner_text()
    button.click()
    assert page.locator('[data-series="s1"]:visible').count() == before


def test_the_scale_changes(opened: Open) -> None:
    page = opened()
    scales = page.locator('[data-chart="train-loss"] .scale:visible')
    assert scales.get_attribute("data-scale") == "log"
    page.locator("#scale").click()
    assert scales.get_attribute("data-scale") == "linear"
    assert page.locator("#scale").get_attribute("aria-pressed") == "false"
    page.locator("#scale").click()
    assert scales.get_attribute("data-scale") == "log"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark_can_be_chosen(opened: Open, scheme: str) -> None:
    page = opened(scheme=scheme)
    first = colour(page, "--paper")
    page.locator("#theme").click()
    second = colour(page, "--paper")
    assert (np.mean(first) > 128) == (scheme == "light")
    assert (np.mean(second) > 128) == (scheme == "dark")


def test_everything_that_can_be_used_has_a_name(opened: Open) -> None:
    page = opened()
    nameless = page.evaluate("""() => [...document.querySelectorAll("button, [tabindex='0'], img")]
      .filter((e) => !(e.getAttribute("aria-label") || e.alt || e.textContent.trim()))
      .map((e) => e.outerHTML.slice(0, 80))""")
    assert nameless == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((element) => element.id)")
    assert len(set(ids)) == len(ids)
    for target in page.evaluate(
        "[...document.querySelectorAll('[aria-describedby], [aria-labelledby]')].map((e) => "
        "e.getAttribute('aria-describedby') || e.getAttribute('aria-labelledby'))"
    ):
        assert target in ids


def test_it_can_be_read_without_a_script(opened: Open) -> None:
    page = opened(java_script_enabled=False)
    image = pixels(page)
    assert has(image, (0x00, 0x72, 0xB2)) > 500
    assert page.locator(".switches").is_hidden()
    assert "Without JavaScript" in page.locator("noscript").inner_text()
    page.locator("button.node").first.focus()
    assert page.locator("details").first.locator("summary").is_visible()
