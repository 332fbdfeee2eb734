"""``EventLoop``: asyncio's event loop with its hot half in Rust.

It has two bases. ``_core.Loop`` schedules, sleeps, follows descriptors and children, accepts connections and
moves the bytes of stream sockets. ``asyncio.SelectorEventLoop`` keeps what is cold and subtle: how
``create_connection`` tries addresses, what ``create_server`` accepts, how asynchronous generators are shut
down. CPython's own code for that is right by definition, on every version, and a test-suite of 2,000 tests
holds the seam between the two.

This file fills the seam: the private methods by which ``BaseEventLoop`` reaches its selector, its queue and
its transports.
"""

from __future__ import annotations

import asyncio
import asyncio.base_events
import asyncio.constants
import asyncio.events
import asyncio.format_helpers
import asyncio.selector_events
import asyncio.trsock
import asyncio.unix_events
import concurrent.futures.thread
import errno
import os
import selectors
import signal
import sys
import threading
import warnings
import weakref
from asyncio.log import logger
from typing import Any

from ropewalk import _core
from ropewalk._pool import ThreadPoolExecutor
from ropewalk.asyncio import _streams  # noqa: F401  # tells the core the stream classes
from ropewalk.asyncio._connect import ConnectMethods
from ropewalk.asyncio._datagram import DatagramTransport
from ropewalk.asyncio._names import NameMethods
from ropewalk.asyncio._pipes import WritePipeTransport
from ropewalk.asyncio._sock import SocketMethods
from ropewalk.asyncio._tls import TLSProtocol, factory_of_accepted, start_tls
from ropewalk.asyncio._transport import SocketTransport

_Base: Any = asyncio.SelectorEventLoop
_OUT_OF_RESOURCES = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)

# So many numbers of signals any self-pipe holds.
_FEW_SIGNALS = 16

# The loop whose self-pipe is the process's wake-up descriptor for signals.
_woken_by_signals: weakref.ref[EventLoop] | None = None


class _Selector:
    """What asyncio's inherited code asks of a selector: whether a descriptor is watched, for ``repr``."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop = weakref.ref(loop)

    def get_key(self, fileobj: Any) -> selectors.SelectorKey:
        loop = self._loop()
        fd = fileobj if isinstance(fileobj, int) else fileobj.fileno()
        reads, writes = loop._watched(fd) if loop is not None and not loop.is_closed() else (False, False)
        if not reads and not writes:
            raise KeyError(f"{fileobj!r} is not registered")
        events = selectors.EVENT_READ * reads | selectors.EVENT_WRITE * writes
        return selectors.SelectorKey(fileobj, fd, events, None)

    def close(self) -> None:
        """Nothing to close: the descriptors are the reactor's."""


class _Ready:
    """The ready queue as asyncio's inherited code appends to it."""

    def __init__(self, loop: EventLoop) -> None:
        self._loop: Any = weakref.proxy(loop)

    def append(self, handle: asyncio.Handle) -> None:
        self._loop._enqueue(handle)

    def __len__(self) -> int:
        count: int = self._loop._ready_count()
        return count

    def clear(self) -> None:
        """Nothing to clear: ``_core.Loop._close`` empties the queue."""


