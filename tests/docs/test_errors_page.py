"""docs/errors.md lists every message of the code, and what provokes it."""

import re
import traceback

import pytest

from tests.docs import errors
from tests.docs.provoked import ELSEWHERE, ERRORS, PROVOKED

WITHOUT = 0
"""How many messages no test provokes."""


def rows(page: str) -> set[tuple[str, str]]:
    """The messages of a page, `(module, text)`."""
    module, found = "", set()
    for line in page.splitlines():
        if line.startswith("## "):
            module = line.removeprefix("## ")
        if line.startswith("| `"):
            found.add((module, line.split("` | ")[0].strip("| `")))
    return found


def test_the_page_lists_the_messages_of_the_code() -> None:
    wrong = rows(errors.PAGE.read_text(encoding="utf-8")) ^ rows(errors.page())
    assert not wrong, f"python -m tests.docs.errors --write; differing: {wrong}"


def test_messages_are_provoked() -> None:
    left = [message for message in errors.messages() if message not in errors.provoked()]
    assert len(left) <= WITHOUT, left


def test_tests_that_are_named_are_there() -> None:
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        assert f"def {name}(" in (errors.ROOT / file).read_text(encoding="utf-8")


@pytest.mark.parametrize(("module", "beginning"), PROVOKED)
def test_messages(module: str, beginning: str) -> None:
    """The message comes from the module that the page names, word for word."""
    message = errors.told(module, beginning)
    pattern = ".*?".join(map(re.escape, message.text.split(errors.GAP)))
    with pytest.raises(ERRORS) as error:
        PROVOKED[module, beginning]()
    assert re.fullmatch(pattern, str(error.value), re.DOTALL), error.value
    frames = traceback.extract_tb(error.value.__traceback__)
    assert any(frame.filename.endswith(message.module) for frame in frames)
