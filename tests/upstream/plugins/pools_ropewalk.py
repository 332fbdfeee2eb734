"""What the judge of thread pools is to test: ours."""

from ropewalk.futures import Future, ThreadPoolExecutor

__all__ = ["Future", "ThreadPoolExecutor"]
