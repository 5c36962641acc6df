"""`discod demo`: see it work on this machine alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Literal

import click

from discod.cli import output
from discod.errors import Exit


@click.command()
@click.option("--peers", type=click.IntRange(2, 16), default=3, show_default=True, help="How many daemons.")
@click.option("--task", type=click.Choice(["digits", "tumor"]), default="digits", show_default=True)
@click.option("--scheme", type=click.Choice(["decentralized", "federated"]), default="decentralized", show_default=True)
@click.option("--asynchronous", is_flag=True, help="Federated: nobody waits for anybody.")
@click.option("--cutoff", type=click.IntRange(0, 1000), help="Asynchronous: versions an update may be behind.")
@click.option("--aggregator", type=click.Choice(["secure", "mean"]), help="[default: secure; mean with two peers]")
@click.option("--no-privacy", is_flag=True, help="Aggregator mean, and no noise.")
@click.option("--min-peers", type=click.IntRange(2, 16), help="No round with fewer [default: all].")
@click.option("--rounds", type=click.IntRange(1, 100_000), help="Joint rounds [default: the task's].")
@click.option("--seed", type=click.IntRange(0, 2**63 - 1), help="First parameters, batch order [default: the task's].")
@click.option("--headless", is_flag=True, help="One line per round instead of the live table.")
@click.option("--no-save", is_flag=True, help="Leave nothing in ./discod-demo.")
def demo(
    peers: int,
    task: str,
    scheme: str,
    asynchronous: bool,
    cutoff: int | None,
    aggregator: Literal["secure", "mean"] | None,
    no_privacy: bool,
    min_peers: int | None,
    rounds: int | None,
    seed: int | None,
    headless: bool,
    no_save: bool,
) -> int:
    """A signaling node and peers on this machine learn a model together, live.

    Each is a process with a home of its own and a part of the data that nobody else reads. Exit 6 when the joint model
    ends below the task's target.
    """
    from discod.demo import stage

    hosting = stage.hosting(scheme, asynchronous, cutoff)
    choice = stage.choose(
        task,
        peers,
        min_peers=min_peers,
        rounds=rounds,
        seed=seed,
        private=not no_privacy,
        aggregator=aggregator or ("mean" if no_privacy else None),
        hosting=hosting,
    )
    live = not (headless or output.options().json) and sys.stdout.isatty()
    keep = None if no_save else Path(stage.LEFT)
    played = stage.run(choice, peers, live=live, color=not output.options().no_color, keep=keep)
    output.emit("demo", played.figures, lambda: stage.summary(played, keep))
    below = choice.task.target is not None and played.figures.accuracy < choice.task.target
    return int(Exit.BELOW_TARGET if below else Exit.OK)
