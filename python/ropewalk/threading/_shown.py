"""What the primitives' texts begin with."""


def shown(primitive: object) -> str:
    """The class and the address, as the standard library shows them.

    A class of ours is shown under the standard library's module: what programs and tests expect to read does not
    depend on who implements it.
    """
    kind = type(primitive)
    module = kind.__module__.removeprefix("ropewalk.")
    return f"{module}.{kind.__qualname__} at {id(primitive):#x}"
