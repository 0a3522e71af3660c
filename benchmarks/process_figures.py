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


def resident_kb(pid: int) -> int:
    """Give the resident memory of a process, in units of 1,024 bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def open_files(pid: int) -> int:
    """Count the open file descriptors of a process."""
    return sum(1 for _ in os.scandir(f"/proc/{pid}/fd"))
