"""What the kernel accounts to a process: processor time, memory, open files (Linux, proc(5)).

Owns the reading of /proc. Refuses to own what the figures mean.
"""

from __future__ import annotations

import os
from pathlib import Path


def cpu_us(pid: int) -> float:
    """Give the processor time of all threads of a process, in microseconds.

    By `schedstat`, whose nanoseconds the scheduler counts; `stat` counts ticks of 10 ms, which is 1 % of a second and too coarse.

    Raises:
        FileNotFoundError: The process has gone, or the kernel keeps no such account.
    """
    total_ns = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        try:
            total_ns += int((task / "schedstat").read_bytes().split()[0])
        except ProcessLookupError:
            continue  # the thread ended between the two readings
    return total_ns / 1e3


def all_cores_us() -> float:
    """Give the time for which all cores of the machine were not idle, in microseconds, but to the tick.

    Stolen time counts too: then another machine on the same hardware had the core.
    """
    user, nice, system, _, _, interrupts, soft_interrupts, stolen = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    busy = user + nice + system + interrupts + soft_interrupts + stolen
    return busy * 1e6 / os.sysconf("SC_CLK_TCK")


def resident_kb(pid: int) -> int:
    """Give the resident memory of a process, in units of 1,024 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_files(pid: int) -> int:
    """Count the open file descriptors of a process."""
    return sum(1 for _ in os.scandir(f"/proc/{pid}/fd"))
