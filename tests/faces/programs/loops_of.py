"""loops_of.py PROGRAM: runs a program as it is and says at the end, on stderr, whose event loops it was given."""

import asyncio
import runpy
import sys
import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    policy = asyncio.get_event_loop_policy()  # asyncio.run, Runner, new_event_loop and get_event_loop end there
original = policy.new_event_loop
given = []


def new_event_loop():
    loop = original()
    given.append(type(loop).__module__)
    return loop


policy.new_event_loop = new_event_loop
try:
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print("loops:", *given, file=sys.stderr)
