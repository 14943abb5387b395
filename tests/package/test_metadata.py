"""Version, changes and citation say the same."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import yaml

import gtddp_jax as gt

ROOT = Path(__file__).resolve().parents[2]
SEMANTIC = re.compile(r"\d+\.\d+\.\d+(-[0-9A-Za-z.-]+)?")
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def test_the_version_is_semantic_and_stands_in_one_place() -> None:
    assert SEMANTIC.fullmatch(gt.__version__)
    assert version("gtddp-jax") == gt.__version__
    assert gt.__version__ not in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def test_the_changelog_keeps_its_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    releases = re.findall(r"^## \[(.*?)\]( - \d{4}-\d\d-\d\d)?$", text, re.MULTILINE)
    assert len(releases) == len(re.findall(r"^## ", text, re.MULTILINE))
    assert releases[0] == ("Unreleased", "")
    assert all(SEMANTIC.fullmatch(name) and date for name, date in releases[1:])
    kinds = re.findall(r"^### (.*)$", text, re.MULTILINE)
    assert kinds and set(kinds) <= KINDS
    assert releases[1][0] == gt.__version__


def test_the_citation_names_this_version_and_the_paper() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # the schema wants these
    assert citation["version"] == gt.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## [{gt.__version__}] - {citation['date-released']}\n" in changelog
    assert citation["license"] == "Apache-2.0"
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Liu", "Chen", "Theodorou"]


def test_the_sdist_has_all_that_tests_read() -> None:
    """What stands at the top of the repository; README, LICENSE and pyproject.toml come anyway."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        target = tomllib.load(file)["tool"]["hatch"]["build"]["targets"]["sdist"]
    tops = {f"/{path.name}" for pattern in ("*.md", "*.cff") for path in ROOT.glob(pattern)}
    folders = {"/.ci", "/benchmarks", "/docs", "/examples", "/gtddp_jax", "/gtddp_lab", "/tests"}
    assert set(target["include"]) == (tops - {"/README.md"}) | folders
