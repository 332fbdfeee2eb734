"""Download pages with requests, in a pool of threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import requests
from measured import measured, pages

local = threading.local()


def download(url: str) -> int:
    if not hasattr(local, "session"):
        local.session = requests.Session()
    return len(local.session.get(url).content)


with measured() as said, ThreadPoolExecutor(32) as pool:
    said["sizes"] = list(pool.map(download, pages(600)))
    said["on"] = f"{type(pool).__module__}.{type(pool).__qualname__}"
