"""Prints what a program can see of how it was started, for comparison."""

import json
import os
import signal
import sys

main = sys.modules["__main__"]
spec = main.__spec__
print(
    json.dumps(
        {
            "argv": sys.argv,
            "path": sys.path,
            "flags": str(sys.flags),
            "warnoptions": sys.warnoptions,
            "xoptions": str(sys._xoptions),
            "executable": [sys.executable, sys.prefix, sys.base_prefix, sys.exec_prefix],
            "importers": sorted(sys.path_importer_cache),
            "hooks": len(sys.path_hooks),
            "modules": sorted(sys.modules),
            "meta_path": [getattr(finder, "__name__", type(finder).__name__) for finder in sys.meta_path],
            "main": {
                "names": sorted(vars(main)),
                "name": __name__,
                "file": str(main.__dict__.get("__file__")),
                "package": str(main.__dict__.get("__package__")),
                "loader": str(type(main.__loader__)),
                "spec": spec and [spec.name, str(spec.origin), spec.parent, str(type(spec.loader))],
                "is": main.__dict__ is globals(),
            },
            "streams": [
                [stream.name, stream.encoding, stream.errors, stream.line_buffering, stream.write_through]
                for stream in (sys.stdin, sys.stdout, sys.stderr)
            ],
            "signals": [str(signal.getsignal(number)) for number in sorted(signal.valid_signals())],
            "cwd": os.getcwd(),
            "PYTHONPATH": os.environ.get("PYTHONPATH"),
            "environ": sorted(item for item in os.environ.items() if item[0] != "PYTHONPATH"),
        }
    )
)
