"""Runs a program as a container engine would: its own processes, network and mounts, a read-only root, a user without rights.

A builder such as buildah has no read-only root and runs nothing as process 1, and an engine is not to be had everywhere. What an
engine does for one container is a handful of system calls, so they stand here. Called by `unshare`, see `image_kit`; its one
argument is a JSON object.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import socket
import struct
import subprocess
import sys
from pathlib import Path

PR_SET_NO_NEW_PRIVS = 38
SIOCSIFFLAGS = 0x8914
IFF_UP_RUNNING = 0x41


def mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def raise_loopback() -> None:
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP_RUNNING))


def enter(root: Path, mounts: dict[str, str], read_only: list[str], uid: int) -> None:
    """Close the root behind this process, and give up every right."""
    mount("--bind", root, root)
    for inside, outside in mounts.items():
        point = root / inside.lstrip("/")
        point.mkdir(parents=True, exist_ok=True)
        mount("--bind", outside, point)
        if inside in read_only:
            mount("-o", "remount,bind,ro", point)
    mount("-t", "proc", "proc", root / "proc")
    mount("--rbind", "/dev", root / "dev")
    mount("-o", "remount,bind,ro", root)
    os.chroot(root)
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)
    if ctypes.CDLL(None).prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("no_new_privs was refused")


def main() -> None:
    asked = json.loads(sys.argv[1])
    raise_loopback()
    enter(Path(asked["root"]), asked["mounts"], asked["read_only"], asked["uid"])
    os.chdir(asked["workdir"])
    os.write(asked["tell"], b".")
    os.close(asked["tell"])
    os.execvpe(asked["command"][0], asked["command"], asked["environment"])  # noqa: S606 - that is what it is for


if __name__ == "__main__":
    main()
