"""Sends objects of __main__ through children of multiprocessing; says what came back, and on which loop."""

import asyncio
import multiprocessing
import sys
from dataclasses import dataclass


@dataclass
class Parcel:
    number: int


async def loop_name():
    return type(asyncio.get_running_loop()).__module__


def work(parcel):
    return Parcel(parcel.number * 2), __name__, sys.argv[1:], asyncio.run(loop_name())


if __name__ == "__main__":
    with multiprocessing.get_context(sys.argv[1]).Pool(2) as pool:
        results = pool.map(work, [Parcel(number) for number in range(4)])
    print([result[:3] for result in results])
    print(*{result[3] for result in results})
