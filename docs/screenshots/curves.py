"""Draw curves.png from a run, with few colours, which takes a third of the size.

python docs/screenshots/curves.py RUN

The run of the picture: gtddp train
"""

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image

from gtddp_lab.training.plots import curves_of, draw_curves
from gtddp_lab.training.results import read_results

COLOURS = 96


def main(run: Path) -> None:
    """Draw the picture."""
    experiment, records, _ = read_results(run / "results.json")
    with tempfile.TemporaryDirectory() as folder:
        drawn = Path(folder) / "curves.png"
        draw_curves(drawn, experiment.title, curves_of(experiment, records))
        png = drawn.read_bytes()
    image = Image.open(io.BytesIO(png)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    image.save(Path(__file__).with_name("curves.png"), optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