class EventLoop(_core.Loop, SocketMethods, NameMethods, ConnectMethods, _Base):  # type: ignore[misc]
    """An asyncio event loop on the Rust reactor.

    Everything that https://docs.python.org/3/library/asyncio-eventloop.html says of an event loop on Unix
    holds for it. As there, only ``call_soon_threadsafe`` may be called from another thread (and, beyond it,
    a handle's ``cancel``).
    """

    def __init__(self) -> None:
        try:
            super().__init__(_Selector(self))
        except BaseException:
            # No descriptor left for the self-pipe: what there is of the loop is closed, so that nobody
            # tries to close the rest.
            self._close()
            self._closed = True
            raise
        self._ready = _Ready(self)
        self._noted_signals: set[int] = set()
        self._numbers_read = 0

    # Running -----------------------------------------------------------------------------------------------

    def run_forever(self) -> None:
        """Run until ``stop()`` is called."""
        self._run_forever_setup()
        try:
            mine = self._wake_up_by_signals()
            try:
                self._run()
            finally:
                if mine and not self._signal_handlers:
                    self._leave_signals()
        finally:
            self._run_forever_cleanup()

    if not hasattr(_Base, "_run_forever_setup"):  # before Python 3.13

        def _run_forever_setup(self) -> None:
            self._check_closed()
            self._check_running()
            self._set_coroutine_origin_tracking(self._debug)
            self._old_agen_hooks = sys.get_asyncgen_hooks()
            self._thread_id: int | None = threading.get_ident()
            sys.set_asyncgen_hooks(firstiter=self._asyncgen_firstiter_hook, finalizer=self._asyncgen_finalizer_hook)
            asyncio.events._set_running_loop(self)

        def _run_forever_cleanup(self) -> None:
            self._thread_id = None
            asyncio.events._set_running_loop(None)
            self._set_coroutine_origin_tracking(False)
            sys.set_asyncgen_hooks(*self._old_agen_hooks)

    def _after_fork(self) -> None:
        """In a forked child that came back to this loop and runs on.

        It needs a self-pipe of its own, for the old one is the parent's, too. And it is running again: asyncio
        forgets the running loop in every forked child, so that one may begin with ``asyncio.run``.
        """
        asyncio.events._set_running_loop(self)
        self._close_self_pipe()
        self._make_self_pipe()
        self._wake_up_by_signals()

    def close(self) -> None:
        """Close the event loop, which must not be running. What is pending is dropped. Again is no error."""
        super().close()
        self._close()

    def set_debug(self, enabled: bool) -> None:
        """Set the debug mode of the event loop."""
        self._set_debug(bool(enabled))
        super().set_debug(enabled)

    def set_task_factory(self, factory: Any) -> None:
        """Set a task factory that ``create_task`` uses; ``None`` is the default, ``asyncio.Task``."""
        super().set_task_factory(factory)
        self._set_makes_own_tasks(factory is not None)

    # Callbacks: the plain forms, for debug mode and unusual arguments -----------------------------------------

    _plain_call_soon = _Base.call_soon
    _plain_call_soon_threadsafe = _Base.call_soon_threadsafe
    _plain_call_later = _Base.call_later
    _plain_create_task = _Base.create_task

    def _plain_call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> asyncio.TimerHandle:
        if when is None:
            raise TypeError("when cannot be None")
        self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        if timer._source_traceback:  # type: ignore[attr-defined]
            del timer._source_traceback[-1]  # type: ignore[attr-defined]
        self._enqueue_at(when, timer)
        timer._scheduled = True  # type: ignore[attr-defined]
        return timer

    _plain_call_at.__name__ = "call_at"  # as errors name it
    _plain_call_at.__qualname__ = "EventLoop.call_at"

    def _run_handle(self, handle: Any) -> None:
        """Run a handle by its own method; in debug mode say so if it took long."""
        try:
            if handle._cancelled:
                return
            if not self._debug:
                handle._run()
                return
            self._current_handle = handle
            began = self.time()
            handle._run()
            took = self.time() - began
            if took >= self.slow_callback_duration:
                name = asyncio.base_events._format_handle(handle)  # type: ignore[attr-defined]
                logger.warning("Executing %s took %.3f seconds", name, took)
        finally:
            self._current_handle = None
            # An exception that a task keeps has this frame in its traceback: the handle, which has the task,
            # would keep all of them alive.
            handle = None

    def _callback_failed(self, handle: Any, error: BaseException) -> None:
        callback = asyncio.format_helpers._format_callback_source(handle._callback, handle._args or ())
        message = f"Exception in callback {callback}"
        self.call_exception_handler({"message": message, "exception": error, "handle": handle})

    # Executors ---------------------------------------------------------------------------------------------

    _default_executor: Any

    def _make_default_executor(self) -> Any:
        """The default executor, made at the first call that needs it; raises once it was shut down."""
        self._check_default_executor()
        if self._default_executor is None:
            # Who has put another class in the place of the standard library's wants that one.
            chosen: Any = concurrent.futures.ThreadPoolExecutor
            if chosen is concurrent.futures.thread.ThreadPoolExecutor:
                chosen = ThreadPoolExecutor
            self._default_executor = chosen(thread_name_prefix="asyncio")
        return self._default_executor

    def _plain_run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:
        if executor is None:
            self._check_closed()
            if self._debug:
                self._check_callback(func, "run_in_executor")
            self._make_default_executor()
        return _Base.run_in_executor(self, executor, func, *args)

    _plain_run_in_executor.__name__ = "run_in_executor"  # as errors name it
    _plain_run_in_executor.__qualname__ = "EventLoop.run_in_executor"

    # Signals -----------------------------------------------------------------------------------------------

    # The process's wake-up descriptor is the loop's self-pipe: each signal writes its number into it. The pipe
    # holds a few hundred; what a storm sends beyond that is lost, and Python warns on stderr. Here it does not
    # warn, and a handler of Python's own, which no storm can lose, notes each signal as well. What is noted when
    # a storm has passed and the pipe is empty has lost its number, and is heard then.

    def _wake_up_by_signals(self) -> bool:
        """Let a signal end the reactor's sleep, even one that arrives just before it begins.

        Only the main thread handles signals. A wake-up descriptor that somebody else has set stays theirs.
        """
        global _woken_by_signals
        if threading.current_thread() is not threading.main_thread():
            return False
        ours = self._csock.fileno()
        theirs = signal.set_wakeup_fd(ours, warn_on_full_buffer=False)
        if theirs not in (-1, ours):
            signal.set_wakeup_fd(theirs)
            return False
        _woken_by_signals = weakref.ref(self)
        return True

    def _leave_signals(self) -> None:
        global _woken_by_signals
        _woken_by_signals = None
        theirs = signal.set_wakeup_fd(-1)
        if theirs not in (-1, self._csock.fileno()):  # set while we ran
            signal.set_wakeup_fd(theirs)

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:
        """Call ``callback(*args)`` in the event loop when the process receives the signal ``sig``.

        Only the main thread can do so. Raises ValueError if there is no such signal or nobody can catch it, and
        RuntimeError if a handler cannot be set. No signal goes unheard: of many that arrive while the loop is
        busy, the handler runs at least once after the last.
        """
        global _woken_by_signals
        super().add_signal_handler(sig, callback, *args)
        # By way of asyncio's module, for who replaces its name there.
        signals = asyncio.unix_events.signal  # type: ignore[attr-defined]
        signals.set_wakeup_fd(self._csock.fileno(), warn_on_full_buffer=False)
        signals.signal(sig, _note_signal)
        signals.siginterrupt(sig, False)
        _woken_by_signals = weakref.ref(self)

    def remove_signal_handler(self, sig: int) -> bool:
        """Give the signal its default handler back. Return whether there was one of the loop's."""
        removed: bool = super().remove_signal_handler(sig)
        if removed and not self._signal_handlers and self.is_running():
            self._wake_up_by_signals()  # the run's own, which the last handler took with it
        return removed

    def _process_self_data(self, data: bytes) -> None:
        self._numbers_read += len(data)
        try:
            # A signal is marked before its number is written, so Python's handlers of those in `data` run now
            # if they have not yet. What they noted of these signals is in `data`.
            self._check_signals()
        finally:
            self._noted_signals.difference_update(data)
            super()._process_self_data(data)

    def _read_from_self(self) -> None:
        self._numbers_read = 0
        super()._read_from_self()
        if self._numbers_read < _FEW_SIGNALS:
            return
        # A number that found the pipe full did so before it was empty, and its signal was marked before that.
        self._check_signals()
        super()._read_from_self()  # those of the meantime have theirs
        while self._noted_signals:
            self._handle_signal(self._noted_signals.pop())

    # Stream sockets ----------------------------------------------------------------------------------------

    def _ensure_fd_no_transport(self, fd: Any) -> None:
        super()._ensure_fd_no_transport(fd)
        number = fd if isinstance(fd, int) else fd.fileno()
        if number >= 0 and not self.is_closed() and self._is_attached(number):
            raise RuntimeError(f"File descriptor {fd!r} is used by a transport")

    def _make_socket_transport(
        self,
        sock: Any,
        protocol: Any,
        waiter: Any = None,
        *,
        extra: Any = None,
        server: Any = None,
        context: Any = None,
    ) -> SocketTransport:
        self._ensure_fd_no_transport(sock)
        transport: SocketTransport = self._make_transport(
            SocketTransport, sock, protocol, waiter, extra, server, context
        )
        return transport

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: float | None = asyncio.constants.SSL_HANDSHAKE_TIMEOUT,
        ssl_shutdown_timeout: float | None = asyncio.constants.SSL_SHUTDOWN_TIMEOUT,
        context: Any = None,
    ) -> Any:
        ssl_protocol = TLSProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        self._make_socket_transport(rawsock, ssl_protocol, extra=extra, server=server, context=context)
        return ssl_protocol._app_transport

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        *rest: Any,
        context: Any = None,
        **timeouts: Any,
    ) -> None:
        if len(rest) == 3:  # the context by position
            *rest, context = rest  # type: ignore[assignment]
        timeouts.update(zip(("ssl_handshake_timeout", "ssl_shutdown_timeout"), rest, strict=False))
        if sslcontext is not None:
            protocol_factory = factory_of_accepted(self, protocol_factory, sslcontext, timeouts)
        self._listen(SocketTransport, sock, protocol_factory, server, backlog, context)

    start_tls = start_tls

    def _accept_failed(self, error: OSError, sock: Any, factory: Any, server: Any, backlog: int, context: Any) -> None:
        """Stop accepting for a while: out of descriptors or memory, a listening socket stays ready."""
        if error.errno not in _OUT_OF_RESOURCES:
            raise error
        self.call_exception_handler(
            {
                "message": "socket.accept() out of system resource",
                "exception": error,
                "socket": asyncio.trsock.TransportSocket(sock),
            }
        )
        self._remove_reader(sock)

        def again() -> None:
            if sock.fileno() >= 0:  # else the server was closed meanwhile
                self._listen(SocketTransport, sock, factory, server, backlog, context)

        self.call_later(asyncio.constants.ACCEPT_RETRY_DELAY, again)

    async def _sendfile_native(self, transp: Any, file: Any, offset: int, count: int | None) -> int:
        if not isinstance(transp, SocketTransport):
            return await super()._sendfile_native(transp, file, offset, count)  # type: ignore[no-any-return]
        reading = transp.is_reading()
        transp.pause_reading()
        await transp._make_empty_waiter()
        transp._suspend()
        try:
            sent: int = await self.sock_sendfile(transp._sock, file, offset, count, fallback=False)
            return sent
        finally:
            transp._reset_empty_waiter()
            transp._resume()
            if reading:
                transp.resume_reading()

    def _log_transport_error(self, transport: Any, message: str, error: BaseException) -> None:
        logger.debug("%r: %s", transport, message, exc_info=error)

    # Datagrams -------------------------------------------------------------------------------------

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> Any:
        self._ensure_fd_no_transport(sock)
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    # Pipes ---------------------------------------------------------------------------------------------------

    def _make_write_pipe_transport(self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None) -> Any:
        return WritePipeTransport(self, pipe, protocol, waiter, extra)

    # Child processes ---------------------------------------------------------------------------------------

    async def _make_subprocess_transport(
        self,
        protocol: Any,
        args: Any,
        shell: bool,
        stdin: Any,
        stdout: Any,
        stderr: Any,
        bufsize: int,
        extra: Any = None,
        **kwargs: Any,
    ) -> Any:
        if sys.version_info < (3, 14) and not _watcher_is_ours_to_replace():
            return await super()._make_subprocess_transport(
                protocol, args, shell, stdin, stdout, stderr, bufsize, extra, **kwargs
            )
        waiter = self.create_future()
        transport = asyncio.unix_events._UnixSubprocessTransport(  # type: ignore[attr-defined]
            self,
            protocol,
            args,
            shell,
            stdin,
            stdout,
            stderr,
            bufsize,
            waiter=waiter,
            extra=extra,
            **kwargs,
        )
        pid = transport.get_pid()
        try:
            self._watch_child(pid, self._reap, pid, transport)
        except OSError as error:
            # No pidfd to be had (an old kernel, a strict sandbox, no descriptor left): a thread waits.
            logger.debug("no pidfd for child %d (%s), waiting in a thread", pid, error)
            waiting = threading.Thread(target=self._reap_in_thread, args=(pid, transport), daemon=True)
            waiting.name = f"waitpid-{pid}"
            waiting.start()
        try:
            await waiter
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException:
            transport.close()
            await asyncio.shield(transport._wait())
            raise
        return transport

    def _reap(self, pid: int, transport: Any) -> None:
        transport._process_exited(_wait_for(pid))

    def _reap_in_thread(self, pid: int, transport: Any) -> None:
        status = _wait_for(pid)
        try:
            self.call_soon_threadsafe(transport._process_exited, status)
        except RuntimeError:
            logger.warning("Loop %r that handles pid %r is closed", self, pid)


