"""Every mode, as far as Windows can be had on another system: `python windows.py FILE`, the file a line of flags a run.

Run by test_machines.py in a process of its own. The project's own modules see Python as Windows has it: modules and
functions that only Unix has do not exist for them (libraries have branches of their own for Windows, which are not
those of this machine). Text files without a named encoding are ASCII, and the console knows only Windows's letters:
both come from the environment of the process.
"""

from __future__ import annotations

import builtins
import os
import signal
import sys
import time
from pathlib import Path
from types import ModuleType

MODULES = (
    *("crypt", "curses", "fcntl", "grp", "nis", "ossaudiodev", "posix", "pty", "pwd", "readline", "resource", "spwd"),
    *("syslog", "termios", "tty"),
)
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
    replaced = {module.__name__: Without(module, ABSENT[module.__name__]) for module in (os, signal, time)}

    def imported(name, globals=None, locals=None, fromlist=(), level=0):
        if (globals or {}).get("__name__", "").startswith(("score_sde", "__main__")):
            if name.split(".")[0] in MODULES:
                raise ModuleNotFoundError(f"No module named {name!r}, on Windows", name=name)
            if name in replaced:
                return replaced[name]
        return ordinary(name, globals, locals, fromlist, level)

    builtins.__import__ = imported


def main() -> None:
    as_on_windows()
    from absl.testing import flagsaver

    from score_sde import __main__ as program

    for line in Path(sys.argv[1]).read_text(encoding="utf-8").splitlines():
        print("main.py", line, flush=True)
        with flagsaver.flagsaver():
            code = program.main(program.parse(["main.py", *line.split()]))
        if code:
            sys.exit(f"main.py {line}: exit code {code}")


if __name__ == "__main__":
    main()
