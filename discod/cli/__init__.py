"""The command line: one file per noun, no logic; each verb asks the daemon, or the state directory when it needs none.

Nothing here is imported before it is needed, so that `discod --help` answers at once.
"""


def run() -> None:
    """Run the command line with this process's arguments and exit with its code."""
    import sys

    from discod.cli.main import execute

    sys.exit(execute(sys.argv[1:]))
