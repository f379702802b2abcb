"""Every mode, as far as Windows can be had on another system: `python windows.py FOLDER MODE…`, a line of modes and flags.

Run by test_machines.py in a process of its own. What is run sees Python as Windows has it: modules and functions that
only Unix has do not exist for the project's own modules (libraries have branches of their own for Windows, which are
not those of this machine). Text files without a named encoding are ASCII, and the console knows Windows's letters only:
both come from the environment of this process.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
from types import ModuleType

MODULES = ("crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline", "resource", "spwd")
MODULES += ("syslog", "termios", "tty")
# What their documentation calls "Availability: Unix".
ABSENT = {
    "os": (
        *("chown", "chroot", "confstr", "ctermid", "fchdir", "fchmod", "fchown", "fork", "forkpty", "fstatvfs"),
        *("getegid", "geteuid", "getgid", "getgroups", "getloadavg", "getpgid", "getpgrp", "getpriority", "getuid"),
        *("killpg", "lchown", "lockf", "major", "minor", "mkfifo", "mknod", "nice", "openpty", "posix_fadvise"),
        *("posix_fallocate", "posix_spawn", "pread", "pwrite", "register_at_fork", "sched_getaffinity", "sched_yield"),
        *("sendfile", "setsid", "setuid", "statvfs", "sync", "sysconf", "tcgetpgrp", "uname", "wait", "WIFEXITED"),
        *("O_NOFOLLOW", "O_DIRECTORY", "O_NONBLOCK", "O_CLOEXEC", "O_SYNC"),
    ),
    "signal": (
        *("SIGALRM", "SIGCHLD", "SIGCONT", "SIGHUP", "SIGKILL", "SIGPIPE", "SIGQUIT", "SIGSTOP", "SIGTSTP", "SIGUSR1"),
        *("SIGUSR2", "SIGWINCH", "alarm", "pause", "pthread_kill", "pthread_sigmask", "setitimer", "sigpending"),
        *("siginterrupt", "sigwait", "sigtimedwait"),
    ),
    "time": ("tzset", "clock_gettime", "CLOCK_MONOTONIC", "pthread_getcpuclockid"),
}


class Without(ModuleType):
    """A module without some of its names."""

    def __init__(self, module: ModuleType, absent: tuple[str, ...]) -> None:
        super().__init__(module.__name__)
        self.__dict__.update({name: value for name, value in vars(module).items() if name not in absent})


def as_on_windows() -> None:
    """Let the project's modules import what Windows has, and nothing else."""
    ordinary = builtins.__import__
    replaced = {name: Without(sys.modules[name], absent) for name, absent in ABSENT.items()}

    def imported(name, globals=None, locals=None, fromlist=(), level=0):  # type: ignore[no-untyped-def]
        if (globals or {}).get("__name__", "").startswith(("score_sde", "__main__")):
            if name.split(".")[0] in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}, on Windows", name=name)
            if name in replaced:
                return replaced[name]
        return ordinary(name, globals, locals, fromlist, level)

    builtins.__import__ = imported


def main() -> None:
    import time  # so that it is there to be replaced

    assert all(hasattr(module, "__name__") for module in (os, signal, time))
    as_on_windows()
    from absl import flags

    from score_sde.__main__ import main as run
    from score_sde.__main__ import parse

    for line in sys.stdin.read().splitlines():
        flags.FLAGS.unparse_flags()
        for name in ("config", "checkpoint", "workdir", "device"):
            flags.FLAGS[name].value = None
        print("mode", line)
        code = run(parse(["main.py", *line.split()]))
        if code:
            sys.exit(f"{line}: exit code {code}")


if __name__ == "__main__":
    main()
