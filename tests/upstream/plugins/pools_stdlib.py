"""What the judge of thread pools is to test: the standard library's."""

from concurrent.futures import Future, ThreadPoolExecutor

__all__ = ["Future", "ThreadPoolExecutor"]
