"""`python -m discod`: the command line, imported late so that `discod --version` stays instant."""


def main() -> None:
    from discod.cli import run

    run()


if __name__ == "__main__":
    main()
