"""The compiler: found without PATH and HOME, and right for the targets the engine names on each kind of machine."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from discod.errors import PermissionProblem
from discod.train.compiler import (
    cache_directory,
    compiler_environment,
    private_directory,
    script_text,
    write_atomically,
    zig_path,
)

SOURCE = b"void step(float *restrict a, const float *restrict b) { for (int i = 0; i < 99; i++) a[i] += 0.3f * b[i]; }"
COMMON = ["-c", "-x", "c", "-O2", "-fPIC", "-ffreestanding", "-fno-math-errno", "-nostdlib", "-fno-ident"]
RELOCATIONS = (4, 9)  # ELF section types RELA and REL


@pytest.mark.parametrize(
    ("processor", "machine"),
    [
        ("--target=x86_64-none-unknown-elf -march=znver2", 62),  # Linux
        ("--target=x86_64-none-unknown-elf -march=skylake", 62),  # macOS on Intel: the engine loads ELF there too
        ("--target=arm64-none-unknown-elf -ffixed-x18 -mcpu=neoverse-n1", 183),  # Linux
        ("--target=arm64-none-unknown-elf -ffixed-x18 -mcpu=apple-m1", 183),  # macOS
    ],
)
def test_the_engines_own_arguments_make_objects_it_can_load(processor: str, machine: int, tmp_path: Path) -> None:
    compiler = compiler_environment(tmp_path, {})["CC"]
    command = [compiler, *COMMON, *processor.split(), "-", "-o", "-"]
    code = subprocess.run(command, input=SOURCE, stdout=subprocess.PIPE, check=True, env={"PATH": "/nowhere"}).stdout
    assert code[:4] == b"\x7fELF"
    assert int.from_bytes(code[18:20], "little") == machine
    named = [name for name, kind in sections(code) if kind in RELOCATIONS]
    assert all(name.startswith((".rela.text", ".rel.text")) for name in named), "the engine knows those of code only"


def sections(code: bytes) -> list[tuple[str, int]]:
    """(name, type) of each section of a 64-bit little-endian ELF object."""
    start, size, count, names = (
        int.from_bytes(code[a:b], "little") for a, b in ((40, 48), (58, 60), (60, 62), (62, 64))
    )
    headers = [code[start + n * size : start + (n + 1) * size] for n in range(count)]
    text = int.from_bytes(headers[names][24:32], "little")
    return [
        (code[text + int.from_bytes(h[:4], "little") :].split(b"\0", 1)[0].decode(), int.from_bytes(h[4:8], "little"))
        for h in headers
    ]


TRAIN = """
import sys, trio
from pathlib import Path
from discod.train.datasets import SAMPLES
from discod.train.task import ModelSpec, TaskSpec
from discod.train.worker import Job, open_worker

async def main():
    task = TaskSpec("t", SAMPLES["digits"].data, ModelSpec("logreg"))
    async with open_worker(Job(task, "sample:digits:0-1")) as worker:
        print((await worker.train(3)).samples)

trio.run(main)
"""


def test_a_step_is_compiled_and_trained_without_clang_home_or_path(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path), "DISCOD_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", TRAIN], env=environment, capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"96\n", 0), done.stderr
    assert {path.suffix for path in (tmp_path / "cache" / "plans").iterdir()} == {".plan", ".lock"}


def test_a_compiler_the_person_chose_is_left_alone(tmp_path: Path) -> None:
    assert "CC" not in compiler_environment(tmp_path, {"CC": "/opt/clang"})
    assert list(tmp_path.iterdir()) == []


def test_the_script_is_written_once_for_each_zig_and_only_for_this_user(tmp_path: Path) -> None:
    first = compiler_environment(tmp_path, {})
    script = Path(first["CC"])
    assert script.stat().st_mode & 0o777 == 0o700
    written = script.stat().st_mtime_ns
    assert compiler_environment(tmp_path, {}) == first
    assert script.stat().st_mtime_ns == written
    assert all(value.startswith(str(tmp_path)) for value in first.values())


def test_a_path_with_blanks_and_quotes_stays_one_word() -> None:
    assert script_text(Path("/a b/it's/zig")) == "#!/bin/sh\nexec '/a b/it'\"'\"'s/zig' clang \"$@\"\n"
    assert zig_path() is not None


@pytest.mark.parametrize(
    ("environment", "wanted"),
    [
        ({"DISCOD_CACHE": "/x", "CACHE_DIRECTORY": "/y"}, Path("/x")),
        ({"CACHE_DIRECTORY": "/y:/z"}, Path("/y")),
    ],
)
def test_the_cache_is_ours_then_the_services(environment: dict[str, str], wanted: Path) -> None:
    assert cache_directory(environment) == wanted


def test_code_is_not_run_from_where_others_may_write(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(PermissionProblem, match="others may write"):
        private_directory(shared)
    (tmp_path / "file").write_text("")
    with pytest.raises(PermissionProblem, match="cannot be made"):
        private_directory(tmp_path / "file" / "cache")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "not bytes")  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["plan"]
