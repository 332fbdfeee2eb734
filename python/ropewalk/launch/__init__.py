"""`ropewalk run`: run a program as `python` does, with ropewalk in place before its first line.

The launcher does not imitate `python`, it becomes it. Imitations (running the file with `runpy`, say) go
wrong at the edges: frames of theirs in tracebacks, another `__main__`, a `sys.path` with a stray entry,
workers that cannot import `__main__` again, a Ctrl-C that ends with the wrong status. Here the same
interpreter is executed once more in the same process (`execve`: the process id, the terminal and the
process group stay), with the very command line that followed `run`. All those manners are then
Python's own.

What puts ropewalk in place is the environment: a folder that holds nothing but a `sitecustomize.py`
(`startup/`) comes first in PYTHONPATH, and Python runs that file before the program. It takes its
folder out of `sys.path`, arranges the installation and lets the `sitecustomize` that it hides, if there
is one, have its turn. PYTHONPATH itself keeps the folder, so that the Pythons that the program starts
(a server's workers and reloader, `multiprocessing`'s spawned children) run on ropewalk as well; where
ropewalk cannot be imported, the file does nothing.

What it cannot do: a Python that is told to read no environment or to load no `site` (`-I`, `-E`, `-S`)
never sees that file. It is refused, rather than run on another loop than the one that was asked for.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Sequence

STARTUP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "startup")

# In the environment of the program that is being started: the id of its process. The startup file
# takes it out again, so that it means the program itself and none of its children.
MARK = "ROPEWALK_RUN"

USAGE = "usage: ropewalk run [PYTHON OPTION ...] (SCRIPT | -m MODULE | -c CODE | -) [ARG ...]"

HELP = f"""{USAGE}

Run a program as python does, with ropewalk in place before its first line.

  SCRIPT        a file, or a folder or zip file that holds a __main__.py
  -m MODULE     a module or package, found as python -m finds it
  -c CODE       the code itself
  -             the program is read from standard input
  ARG ...       what follows the program is the program's, whatever it looks like

A PYTHON OPTION is any option of python itself (-X dev, -W error, -u, -O, ...) but -E, -I and -S, under which
nothing can be put in place before the program. Those of the Python that runs this command are kept:
"python -X dev -m ropewalk run SCRIPT" is "python -X dev SCRIPT" on ropewalk.
"""


def main(argv: Sequence[str]) -> int:
    """Become a Python that runs `argv`, the words after `ropewalk run`.

    Comes back only if there is nothing to become; the result is the exit status then.
    """
    letters, program = _split(argv)[1:]
    if "h" in letters or "?" in letters or program[:1] == ["--help"]:
        sys.stdout.write(HELP)
        return 0
    if program in ([], ["--"]) and "V" not in letters:
        return _refuse("there is no program to run", 'name a script or a module; "-" reads standard input', USAGE)
    for letter, given in (
        ("I", sys.flags.isolated),
        ("E", sys.flags.ignore_environment),
        ("S", sys.flags.no_site),
    ):
        if given or letter in letters:
            return _refuse(
                f"under Python's option -{letter} nothing can be put in place before the program",
                f"leave -{letter} out, or call ropewalk.install() at the top of the program",
            )
    if not sys.executable:
        return _refuse(
            "this Python does not know its own executable (sys.executable is empty)",
            "start it by its full path, or call ropewalk.install() at the top of the program",
        )
    if os.pathsep in STARTUP:
        return _refuse(
            f"ropewalk's folder cannot be named in PYTHONPATH, which {os.pathsep!r} separates: {STARTUP}",
            "install it elsewhere, or call ropewalk.install() at the top of the program",
        )
    own_options = _split(sys.orig_argv[1:])[0]
    try:
        os.execve(sys.executable, [sys.executable, *own_options, *argv], _environment())
    except OSError as error:
        return _refuse(f"cannot start {sys.executable}: {error.strerror}", "check that this Python is still there")


def _refuse(what: str, hint: str, usage: str = "") -> int:
    """Say why not and what to do instead. The status is 2, as for every wrong use of a command."""
    lines = [usage, f"ropewalk run: error: {what}", f"hint: {hint}"]
    sys.stderr.write("\n".join(filter(None, lines)) + "\n")
    return 2


def _split(argv: Sequence[str]) -> tuple[list[str], str, list[str]]:
    """Read `python`'s command line as `python` does: its options, their letters, and the rest.

    The rest begins with the program, or with a long option that Python answers by itself (--version).
    """
    options: list[str] = []
    letters = ""
    at = 0
    while at < len(argv):
        word = argv[at]
        width = 1
        if word == "--check-hash-based-pycs":
            width = 2
        elif word == "-" or not word.startswith("-") or word.startswith("--"):
            break
        else:
            for place, letter in enumerate(word[1:], 1):
                if letter in "cm":  # these end the options; others may stand before them in the word
                    if place > 1:
                        options.append(word[:place])
                    return options, letters, ["-" + word[place:], *argv[at + 1 :]]
                letters += letter
                if letter in "WX":  # the value is what is left of the word, or the next word
                    width = 2 if place == len(word) - 1 else 1
                    break
        options += argv[at : at + width]
        at += width
    return options, letters, list(argv[at:])


def _environment() -> dict[str, str]:
    """The environment that makes a Python run our startup file, and is the user's otherwise."""
    environment = dict(os.environ)
    given = environment.get("PYTHONPATH")
    # Nothing is not an empty entry, which would mean the current folder.
    others = [path for path in given.split(os.pathsep) if path != STARTUP] if given else []
    environment["PYTHONPATH"] = os.pathsep.join([STARTUP, *others])
    environment[MARK] = str(os.getpid())
    if "LC_CTYPE" in environment:
        _undo_locale_coercion(environment)
    return environment


def _undo_locale_coercion(environment: dict[str, str]) -> None:
    """Put LC_CTYPE back to what it was before this Python started.

    In the "C" locale Python sets LC_CTYPE for itself and its children, and turns its UTF-8 mode on. The
    next Python would see only the former and come up without the latter.
    """
    try:
        with open("/proc/self/environ", "rb") as file:  # as it was at the start
            entries = file.read().split(b"\0")
    except OSError:
        return  # not Linux: the encodings are the same either way, only sys.flags.utf8_mode is not
    given = [entry[9:] for entry in entries if entry.startswith(b"LC_CTYPE=")]
    if given:
        environment["LC_CTYPE"] = os.fsdecode(given[0])
    else:
        del environment["LC_CTYPE"]
