"""What processes cost, from the kernel's own books: CPU time in nanoseconds, and memory."""

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of the processes so far, with their threads, those that ended too."""
    total = 0
    for pid in pids:
        # The kernel's clock of that process (clock_getcpuclockid): /proc/PID/stat has ticks of 10 ms.
        with contextlib.suppress(OSError):
            total += time.clock_gettime_ns((~pid << 3) | 2)
    return total / 1e9


def process_tree(pid: int) -> list[int]:
    """The process and its descendants, as they are now."""
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
    """Its arguments, separated by blanks."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def memory_mb(pids: Iterable[int], what: str = "VmRSS") -> float:
    """Resident memory in MB, summed: `VmRSS` now, `VmHWM` at its highest."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(rf"{what}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
            total += int(found[1]) if found else 0
    return total / 1024


def machine_seconds() -> float:
    """CPU time of everything on the machine so far, idle time apart; to 10 ms."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    # user, nice, system, idle, iowait, irq, softirq, steal; guests are in the first two already.
    return (sum(fields[:3]) + sum(fields[5:8])) / os.sysconf("SC_CLK_TCK")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))
