"""The CPU time and the memory of processes, as the kernel accounts for them."""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, in seconds. Threads count, even if they have ended."""
    total = 0
    for pid in pids:
        # The kernel's CPU clock of that process (clock_getcpuclockid) has ns; /proc/PID/stat has 10 ms.
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total / 1e9


def process_tree(pid: int) -> list[int]:
    """The ids of the process and of its present descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
                children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, []))
    return found


def command_line(pid: int) -> str:
    """The arguments of the process, separated by blanks."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def memory_mb(pids: Iterable[int], what: str = "VmRSS") -> float:
    """The processes' resident memory in MB: `VmRSS` is the present one, `VmHWM` the highest so far."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) if found else 0
    return total / 1024


def machine_seconds() -> float:
    """CPU seconds of everything on the machine so far, without idle time. The resolution is 10 ms."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    # The fields are user, nice, system, idle, iowait, irq, softirq, steal. The first two include guests.
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
