"""Take the screenshots report.png and report_game.png of a run's report.

python docs/screenshots/report.py RUN     (needs the extra `browser` and a Chromium on the PATH)

The run of the pictures: gtddp train --game sequential implicit --epochs 8 --batch-size 8
    --optimizer adam --rival none --schedule constant --weighting sketch
"""

import io
import shutil
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

from gtddp_lab.report.collect import read_runs
from gtddp_lab.report.page import render_report

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
WIDTH = 1120
COLOURS = 96


def save_screenshot(name: str, png: bytes) -> None:
    """Save a screenshot with few colours, which takes a tenth of the size."""
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(Path(__file__).with_name(name), optimize=True)


def main(run: Path) -> None:
    """Take both screenshots."""
    page_file = Path(tempfile.mkdtemp()) / "report.html"
    page_file.write_text(render_report(read_runs([run])), encoding="utf-8")
    browser = next((path for name in BROWSERS if (path := shutil.which(name))), None)
    if browser is None:
        sys.exit(f"none of {', '.join(BROWSERS)} is on the PATH")
    with sync_playwright() as playwright:
        page = playwright.chromium.launch(executable_path=browser).new_page(
            viewport={"width": WIDTH, "height": 900}, color_scheme="light"
        )
        page.goto(page_file.as_uri())
        first = page.locator("section").first.bounding_box()
        row = page.locator(".chart").nth(1).bounding_box()
        assert first is not None and row is not None
        top = {"x": 0, "y": 0, "width": WIDTH, "height": row["y"] + row["height"] + 10}
        save_screenshot("report.png", page.screenshot(full_page=True, clip=top))
        page.evaluate("document.querySelector('.tools').style.position = 'static'")
        game = page.locator("#game").bounding_box()
        images = page.locator(".weighed").first.bounding_box()
        assert game is not None and images is not None
        bottom = images["y"] + images["height"]
        rest = {"x": 0, "y": game["y"], "width": WIDTH, "height": bottom - game["y"]}
        save_screenshot("report_game.png", page.screenshot(full_page=True, clip=rest))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
