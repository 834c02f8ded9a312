"""The first process of a container, where the server is started as process 1.

Every process whose parent has ended becomes a child of process 1, which must wait for it (pid_namespaces(7)):
otherwise it stays a zombie, and takes an id. The server cannot wait for any child, as it would take the exit
status of those that the application waits for. And the kernel keeps signals from process 1 for which it has
no handler. So process 1 forks at its very start: the child is the server, and this process passes signals on
to it, waits for whoever ends, and ends with the status of the server. Then the kernel ends all that is left.

Little is imported here: what is imported before the fork is there twice.
"""

import os
import signal
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import NoReturn

_STDERR = 2
_OF_MAIN_PROCESS = ("LISTEN_PID", "WATCHDOG_PID")
"""Variables of systemd with the id of the process that they are for."""


def leave_process_one() -> None:
    """Return in a new process, and stay here as its parent, if this is process 1 of a namespace."""
    if sys.platform == "linux" and os.getpid() == 1:
        _fork()


if sys.platform == "linux":
    _NEVER_PASSED_ON = frozenset(
        {
            *(signal.SIGKILL, signal.SIGSTOP),  # which nobody can block
            # and those that tell of a fault of this process
            *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGTRAP, signal.SIGSYS),
        }
    )
    _KEYS = (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP)
    _SI_KERNEL = 0x80

    def _fork() -> None:
        # Blocked, so that none is lost until this process waits for them.
        passed_on = signal.valid_signals() - _NEVER_PASSED_ON
        before = signal.pthread_sigmask(signal.SIG_BLOCK, passed_on)
        child = os.fork()
        if child:
            _stay(child, passed_on)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for name in _OF_MAIN_PROCESS:
            if os.environ.get(name) == "1":
                os.environ[name] = str(os.getpid())

    def _stay(server: int, passed_on: "Collection[int]") -> "NoReturn":
        _close_inherited()
        while True:
            info = signal.sigwaitinfo(passed_on)
            # At Ctrl-C the terminal has sent it to the server too, which is of the same group.
            is_of_terminal = info.si_signo in _KEYS and info.si_code == _SI_KERNEL
            if info.si_signo == signal.SIGCHLD:
                status = _reap(server)
                if status is not None:
                    os._exit(status)
            elif not is_of_terminal:
                _pass_on(server, info.si_signo)

    def _close_inherited() -> None:
        """Close what the server has inherited too, but for the standard streams. Of a listening socket this
        would be one more copy: the kernel would let clients in when the server has closed its own.
        """
        try:
            inherited = [int(name) for name in os.listdir("/proc/self/fd") if int(name) > _STDERR]
        except OSError:
            return  # no /proc is mounted
        for fd in inherited:
            try:
                os.close(fd)
            except OSError:
                pass  # it was that of the list itself

    def _pass_on(server: int, number: int) -> None:
        try:
            os.kill(server, number)
        except ProcessLookupError:
            pass  # it has ended: a SIGCHLD is on its way
        except PermissionError:
            # It has become another user (`--user`), and this container's root has no CAP_KILL. Nothing that
            # follows here needs root.
            try:
                os.seteuid(_user_of(server))
                os.kill(server, number)
            except OSError:
                pass  # the server goes on, and so does this process: the namespace would end with it

    def _user_of(pid: int) -> int:
        """The real user of a process. (That of /proc/PID is root, where it has changed.)"""
        with open(f"/proc/{pid}/status", "rb") as file:
            for line in file:
                if line.startswith(b"Uid:"):
                    return int(line.split()[1])
        raise ProcessLookupError

    def _reap(server: int) -> "int | None":
        """Wait for all that have ended. Return the status of the server if it has, as a shell says it."""
        ended = None
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == server:
                code = os.waitstatus_to_exitcode(status)
                ended = code if code >= 0 else 128 - code
