"""Every line of every console block is a command that exists, as it is written.

All `gtddp` lines are read by the command's own parser. A slow test runs them, page by page, on data
sets of a few images and for one epoch. What builds and checks the project is run by `.ci/run`.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import matplotlib
import pytest

from gtddp_cli.parse import parse
from tests.conftest import child_environment
from tests.training import originals

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ("--network", "residual-conv-stride", "--epochs", "1", "--seeds", "1")
TOOLS = ("ruff", "pyright", "python", "sphinx-build")
BY_HAND = (
    "python -m pytest -m slow",
    "python -m tests.properties --cases 10000 --seed 0 --shard 1/8",
    "python -m tests.docs.errors --write",
    "python -m tests.reproducibility.golden --write",
    "pyright --verifytypes gtddp_jax --ignoreexternal",
)
"""What `.ci/run` leaves out."""


def commands(page: Path) -> list[str]:
    """The commands of a page; in blocks with prompts, what stands behind them."""
    found = []
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.M | re.S):
        lines = block.splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        for line in typed:
            found += re.sub(r"\s+#.*", "", line).split(" && ")
    return found


def ours(page: Path) -> list[list[str]]:
    split = [shlex.split(command) for command in commands(page)]
    return [words[1:] for words in split if words[0] == "gtddp"]


def named_runs(page: Path) -> set[str]:
    """Folders of runs that the page supposes to be there."""
    return {word for words in ours(page) for word in words if word.startswith("runs/")}


def others() -> list[str]:
    found = [command for page in PAGES for command in commands(page)]
    return [command for command in found if not command.startswith("gtddp ")]


WITH_RUNS = [page for page in PAGES if ours(page)]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with what the pages speak of: a configuration and folders of data."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.M | re.S)
    (tmp_path / "run.yaml").write_text(config)
    return tmp_path


@pytest.mark.parametrize("page", WITH_RUNS, ids=lambda page: page.stem)
def test_the_parser_reads_them(page: Path, place: Path) -> None:
    for run in named_runs(page):
        (place / run).mkdir(parents=True)
        (place / run / "config.yaml").write_text("dataset: fashion_mnist\n")
    for arguments in ours(page):
        assert parse(arguments) is not None


def test_yaml_blocks_are_read() -> None:
    """The one that there is, by the test above, as run.yaml."""
    pages = [page for page in PAGES if "```yaml" in page.read_text(encoding="utf-8")]
    assert [page.name for page in pages] == ["resume.md"]
    assert any("run.yaml" in words for page in pages for words in ours(page))


def test_installed_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = [c for c in others() if c.startswith("pip ")]
    assert named
    for command in named:
        found = re.fullmatch(r'pip install -e "\.\[([\w,]+)\]"|pip install -e \.', command)
        assert found, command
        assert set((found[1] or "").split(",")) <= {*extras, ""}, command


def test_tools_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for command in others():
        if command.startswith("pip ") or command in BY_HAND:
            continue
        words = shlex.split(command)
        if words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), command
            continue
        assert words[0] in TOOLS, f"say in {Path(__file__).name} how this is run: {command}"
        if words[0] == "sphinx-build":
            words = words[:2]
        assert " ".join(words) in script or (ROOT / words[-1]).is_file(), command


def small(arguments: list[str]) -> list[str]:
    """The same command on little data and for a short time."""
    arguments = [a.replace("~/Downloads", "downloads") for a in arguments]
    if arguments[0] == "data":
        source = [] if "--from" in arguments else ["--from", "my_folder"]
        return [*arguments, *source, *([] if "--own" in arguments else ["--own"])]
    if arguments[0] != "train" or "--resume" in arguments:
        return arguments
    tiny = "--dataset" in arguments or "--config" in arguments
    return [*arguments, *SMALL, "--batch-size", "8" if tiny else "128"]


def elsewhere(arguments: list[str]) -> bool:
    """Whether it needs other processes; `tests/training/test_distributed.py` has those."""
    return "--distributed" in arguments or "--coordinator" in arguments


def devices_of(arguments: list[str]) -> int:
    """How many devices it asks for."""
    words = [*arguments, "--devices", "1"]
    return int(words[words.index("--devices") + 1])


def run(arguments: list[str], place: Path) -> None:
    caches = {"XDG_CACHE_HOME": str(place / "cache"), "MPLCONFIGDIR": matplotlib.get_configdir()}
    done = subprocess.run(
        [sys.executable, "-m", "gtddp_jax", *arguments],
        cwd=place,
        env={**child_environment(devices_of(arguments)), **caches},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, (arguments, done.stderr)


@pytest.fixture(scope="module")
def a_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared data set (`cache`) and one small run (`runs/*`)."""
    place = tmp_path_factory.mktemp("made")
    originals.write_idx(place)
    run(["data", "fashion_mnist", "--from", str(place), "--own"], place)
    run(small(["train", "--dataset", "fashion_mnist"]), place)
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_RUNS, ids=lambda page: page.stem)
def test_they_run(page: Path, place: Path, a_run: Path) -> None:
    for folder in ("my_folder", "downloads"):
        (place / folder).mkdir()
    originals.write_idx(place / "my_folder")
    originals.write_cifar(place / "downloads", "cifar10", "python", packed=True)
    if ["data", "fashion_mnist"] not in ours(page):
        shutil.copytree(a_run / "cache", place / "cache")
    (made,) = (a_run / "runs").iterdir()
    for name in named_runs(page):
        shutil.copytree(made, place / name)
    for arguments in ours(page):
        if not elsewhere(arguments):
            run(small(arguments), place)
