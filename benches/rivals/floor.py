"""Builds the floor crate (the epoll server and the load client), and says how to run it.

The programs run on the libraries of the interpreter under test, its libc and its OpenSSL, so that
floor and loops differ in nothing but what lies above these.
"""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

CRATE = Path(__file__).resolve().parent / "floor"
REPOSITORY = CRATE.parents[2]

# The column of the server without Python.
FLOOR = "floor"

# Which files the interpreter has mapped; some interpreters bring their own.
LIBRARIES = """
import json, ssl
print(json.dumps(sorted({line.split()[-1] for line in open("/proc/self/maps") if "/" in line})))
"""


@dataclass(frozen=True)
class Programs:
    """The two programs, and the libraries to run them on."""

    directory: Path
    # The dynamic loader and its arguments.
    loader: tuple[str, ...]
    # libcrypto and libssl, with a comma between.
    openssl: str

    def command(self, program: str) -> list[str]:
        return [*self.loader, str(self.directory / program)]


def build() -> Path:
    """The directory with the two programs, built if they are not there or are stale."""
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target-floor").resolve()
    subprocess.run(
        ["cargo", "build", "--release", "--quiet", "--manifest-path", str(CRATE / "Cargo.toml")],
        env=os.environ | {"CARGO_TARGET_DIR": str(target)},
        check=True,
    )
    return target / "release"


def programs(python: str) -> Programs:
    """The programs, ready to run beside this interpreter."""
    mapped = [Path(path) for path in json.loads(subprocess.check_output([python, "-c", LIBRARIES]))]

    def find(prefix: str) -> Path | None:
        return next((path for path in mapped if path.name.startswith(prefix)), None)

    loader, libc = find("ld-linux"), find("libc.so")
    # An interpreter with OpenSSL built in leaves these to the system.
    crypto = find("libcrypto.so") or "libcrypto.so.3"
    ssl = find("libssl.so") or "libssl.so.3"
    return Programs(
        directory=build(),
        loader=(str(loader), "--library-path", str(libc.parent)) if loader and libc else (),
        openssl=f"{crypto},{ssl}",
    )