def _watcher_is_ours_to_replace() -> bool:
    """Whether the policy's child watcher, a thing that Python 3.14 did away with, is a working one of asyncio's.

    A pidfd does what each of those does. A watcher of the program's own, or one that is not active (which is an
    error), is asyncio's code's business.
    """
    policy: Any = asyncio.get_event_loop_policy()
    default: Any = asyncio.unix_events._UnixDefaultEventLoopPolicy
    if type(policy).get_child_watcher is default.get_child_watcher:
        # Not by the method: it warns, and to hush that changes the filters under other threads' feet.
        watcher = policy._watcher
        if watcher is None:  # the one that would be made now is
            return True
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            watcher = asyncio.get_child_watcher()
    return type(watcher).__module__ == "asyncio.unix_events" and watcher.is_active()


def _wait_for(pid: int) -> int:
    try:
        _, status = os.waitpid(pid, 0)
    except ChildProcessError:
        logger.warning("child process pid %d exit status already read:  will report returncode 255", pid)
        return 255
    return os.waitstatus_to_exitcode(status)


def _note_signal(number: int, frame: object) -> None:
    """Python's handler of the signals that a loop has a handler for."""
    loop = _woken_by_signals() if _woken_by_signals is not None else None
    # A loop that another thread runs reads its pipe there, and cannot tell what was noted from what is to come.
    if loop is not None and loop._thread_id in (None, threading.main_thread().ident):
        loop._noted_signals.add(number)


def _forget_signals_in_child() -> None:
    """A forked child must not write its signals into its parent's self-pipe."""
    global _woken_by_signals
    loop = _woken_by_signals() if _woken_by_signals is not None else None
    _woken_by_signals = None
    if loop is None or loop.is_closed():
        return
    theirs = signal.set_wakeup_fd(-1)
    if theirs != loop._csock.fileno():
        signal.set_wakeup_fd(theirs)


os.register_at_fork(after_in_child=_forget_signals_in_child)


def new_event_loop() -> EventLoop:
    """Return a new event loop: a ``loop_factory`` for asyncio, pytest-asyncio, anyio, aiohttp and uvicorn."""
    return EventLoop()
