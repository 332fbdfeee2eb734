"""Puts ropewalk in place before a program's first line; run by `site` at the start of every Python that
has this folder in PYTHONPATH, which `ropewalk run` sees to.

That may be any Python: the program's own, a child of it, a child in another virtual environment or of
another version. So the syntax here is that of every Python, and where ropewalk cannot be imported nothing
happens and nothing is said. Only in the program itself is that an error: the user asked for ropewalk.

It leaves as little behind as it can: no entry in `sys.path`, no module, and the `sitecustomize` that it
hides is run as if this one were not there.
"""

import os
import sys

folder = os.path.dirname(os.path.abspath(__file__))
sys.path[:] = [entry for entry in sys.path if entry != folder]
sys.path_importer_cache.pop(folder, None)

# Taken out at once: neither a child nor a sub-interpreter, which shares the process id, is the program.
is_program = os.environ.pop("ROPEWALK_RUN", "") == str(os.getpid())

try:
    if sys.version_info < (3, 11):
        raise ImportError("ropewalk needs Python 3.11 or newer")
    from ropewalk.launch._lazy import install

    install(is_program)
except (ImportError, SyntaxError) as error:
    if is_program:
        sys.stderr.write(
            "ropewalk run: error: %s cannot import ropewalk: %s\n"
            "hint: install ropewalk for this Python, or name the folder that holds it in PYTHONPATH\n"
            % (sys.executable, error)
        )
        sys.stderr.flush()
        os._exit(1)  # an exception would be printed by site, and the program would run all the same

# If there is none, the ImportError tells site so, which takes it as usual and forgets this module.
del sys.modules["sitecustomize"]
__import__("sitecustomize")
