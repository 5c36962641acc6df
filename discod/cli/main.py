"""`discod`: the table of verbs, the errors they may end with, and the exit code.

A verb's module is imported when it is called, so `--help` reads only this table. Names are never completed from a
prefix: a script that works today must mean the same after a verb is added.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn

import click

from discod import __version__
from discod.cli import output
from discod.cli.options import HELP, Options, take
from discod.errors import DiscodError, Exit, UserError

VERBS = {  # name: (module, the line in --help)
    "demo": ("discod.cli.demo", "A signaling node and peers on this machine learn a model together, live."),
    "init": ("discod.cli.init", "Make this machine's identity and configuration."),
    "up": ("discod.cli.daemon:up", "Start the daemon in the background."),
    "down": ("discod.cli.daemon:down", "Stop the daemon."),
    "daemon": ("discod.cli.daemon:daemon", "The daemon in the foreground."),
    "status": ("discod.cli.status", "What runs here, on one screen."),
    "mesh": ("discod.cli.mesh", "Make or look at a mesh: who may talk to whom."),
    "invite": ("discod.cli.invite", "Invite somebody into a mesh."),
    "join": ("discod.cli.join", "Join a mesh by an invite link."),
    "peers": ("discod.cli.peers", "Who is there, and how they are reached."),
    "data": ("discod.cli.data", "Data sets of this machine; they never leave it."),
    "task": ("discod.cli.task", "What is learned: write, check, publish, look at."),
    "train": ("discod.cli.train", "Train a task with your data, together or alone."),
    "privacy": ("discod.cli.privacy", "What was learned from your data, and what is left of their budget."),
    "runs": ("discod.cli.runs", "Executions of tasks and their figures."),
    "model": ("discod.cli.model", "Use the models that came out."),
    "signaling": ("discod.cli.signaling", "The meeting point of a mesh."),
    "config": ("discod.cli.config", "The configuration in force."),
    "paths": ("discod.cli.paths", "Where discod keeps its files."),
    "version": ("discod.cli.version", "The version."),
}


def suggestion(word: str, names: Sequence[str]) -> str:
    """The nearest of `names`, as a hint."""
    from difflib import get_close_matches

    near = get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else "one of: " + ", ".join(names)


class Verbs(click.Group):
    """A group that names the nearest verb instead of completing a prefix, and may have a default verb."""

    default: str | None = None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        command = self.get_command(ctx, name)
        if command is None:
            if not name.startswith("-"):
                _unknown(ctx, name, self.list_commands(ctx))
            return super().resolve_command(ctx, args)
        return name, command, args[1:]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.default is not None and (not args or args[0] not in (*self.commands, "--help")):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def _unknown(ctx: click.Context, name: str, names: Sequence[str]) -> NoReturn:
    error = click.UsageError(f"{ctx.command_path} has no verb {name!r}", ctx)
    error.hint = suggestion(name, names)  # type: ignore[attr-defined]  # read in `_usage`
    raise error


class Root(Verbs):
    """The verbs of the table; each is imported when it is called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in VERBS:
            return None
        module, _, attribute = VERBS[cmd_name][0].partition(":")
        command = getattr(import_module(module), attribute or cmd_name)
        assert isinstance(command, click.Command), cmd_name
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in VERBS.items()])
        with formatter.section("Before or after any verb"):
            formatter.write_dl(list(HELP))


@click.group(cls=Root, invoke_without_command=True, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="discod %(version)s")
@click.pass_context
def root(ctx: click.Context) -> None:
    """Train a model together with people who may not share their data."""
    if ctx.invoked_subcommand is None:
        from discod.cli.status import overview

        overview()


def execute(words: Sequence[str]) -> int:
    """Run `discod WORDS` and return its exit code; every error is printed as what, why, try."""
    found = Options(json="--json" in words or "--jsonl" in words)
    try:
        found, rest = take(words)
        return _invoke(rest, found)
    except UserError as error:
        return output.fail(error, found)
    except click.ClickException as error:
        return output.fail(_usage(error), found)
    except (KeyboardInterrupt, click.Abort):
        click.echo("", err=True)
        return int(Exit.INTERRUPTED)
    except BrokenPipeError:
        _silence_stdout()
        return int(Exit.OK)
    except (DiscodError, AssertionError) as error:
        return _bug(error, found)


def _invoke(words: list[str], found: Options) -> int:
    result: Any = root.main(words, prog_name="discod", standalone_mode=False, obj=found)
    return result if isinstance(result, int) else int(Exit.OK)


def _usage(error: click.ClickException) -> UserError:
    hint = getattr(error, "hint", "")
    context = getattr(error, "ctx", None)
    if not hint and context is not None:
        hint = f"{context.command_path} --help"
    return UserError(error.format_message(), hint, code="usage", exit=Exit(error.exit_code))


def _bug(error: Exception, found: Options) -> int:
    import traceback

    if found.verbose:
        traceback.print_exception(error, file=sys.stderr)
    why = f"discod met a state it should never be in ({type(error).__name__}: {error})"
    return output.fail(UserError(why, "run it again with -v and report the trace", exit=Exit.INTERNAL), found)


def _silence_stdout() -> None:
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
