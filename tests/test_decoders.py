"""Any bytes give a value or the reader's own error, and take no more memory than stated: for every reader there is."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks._decoders import Decoder, decoders, most_memory
from benchmarks._mutations import mutated
from benchmarks.fuzz import fuzz

ROOT = Path(__file__).parents[1]
with decoders() as table:
    NAMES = [decoder.name for decoder in table]


@pytest.fixture(scope="module")
def readers() -> Iterator[Callable[[str], Decoder]]:
    with decoders() as found:
        by_name = {decoder.name: decoder for decoder in found}
        yield lambda name: by_name[name]


def attempt(decoder: Decoder, data: bytes) -> None:
    with suppress(decoder.error):
        decoder.read(data)


def peak(decoder: Decoder, data: bytes) -> int:
    tracemalloc.start()
    try:
        attempt(decoder, data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(noise=st.binary(max_size=300), seed=st.integers(0, 2**32))
def test_any_bytes_give_a_value_or_its_error(
    readers: Callable[[str], Decoder], name: str, noise: bytes, seed: int
) -> None:
    decoder = readers(name)
    attempt(decoder, noise)
    data = mutated(decoder.seeds, seed)
    assert peak(decoder, data) <= most_memory(len(data))


@pytest.mark.parametrize("name", NAMES)
def test_what_claims_to_be_large_or_deep_is_refused_in_little_memory(
    readers: Callable[[str], Decoder], name: str
) -> None:
    decoder = readers(name)
    for data in (
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xc6\xff\xff\xff\xff",  # as many bytes
        b"\x91" * 100_000,
        b"\x91" * 5_000,
        b"[" * 100_000,
        b"[" * 5_000,
        b"a = " + b"[" * 100_000,
        (2**62).to_bytes(8, "little") + b"{}",
        b"GET / HTTP/1.1\r\n" + b"X-Forwarded-For: 1\r\n" * 5_000,
    ):
        assert peak(decoder, data) <= most_memory(len(data))


def test_every_decoder_of_the_sources_is_in_the_table() -> None:
    text = (ROOT / "benchmarks" / "_decoders.py").read_text()
    reached = {"_SEALED", "_BODY", "_bodies", "_envelope"}  # through parse_record, parse_body, parse_envelope
    for path in [*ROOT.glob("discod/**/*.py"), *ROOT.glob("signaling/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Assign) and "decoder(" in ast.unparse(node.value):
                name = ast.unparse(node.targets[0])
                assert name in reached or f" {name}" in text, f"{path} makes {name}: add it to benchmarks/_decoders.py"


def test_bench_fuzz_names_a_reader_that_raises_something_else(capsys: pytest.CaptureFixture[str]) -> None:
    def careless(data: bytes) -> object:
        return data[3]

    turns = iter([True] * 200 + [False])
    table = (Decoder("good", bytes, ValueError, (b"abc",)), Decoder("careless", careless, ValueError, (b"abcd",)))
    executions, crashes = fuzz(table, 0, lambda: next(turns))
    assert executions == 400
    assert list(crashes) == ["careless"]
    assert "careless: IndexError" in capsys.readouterr().err


def test_bench_fuzz_prints_its_row() -> None:
    command = [sys.executable, "benchmarks/fuzz.py", "--minutes", "0.01"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    row = json.loads(done.stdout.splitlines()[-1])
    assert (done.returncode, row["crashes"], row["targets"]) == (0, 0, len(NAMES)), done.stderr
    assert row["executions"] >= len(NAMES)
