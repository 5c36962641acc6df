"""The verb table, errors as what, why, try, and the exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from discod.cli import main, output
from discod.errors import BadInvite, LocalError


def test_every_verb_of_the_table_exists() -> None:
    context = click.Context(main.root)
    for name, (_, line) in main.VERBS.items():
        command = main.root.get_command(context, name)
        assert command is not None
        assert command.help
        assert line.endswith(".")


@pytest.mark.parametrize(
    ("words", "near"), [(["staus"], "status"), (["mesh", "crate"], "create"), (["jion"], "join"), (["stat"], "status")]
)
def test_unknown_verb_names_the_nearest_and_is_usage(
    words: list[str], near: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.execute(words) == 2
    said = capsys.readouterr().err
    assert f"no verb {words[-1]!r}" in said
    assert f"did you mean {near!r}?" in said


def test_unknown_option_is_usage_and_points_to_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["mesh", "create", "a", "--sgnaling", "b"]) == 2
    assert "try: discod mesh create --help" in capsys.readouterr().err


def test_usage_error_has_an_envelope(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["nothing-like-it", "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["schema"] == "discod.error/1"
    assert answer["ok"] is False
    assert (answer["code"], answer["exit"]) == ("usage", 2)


@pytest.mark.parametrize(
    ("error", "code"), [(BadInvite("cut", "again"), 66), (KeyboardInterrupt(), 130), (LocalError("bug"), 70)]
)
def test_error_of_a_verb_decides_the_exit_code(
    error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(main.Root, "get_command", lambda self, ctx, name: failing)
    assert main.execute(["version"]) == code
    said = capsys.readouterr().err
    if isinstance(error, BadInvite):
        assert said == "error: cut\ntry: again\n"


def test_help_is_instant_and_imports_nothing_heavy() -> None:
    probe = (
        "import sys; from discod.cli.main import execute; execute(['--help']); "
        "print([m for m in ('trio', 'numpy', 'tinygrad', 'rich', 'cryptography') if m in sys.modules], file=sys.stderr)"
    )
    began = time.process_time(), time.perf_counter()
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr.strip() == "[]"
    assert "Verbs:" in done.stdout
    assert time.perf_counter() - began[1] < 3  # the target is 0.3 s; machines are shared


def test_help_names_every_verb_and_global_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in (*main.VERBS, "--home", "--jsonl", "--no-start"))


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.execute(["--version"]) == 0
    assert capsys.readouterr().out.startswith("discod 0.")


def test_output_shapes() -> None:
    assert output.columns(("A", "BB"), [("long", None), ("x", 3)]) == "A     BB\nlong  —\nx     3"
    assert output.size(999) == "999 B"
    assert output.size(1_234_567) == "1.2 MB"
    assert output.span(60) == "60 s"
    assert output.span(660) == "11 min"
    assert output.span(3 * 3600) == "3 h"
    assert output.sparkline([0, 0.5, 1, 2]) == "▁▅██"
    assert output.plural(1, "peer") == "1 peer"
    assert output.plural(2431, "row") == "2 431 rows"


def test_discod_signaling_is_discod_signaling_the_program() -> None:
    root = Path(__file__).parents[2]

    def said(words: list[str]) -> str:
        done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True, check=False, cwd=root)
        return done.stdout + done.stderr + str(done.returncode)

    for words in (["--help"], ["serve", "--help"], ["serve", "--tls", "a", "--json"], ["serve", "--limit", "x"]):
        mine, theirs = said(["discod", "signaling", *words]), said(["signaling", *words])
        assert mine.replace("discod signaling", "signaling") == theirs.replace("python -m signaling", "signaling")
