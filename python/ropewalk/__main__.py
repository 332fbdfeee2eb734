"""The command `ropewalk`, and `python -m ropewalk`, which is the same.

It starts a Python that starts the program, so whatever it imports is time in which the user's program
does not run yet: `ropewalk run` goes straight to its room, and argparse is loaded only for those who
ask for help or need it.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from argparse import ArgumentParser
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; the result is the exit status."""
    given = sys.argv[1:] if argv is None else list(argv)
    if given[:1] == ["run"]:
        from ropewalk.launch import main as run

        return run(given[1:])
    _parser().parse_args(given)  # ends the process: there is no other command
    return 2


def _parser() -> ArgumentParser:
    import argparse
    import platform

    from ropewalk import __version__

    parser = argparse.ArgumentParser(
        prog="ropewalk", description="Run Python's concurrency on one Rust runtime.", allow_abbrev=False
    )
    python = f"{platform.python_implementation()} {platform.python_version()}"
    parser.add_argument("--version", action="version", version=f"ropewalk {__version__} ({python})")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    commands.add_parser("run", help="run a program as python does, on ropewalk", add_help=False)
    return parser


if __name__ == "__main__":
    sys.exit(main())
