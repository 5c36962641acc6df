"""docs/security.md keeps its word: weaknesses stand first, every guarantee has a number and names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = (REPOSITORY / "docs" / "security.md").read_text()
PROOF = re.compile(r"`(test_\w+)`|\((tests/[\w/]+\.py)\)")
GUARANTEE = re.compile(r"^\*\*(\d+)\.", re.M)
REFERENCE = re.compile(r"docs/security\.md, (\w+)")


def proofs(text: str) -> list[tuple[str, str]]:
    """(file, test): the file in brackets stands after its tests."""
    found, waiting = [], list[str]()
    for test, file in PROOF.findall(text):
        if file:
            found += [(file, one) for one in waiting]
            waiting = []
        else:
            waiting.append(test)
    assert not waiting, f"no file is named for {waiting}"
    return found


def names_in(file: str) -> set[str]:
    tree = ast.parse((REPOSITORY / file).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


def test_every_test_that_is_named_exists() -> None:
    named = proofs(PAGE)
    assert len(named) > 50
    assert [(file, test) for file, test in named if test not in names_in(file)] == []


def test_every_guarantee_has_a_number_and_a_test() -> None:
    guaranteed = PAGE[PAGE.index("## 3. ") :]
    numbers = [int(number) for number in GUARANTEE.findall(guaranteed)]
    assert numbers == list(range(1, len(numbers) + 1))
    parts = GUARANTEE.split(guaranteed)[2::2]
    assert [number for number, part in zip(numbers, parts, strict=True) if not proofs(part)] == []


def test_attackers_and_weaknesses_come_before_what_is_protected() -> None:
    assert re.findall(r"^## (\d)\. (.*)$", PAGE, re.M) == [
        ("1", "Who attacks"),
        ("2", "Known weaknesses"),
        ("3", "What is protected, and how"),
    ]


def test_docstrings_name_paragraphs_that_exist() -> None:
    headings = {title.lower() for title in re.findall(r"^### (.*)$", PAGE, re.M)} | {"1", "2", "3"}
    sources = [path for folder in ("discod", "signaling") for path in (REPOSITORY / folder).rglob("*.py")]
    named = {where.lower() for path in sources for where in REFERENCE.findall(path.read_text())}
    assert named
    assert named <= headings
