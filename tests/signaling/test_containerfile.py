"""The Containerfile names things that exist, and all that a node imports. (No image is built here.)"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINES = (ROOT / "signaling" / "Containerfile").read_text().replace("\\\n", "").splitlines()
LOADED = """
import json, sys
sys.modules["rich"] = None  # structlog uses it where it is, and works without
import signaling.__main__, signaling.mean
print(json.dumps(sorted({name.partition(".")[0] for name, module in sys.modules.items() if module})))
"""


def instruction(name: str) -> list[list[str]]:
    return [line.split()[1:] for line in LINES if line.startswith(name + " ")]


def test_what_is_copied_exists() -> None:
    copied = [path for *paths, _ in instruction("COPY") for path in paths]
    assert {"discod", "signaling", "constraints.txt"} <= set(copied)
    assert [path for path in copied if not (ROOT / path).exists()] == []


def test_it_starts_a_script_of_the_project_with_flags_that_exist() -> None:
    from signaling.__main__ import serve

    words = json.loads(next(line.partition(" ")[2] for line in LINES if line.startswith("ENTRYPOINT")))
    assert words[0] in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert words[1] == serve.name
    options = {name for parameter in serve.params for name in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def test_what_a_node_imports_is_installed_and_nothing_else() -> None:
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, check=True, cwd=ROOT)
    of = packages_distributions()
    loaded = {name for module in json.loads(done.stdout) for name in of.get(module, ())}
    run = " ".join(instruction("RUN")[0])
    installed = set(re.findall(r"constraints\.txt ([^&]*)&&", run)[0].split())
    pinned = (ROOT / "constraints.txt").read_text()
    assert all(re.search(rf"(?im)^{re.escape(name)}==", pinned) for name in installed)
    assert installed <= {name.lower().replace("_", "-") for name in loaded} | {"numpy"}
    brought = installed | {dependency for name in installed for dependency in needs(name)} | {"discod"}
    assert {name.lower().replace("_", "-") for name in loaded} <= brought


def needs(name: str) -> set[str]:
    """What pip brings along with a package."""
    from importlib.metadata import requires

    found = set()
    for line in requires(name) or ():
        if "extra ==" not in line:
            word = re.split(r"[^A-Za-z0-9_.-]", line)[0].lower().replace("_", "-")
            found |= {word} | (needs(word) if word in {"cffi", "wsproto", "h11"} else set())
    return found
