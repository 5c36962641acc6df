"""The configuration file that `discod init` writes: every setting with its default and what it takes, commented out."""

from __future__ import annotations

import json
import os
from pathlib import Path

import msgspec

from discod.config.settings import SECTIONS, Config, describe
from discod.errors import PermissionProblem


def config_template(name: str) -> str:
    """Return the text of a new file; only `name` is set in it."""
    lines = ["# discod reads this file and never writes it. A line without # takes effect.", "schema = 1"]
    lines.append(f"name = {json.dumps(name, ensure_ascii=False)}")
    defaults = msgspec.to_builtins(Config())
    for section, kind in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for key in kind.__struct_fields__:
            what = describe(f"{section}.{key}").partition(": ")[2]
            lines.append(f"# {key} = {json.dumps(defaults[section][key])}    # {what}")
    lines += ["", "# [[dataset]]", '# alias = "scans"', '# path = "/srv/scans.npz"']
    return "\n".join(lines) + "\n"


def write_template(path: Path, name: str) -> bool:
    """Write the file unless there is one; say whether it was written. Raises: PermissionProblem."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise PermissionProblem(f"cannot write {path}: {error.strerror}", f"ls -ld {path.parent}") from None
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        file.write(config_template(name))
    return True
