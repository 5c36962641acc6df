"""The C compiler of the engine: the clang inside ziglang, so that a machine without a compiler can train.

The engine calls whatever `CC` names with clang's own arguments and reads an ELF object from its output. `zig clang` is
that clang, unchanged: it takes the engine's `--target=ARCH-none-unknown-elf` on every machine, Linux or macOS, so no
argument needs rewriting. (`zig cc` does: it refuses those targets, adds unwind tables whose relocations the engine
cannot load, and takes 40 ms where clang takes 20.) `CC` must be one executable, hence a two-line script in the cache
directory; a shell starts in 1 ms, a Python wrapper would cost 30. A `CC` already in the environment is left alone.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path

import platformdirs

from discod.errors import PermissionProblem

CACHE_VARIABLES = ("DISCOD_CACHE", "CACHE_DIRECTORY")  # ours; then systemd's, for a service that has no HOME
PRIVATE = 0o700
OTHERS_MAY_WRITE = 0o022


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Where compiled things are kept between runs; safe to delete at any time."""
    for variable in CACHE_VARIABLES:
        if value := environment.get(variable, ""):
            return Path(value.split(":")[0])
    return Path(platformdirs.user_cache_dir("discod"))


def compiler_environment(cache: Path, environment: Mapping[str, str]) -> dict[str, str]:
    """The variables a process that compiles needs beside `environment`; writes the script on first use."""
    private_directory(cache)
    variables = {"CACHEDB": str(cache / "kernels.db"), "ZIG_GLOBAL_CACHE_DIR": str(cache / "zig")}
    if not environment.get("CC") and (zig := zig_path()) is not None:
        variables["CC"] = str(_script(cache, zig))
    return variables


def zig_path() -> Path | None:
    """ziglang's executable, or None where the package is missing (then clang must be in PATH)."""
    found = importlib.util.find_spec("ziglang")
    if found is None or not found.submodule_search_locations:
        return None
    return Path(found.submodule_search_locations[0]) / "zig"


def script_text(zig: Path) -> str:
    """The script `CC` names: clang with the arguments it was given, as they are."""
    return f'#!/bin/sh\nexec {shlex.quote(str(zig))} clang "$@"\n'


def _script(cache: Path, zig: Path) -> Path:
    """The script for this zig; two installations that share a cache have two."""
    text = script_text(zig).encode()
    path = cache / f"clang-{hashlib.sha256(text).hexdigest()[:12]}"
    if not path.exists():
        write_atomically(path, text, PRIVATE)
    return path


def private_directory(path: Path) -> Path:
    """The directory, made for this user alone if it is not there: code is run from it.

    Raises: PermissionProblem when it cannot be made, or when others may write into it.
    """
    try:
        path.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
        status = path.stat()
    except OSError as error:
        raise PermissionProblem(
            f"{path} cannot be made: {error.strerror}", "set DISCOD_CACHE to a directory"
        ) from error
    if status.st_uid != os.getuid() or status.st_mode & OTHERS_MAY_WRITE:
        raise PermissionProblem(f"others may write into {path}, and code is run from it", f"chmod 700 {path}")
    return path


def write_atomically(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Replace `path`: a reader sees the old file or the new one, never a part."""
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        os.chmod(name, mode)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
