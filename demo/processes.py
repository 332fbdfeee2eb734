"""Download pages with requests, in a pool of processes."""

from concurrent.futures import ProcessPoolExecutor

import requests
from measured import measured, pages

session = requests.Session()


def download(url: str) -> int:
    return len(session.get(url).content)


if __name__ == "__main__":
    with measured() as said, ProcessPoolExecutor(8) as pool:
        said["sizes"] = list(pool.map(download, pages(240)))
