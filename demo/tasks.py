"""Download pages with aiohttp, in tasks of one event loop."""

import asyncio

import aiohttp
from measured import measured, pages


async def download(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        return len(await response.read())


async def main() -> tuple[list[int], str]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=400)) as session:
        sizes = await asyncio.gather(*(download(session, url) for url in pages(2000)))
        loop = type(asyncio.get_running_loop())
        return sizes, f"{loop.__module__}.{loop.__name__}"


with measured() as said:
    said["sizes"], said["on"] = asyncio.run(main())
