"""Puts a face's names where the standard library's stand, and takes them out again.

Each face knows what it replaces: its table. How a name is replaced, how that is undone and how it is told is the same
for all of them, and is here. Nothing is imported that a program of threads would not have.

A module that was imported a moment ago, and that nobody has used yet, gets the face's own classes. Anywhere else there
are objects already, made by the original class, and other modules hold the original by its name: a program must be told
that they are of the class, whichever of the two it asks. So there a class is replaced by a *stand-in*: the face's
class, with another answer to ``isinstance`` and ``issubclass``. It carries the original's name, so that what was
pickled by that name is found by it, with ropewalk or without.

What this cannot do: reach the names that were imported before (``from threading import Event``), which keep meaning
the original; and stand in for a class from which none may be derived, as the lock's.
"""

from __future__ import annotations

import sys
import types
from _thread import allocate_lock  # `threading` is itself replaced
from abc import ABCMeta

TYPE_CHECKING = False  # type checkers know the name; `typing` would cost more than all that is here
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    Table = Mapping[str, Mapping[str, Any]]
    """Where (a module, or a class in it as ``module:Class``), which name, and what is to stand there."""

_ABSENT: Any = type("Absent", (), {"__repr__": lambda self: "<nothing>"})()
# What a module has in the place of a name that it imports on demand (from Python 3.15 on, PEP 810).
_Lazy: Any = getattr(types, "LazyImportType", type(_ABSENT))
_METHODS = (types.FunctionType, types.MethodDescriptorType, types.WrapperDescriptorType)
_lock = allocate_lock()
_standing: list[Replacement] = []
_stand_ins: dict[type, StandIn] = {}


class Replacement:
    """One name of the standard library, and what of ropewalk's stands in its place."""

    __slots__ = ("_name", "_owner", "original", "ours", "place", "system")

    system: str
    """The system that it belongs to, as :func:`ropewalk.install` calls it: ``"threading"``."""
    place: str
    """The name that was replaced, in full: ``"threading.Event"``."""
    original: Any
    """What stood there before."""
    ours: Any
    """What stands there now."""

    def __init__(self, system: str, owner: Any, name: str, ours: Any) -> None:
        self.system = system
        self.place = f"{_full_name(owner)}.{name}"
        self.original = vars(owner).get(name, _ABSENT)
        self.ours = ours
        self._owner = owner
        self._name = name

    def _stands(self) -> bool:
        """Whether it is there, and nobody else has replaced the name since."""
        found = vars(self._owner).get(self._name, _ABSENT)
        # What the module takes from another one on demand may be the stand-in that was made meanwhile.
        return found is self.ours or found is _stand_ins.get(self.ours, self.ours)

    def _undo(self) -> None:
        if not self._stands():
            return
        if self.original is _ABSENT:
            delattr(self._owner, self._name)  # the module gives it on demand
        else:
            setattr(self._owner, self._name, self.original)

    def __str__(self) -> str:
        source = self.ours.__bases__[0] if isinstance(self.ours, StandIn) else self.ours
        name = _full_name(getattr(source, "__func__", source))
        if not name.startswith("ropewalk."):  # a lock, which says that it is of `_thread`
            name = f"ropewalk.{self.system.rpartition('.')[2]}.{self._name}"
        return f"{self.place}: {name}"

    def __repr__(self) -> str:
        return f"<Replacement {self}>"


class StandIn(ABCMeta):
    """The metaclass of stand-ins: an instance of either class is an instance of this one.

    Not of ``type`` alone, so that a program may derive a class from a stand-in and from an abstract class at once.
    """

    def __instancecheck__(cls, instance: object) -> bool:
        # A class that a program derived from a stand-in speaks for itself alone.
        return super().__instancecheck__(instance) or isinstance(instance, cls.__dict__.get("_stands_for", ()))

    def __subclasscheck__(cls, subclass: type) -> bool:
        return super().__subclasscheck__(subclass) or issubclass(subclass, cls.__dict__.get("_stands_for", ()))

    def __getattribute__(cls, name: str) -> Any:
        # A class that was derived from the original may call its base by the name that we have taken:
        # `queue.Queue.__init__(self)`. Only for what is asked of the class: objects do not come by here.
        found = super().__getattribute__(name)
        if isinstance(found, _METHODS):
            pair = super().__getattribute__("__dict__").get("_stands_for", ())
            theirs = getattr(pair[1], name, found) if len(pair) == 2 else found
            if theirs is not found:
                return _Either(pair[0], found, theirs)
        return found


class _Either:
    """A method that does as `ours` for instances of `cls`, and as `theirs` for others."""

    def __init__(self, cls: type, ours: Any, theirs: Any) -> None:
        self.__name__, self.__qualname__, self.__doc__ = ours.__name__, ours.__qualname__, ours.__doc__
        self.__wrapped__ = ours  # for inspect.signature
        self._cls, self._theirs = cls, theirs

    def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
        method = self.__wrapped__ if args and isinstance(args[0], self._cls) else self._theirs
        return method(*args, **kwargs)


def stand_in(ours: type, original: type) -> StandIn:
    """The class that stands in for `original`: one for each class of ours, however often it is asked for."""
    if ours not in _stand_ins:
        body = {
            "__doc__": ours.__doc__,
            "__module__": original.__module__,
            "__qualname__": original.__qualname__,
            "__slots__": (),
            "_stands_for": (ours, original),
        }
        _stand_ins[ours] = StandIn(original.__name__, (ours,), body)
    return _stand_ins[ours]


def put(system: str, table: Table, *, fresh: bool = False) -> None:
    """Put in place what the table names, as far as its modules are imported. Again is no error; thread-safe.

    With `fresh`, those modules were imported just now, and nobody has a class or an object of theirs. A name that
    its module does not have (yet) is not made; but if the module takes it from another one of the table on demand,
    it will be taken out there too.
    """
    with _lock:
        for where, names in table.items():
            owner = _find(where)
            for name, ours in names.items() if owner is not None else ():
                original = vars(owner).get(name, _ABSENT)
                if any(one._owner is owner and one._name == name and one._stands() for one in _standing):
                    continue
                if ours is original:
                    continue
                if not fresh and isinstance(original, type) and _may_be_derived_from(ours):
                    ours = stand_in(ours, original)
                _standing.append(Replacement(system, owner, name, ours))
                if not isinstance(original, (type(_ABSENT), _Lazy)):
                    setattr(owner, name, ours)


def take_out(system: str) -> None:
    """Undo what `put` did for a system, but for what somebody else has replaced since. Thread-safe."""
    with _lock:
        for one in reversed([one for one in _standing if one.system == system]):
            one._undo()
            _standing.remove(one)


def standing() -> list[Replacement]:
    """What stands in the standard library's place at this moment, in the order in which it was put there."""
    with _lock:
        return [one for one in _standing if one._stands()]


def _may_be_derived_from(ours: Any) -> bool:
    """Whether a stand-in can be made of it: a class that is none yet, and not a final one, as locks are."""
    return type(ours) is type and bool(ours.__flags__ & 1 << 10)  # Py_TPFLAGS_BASETYPE


def _find(where: str) -> Any:
    """The module, or the class in it, if that module is imported."""
    module, _, name = where.partition(":")
    found = sys.modules.get(module)
    return getattr(found, name, None) if name and found is not None else found


def _full_name(thing: Any) -> str:
    """How a module, a class or a function is called."""
    module, name = getattr(thing, "__module__", None), getattr(thing, "__qualname__", thing.__name__)
    return f"{module}.{name}" if module else name
