"""One of CPython's own test modules, as it is: with ropewalk installed before anything of it is imported, or without.

WHOLE_MODULE names it, WHOLE_CLASSES is a pattern of the test classes that are wanted, WHOLE_ON is "ropewalk" or not.
The judge finds the classes here.
"""

import importlib
import os
import re
import unittest

if os.environ["WHOLE_ON"] == "ropewalk":
    import ropewalk

    ropewalk.install()

_module = importlib.import_module(os.environ["WHOLE_MODULE"])
_wanted = re.compile(os.environ["WHOLE_CLASSES"])
for _name, _value in vars(_module).items():
    if isinstance(_value, type) and issubclass(_value, unittest.TestCase) and _value.__module__ != "unittest.case":
        if _wanted.search(_name):
            globals()[_name] = _value
    elif _name in ("setUpModule", "tearDownModule"):
        globals()[_name] = _value
