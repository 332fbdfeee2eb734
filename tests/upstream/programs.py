"""Real programs, unmodified, under plain Python and under `ropewalk run`: the same output, the same ending.

The programs and check.py, which holds one run against the other, are kept beside the judges.
"""

import re
import subprocess
import sys
import sysconfig

import judges

# gevent has no wheel for free-threaded Pythons, so plain Python cannot run its program there either.
NEEDS_GEVENT = {"s3_numbers_gevent"}


def main() -> int:
    given = judges.options(__doc__).parse_args()
    found = judges.folder()
    check = found.parent / "programs" / "check.py" if found else None
    if not check or not check.exists():
        return judges.absent(given, "no programs/check.py beside the judges (see tests/upstream/README.md)")
    names: list[str] = []
    note = ""
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        names = sorted({path.stem for path in check.parent.glob("s[0-9]_*.py")} - NEEDS_GEVENT)
        note = "without gevent's, which this Python has no wheel of"
    child = subprocess.Popen(
        [sys.executable, check, "--python", sys.executable, *names], stdout=subprocess.PIPE, text=True
    )
    assert child.stdout
    said = ""
    for line in child.stdout:
        print(line, end="", flush=True)
        said += line
    code = child.wait()
    sums = re.search(r"^(\d+) passed, (\d+) failed$", said, re.MULTILINE)
    passed, failed = map(int, sums.groups()) if sums else (0, 0)
    if code and not failed:
        failed = 1
    return judges.report(given, passed, failed, 0, note)


if __name__ == "__main__":
    sys.exit(main())
