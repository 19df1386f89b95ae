"""Starts the command line: `enginekeeper …`, `ek …` or `python -m enginekeeper …`."""

from __future__ import annotations


def main() -> None:
    """Runs the command line and exits with a code of the table in `enginekeeper.cli._errors`."""
    from enginekeeper.cli.main import run  # noqa: PLC0415 - keeps `import enginekeeper` light

    run()


if __name__ == "__main__":
    main()
