"""docs/errors.md lists every message of the code and the test that provokes it."""

import re
import traceback

import pytest

from tests.docs import errors
from tests.docs.provoked import ELSEWHERE, ERRORS, PROVOKED

MAX_UNPROVOKED = 0
"""Number of messages that no test provokes."""


def page_rows(page: str) -> set[tuple[str, str]]:
    """The messages of a page, `(module, text)`."""
    module, rows = "", set()
    for line in page.splitlines():
        if line.startswith("## "):
            module = line.removeprefix("## ")
        if line.startswith("| `"):
            rows.add((module, line.split("` | ")[0].strip("| `")))
    return rows


@pytest.mark.slow
def test_the_page_lists_the_messages_of_the_code() -> None:
    difference = page_rows(errors.PAGE.read_text(encoding="utf-8")) ^ page_rows(
        errors.errors_page()
    )
    assert not difference, f"python -m tests.docs.errors --write; differing: {difference}"


def test_messages_are_provoked() -> None:
    tests = errors.provoking_tests()
    unprovoked = [message for message in errors.all_messages() if message not in tests]
    assert len(unprovoked) <= MAX_UNPROVOKED, unprovoked


def test_named_tests_exist() -> None:
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        assert f"def {name}(" in (errors.ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("module", "beginning"), PROVOKED)
def test_messages(module: str, beginning: str) -> None:
    """The message is raised, word for word, in the module that the page names."""
    message = errors.find_message(module, beginning)
    pattern = ".*?".join(map(re.escape, message.text.split(errors.GAP)))
    with pytest.raises(ERRORS) as error:
        PROVOKED[module, beginning]()
    assert re.fullmatch(pattern, str(error.value), re.DOTALL), error.value
    frames = traceback.extract_tb(error.value.__traceback__)
    assert any(frame.filename.endswith(message.module) for frame in frames)
