"""Every line of every console block is a valid command.

The command's own parser reads all `gtddp` lines. A slow test runs them, page by page, on data sets
of a few images and for one epoch. `.ci/run` runs the commands that build and check the project.
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

from gtddp_lab.cli.parse import parse_command_line
from tests.conftest import child_environment
from tests.lab.data import originals

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
SMALL = ("--network", "residual-mlp", "--epochs", "1", "--seeds", "1")
TOOLS = ("ruff", "pyright", "python", "sphinx-build")
BY_HAND = (
    "python -m tests.properties --cases 10000 --seed 0 --shard 1/8",
    "python -m tests.mutation --count 140 --seed 0",
    "python -m tests.docs.errors --write",
    "python -m tests.reproducibility.golden --write",
    "pyright --verifytypes gtddp_jax --ignoreexternal",
)
"""Commands that `.ci/run` leaves out."""


def commands(page: Path) -> list[str]:
    """The commands of a page; in blocks with prompts, the lines that have one."""
    found = []
    text = page.read_text(encoding="utf-8")
    for block in re.findall(r"^```console\n(.*?)^```$", text, flags=re.M | re.S):
        lines = block.splitlines()
        typed = [line[2:] for line in lines if line.startswith("$ ")] or lines
        for line in typed:
            found += re.sub(r"\s+#.*", "", line).split(" && ")
    return found


def gtddp_commands(page: Path) -> list[list[str]]:
    split = [shlex.split(command) for command in commands(page)]
    return [words[1:] for words in split if words[0] == "gtddp"]


def named_runs(page: Path) -> set[str]:
    """Folders of runs that the page assumes to exist."""
    return {word for words in gtddp_commands(page) for word in words if word.startswith("runs/")}


def other_commands() -> list[str]:
    found = [command for page in PAGES for command in commands(page)]
    return [command for command in found if not command.startswith("gtddp ")]


def is_repeated(arguments: list[str], page: Path) -> bool:
    """Whether an earlier page trains by the same command."""
    earlier = PAGES[: PAGES.index(page)]
    return arguments[0] == "train" and any(arguments in gtddp_commands(other) for other in earlier)


PAGES_WITH_COMMANDS = [page for page in PAGES if gtddp_commands(page)]


@pytest.fixture
def work_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with the configuration file that the pages use."""
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    (config,) = re.findall(r"^```yaml\n(.*?)^```$", text, flags=re.M | re.S)
    (tmp_path / "run.yaml").write_text(config)
    return tmp_path


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.stem)
def test_the_parser_reads_them(page: Path, work_folder: Path) -> None:
    for run in named_runs(page):
        (work_folder / run).mkdir(parents=True)
        (work_folder / run / "config.yaml").write_text("dataset: fashion_mnist\n")
    for arguments in gtddp_commands(page):
        assert parse_command_line(arguments) is not None


def test_yaml_blocks_are_read() -> None:
    """The only one is read as run.yaml by the test above."""
    pages = [page for page in PAGES if "```yaml" in page.read_text(encoding="utf-8")]
    assert [page.name for page in pages] == ["resume.md"]
    assert any("run.yaml" in words for page in pages for words in gtddp_commands(page))


def test_installed_extras_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    named = [c for c in other_commands() if c.startswith("pip ")]
    assert named
    for command in named:
        found = re.fullmatch(r'pip install -e "\.\[([\w,]+)\]"|pip install -e \.', command)
        assert found, command
        assert set((found[1] or "").split(",")) <= {*extras, ""}, command


def test_tools_are_run_by_ci() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    for command in other_commands():
        if command.startswith("pip ") or command in BY_HAND:
            continue
        words = shlex.split(command)
        if words[0].startswith(".ci/"):
            assert (ROOT / words[0]).is_file(), command
            continue
        assert words[0] in TOOLS, f"{Path(__file__).name} must say how this is run: {command}"
        if words[0] == "sphinx-build":
            words = words[:2]
        assert " ".join(words) in script or (ROOT / words[-1]).is_file(), command


def shortened(arguments: list[str]) -> list[str]:
    """The same command with little data and few epochs."""
    arguments = [a.replace("~/Downloads", "downloads") for a in arguments]
    if arguments[0] == "data":
        source = [] if "--from" in arguments else ["--from", "my_folder"]
        return [*arguments, *source, *([] if "--own" in arguments else ["--own"])]
    if arguments[0] != "train" or "--resume" in arguments:
        return arguments
    tiny = "--dataset" in arguments or "--config" in arguments
    return [*arguments, *SMALL, "--batch-size", "8" if tiny else "128"]


def needs_other_processes(arguments: list[str]) -> bool:
    """Whether `tests/lab/training/test_distributed.py` tests the command instead."""
    return "--distributed" in arguments or "--coordinator" in arguments


def device_count(arguments: list[str]) -> int:
    """The number of devices that the command asks for."""
    words = [*arguments, "--devices", "1"]
    return int(words[words.index("--devices") + 1])


def run_command(arguments: list[str], work_folder: Path) -> None:
    caches = {
        "XDG_CACHE_HOME": str(work_folder / "cache"),
        "MPLCONFIGDIR": matplotlib.get_configdir(),
    }
    result = subprocess.run(
        [sys.executable, "-m", "gtddp_lab", *arguments],
        cwd=work_folder,
        env={**child_environment(device_count(arguments)), **caches},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert result.returncode == 0, (arguments, result.stderr)


@pytest.fixture(scope="module")
def example_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prepared data set (`cache`) and one short run (`runs/*`)."""
    folder = tmp_path_factory.mktemp("made")
    originals.write_idx(folder)
    run_command(["data", "fashion_mnist", "--from", str(folder), "--own"], folder)
    run_command(shortened(["train", "--dataset", "fashion_mnist"]), folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda page: page.stem)
def test_they_run(page: Path, work_folder: Path, example_run: Path) -> None:
    for folder in ("my_folder", "downloads"):
        (work_folder / folder).mkdir()
    originals.write_idx(work_folder / "my_folder")
    originals.write_cifar(work_folder / "downloads", "cifar10", "python", packed=True)
    if ["data", "fashion_mnist"] not in gtddp_commands(page):
        shutil.copytree(example_run / "cache", work_folder / "cache")
    (made,) = (example_run / "runs").iterdir()
    for name in named_runs(page):
        shutil.copytree(made, work_folder / name)
    for arguments in gtddp_commands(page):
        if not needs_other_processes(arguments) and not is_repeated(arguments, page):
            run_command(shortened(arguments), work_folder)
