"""A policy that changes while it is watched: taken when it is good, refused whole when it is not."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from policy_texts import conditions

from gateway.adapters.policy_directory import PolicyDirectory
from gateway.core.decision import Policy
from gateway.core.policy import PolicyRefusedError
from gateway.runtime.null_metrics import NullMetrics

TIMEOUT_S = 10.0


class KeptLog:
    """Keeps what is logged, and tells who waits for it."""

    def __init__(self) -> None:
        self.lines: asyncio.Queue[tuple[str, dict[str, object]]] = asyncio.Queue()

    def debug(self, event: str, **fields: object) -> None:
        self.lines.put_nowait((event, fields))

    info = warning = error = debug


class KeptMetrics(NullMetrics):
    def __init__(self) -> None:
        self.reloads: list[str] = []
        self.version = ""

    def policy_reload(self, outcome: str) -> None:
        self.reloads.append(outcome)

    def policy_version(self, version: str) -> None:
        self.version = version


class Watched:
    """A directory of one file, watched."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = KeptLog()
        self.metrics = KeptMetrics()
        self.source = PolicyDirectory(path, conditions(), self.log, self.metrics)
        self.taken: asyncio.Queue[Policy] = asyncio.Queue()

    async def next_policy(self) -> Policy:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.taken.get()

    async def next_line(self) -> tuple[str, dict[str, object]]:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.log.lines.get()


@contextlib.asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Watched]:
    watched = Watched(path)
    task = asyncio.create_task(watched.source.run(watched.taken.put_nowait))
    try:
        yield watched
    finally:
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


def role(name: str) -> str:
    return f"roles:\n  {name}: {{}}\n"


@pytest.fixture
def policies(tmp_path: Path) -> Path:
    directory = tmp_path / "policies"
    directory.mkdir()
    (directory / "a.yaml").write_text(role("one"))
    return directory


def test_without_a_good_policy_to_begin_with_there_is_none(policies: Path) -> None:
    (policies / "a.yaml").write_text("roles: {one: {alow: []}}")
    with pytest.raises(PolicyRefusedError, match="unknown member `alow`"):
        Watched(policies)


def test_the_version_is_shown_from_the_start(policies: Path) -> None:
    watched = Watched(policies)
    assert watched.metrics.version == watched.source.current.version
    assert watched.source.current.roles == {"one"}


async def test_a_changed_file_is_taken(policies: Path) -> None:
    async with watched(policies) as policy:
        before = policy.source.current.version
        (policies / "a.yaml").write_text(role("two"))
        taken = await policy.next_policy()
        assert taken is policy.source.current
        assert taken.roles == {"two"}
        assert await policy.next_line() == ("policy.reloaded", {"policy": taken.version, "roles": 1})
        assert policy.metrics.reloads == ["ok"]
        assert policy.metrics.version == taken.version != before


async def test_files_that_come_and_go_are_taken(policies: Path) -> None:
    async with watched(policies) as policy:
        (policies / "b.yaml").write_text(role("two"))
        assert (await policy.next_policy()).roles == {"one", "two"}
        (policies / "a.yaml").unlink()
        assert (await policy.next_policy()).roles == {"two"}
        (policies / "b.yaml").rename(policies / "c.yaml")
        assert (await policy.next_policy()).roles == {"two"}


async def test_a_file_that_is_replaced_by_renaming_is_taken(policies: Path) -> None:
    async with watched(policies) as policy:
        (policies / ".a.yaml.tmp").write_text(role("two"))
        (policies / ".a.yaml.tmp").replace(policies / "a.yaml")
        assert (await policy.next_policy()).roles == {"two"}


async def test_a_broken_policy_is_refused_whole_and_the_last_good_one_stays(policies: Path) -> None:
    async with watched(policies) as policy:
        good = policy.source.current
        (policies / "b.yaml").write_text("roles:\n  two: {}\n  three: {inherits: [nobody]}\n")
        assert await policy.next_line() == (
            "policy.refused",
            {
                "file": "b.yaml",
                "line": 3,
                "reason": "role `three` inherits unknown role `nobody`",
                "findings": 1,
                "policy": good.version,
            },
        )
        assert policy.metrics.reloads == ["error"]
        assert policy.source.current is good
        assert policy.metrics.version == good.version
        (policies / "b.yaml").write_text(role("two"))
        assert (await policy.next_policy()).roles == {"one", "two"}
        assert policy.metrics.reloads == ["error", "ok"]


async def test_a_broken_policy_that_is_taken_back_is_told_as_good_again(policies: Path) -> None:
    async with watched(policies) as policy:
        good = policy.source.current
        (policies / "a.yaml").write_text("roles: [")
        assert (await policy.next_line())[0] == "policy.refused"
        (policies / "a.yaml").write_text(role("one"))
        assert (await policy.next_policy()).version == good.version
        assert (await policy.next_line())[0] == "policy.reloaded"


async def test_a_file_that_is_touched_without_a_change_is_not_reloaded(policies: Path) -> None:
    async with watched(policies) as policy:
        os.utime(policies / "a.yaml", (1, 1))
        (policies / "notes.txt").write_text("no policy")
        (policies / "b.yaml").write_text(role("two"))
        assert (await policy.next_policy()).roles == {"one", "two"}
        assert policy.metrics.reloads == ["ok"]
        assert policy.log.lines.qsize() == 1


async def test_the_swap_of_a_config_maps_link_is_taken(tmp_path: Path) -> None:
    # As the kubelet does it: the files are links through `..data`, a link to a directory that is exchanged by a rename.
    mount = tmp_path / "mount"
    (mount / "..2026_1").mkdir(parents=True)
    (mount / "..2026_1" / "a.yaml").write_text(role("one"))
    (mount / "..data").symlink_to("..2026_1")
    (mount / "a.yaml").symlink_to("..data/a.yaml")
    async with watched(mount) as policy:
        for version, name in ((2, "two"), (3, "three")):
            (mount / f"..2026_{version}").mkdir()
            (mount / f"..2026_{version}" / "a.yaml").write_text(role(name))
            (mount / "..data_tmp").symlink_to(f"..2026_{version}")
            (mount / "..data_tmp").replace(mount / "..data")
            shutil.rmtree(mount / f"..2026_{version - 1}")
            assert (await policy.next_policy()).roles == {name}


async def test_a_directory_that_vanishes_is_told_once_and_taken_when_it_is_back(policies: Path) -> None:
    async with watched(policies) as policy:
        good = policy.source.current
        away = policies.with_name("away")
        policies.rename(away)  # noqa: ASYNC240 - a test may wait for its own file system
        event, fields = await policy.next_line()
        assert (event, fields["file"], fields["line"]) == ("policy.refused", str(policies), 0)
        assert policy.source.current is good
        (away / "a.yaml").write_text(role("two"))
        away.rename(policies)
        assert (await policy.next_policy()).roles == {"two"}
        assert (await policy.next_line())[0] == "policy.reloaded"
        assert policy.metrics.reloads == ["error", "ok"]
        (policies / "a.yaml").write_text(role("three"))
        assert (await policy.next_policy()).roles == {"three"}


async def test_another_directory_at_the_same_path_is_taken_and_watched(tmp_path: Path, policies: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(policies)
    other = tmp_path / "other"
    other.mkdir()
    (other / "a.yaml").write_text(role("two"))
    async with watched(link) as policy:
        (tmp_path / "next").symlink_to(other)
        (tmp_path / "next").replace(link)
        assert (await policy.next_policy()).roles == {"two"}
        (other / "a.yaml").write_text(role("three"))
        assert (await policy.next_policy()).roles == {"three"}


async def test_the_last_file_that_is_deleted_leaves_the_last_good_policy(policies: Path) -> None:
    async with watched(policies) as policy:
        (policies / "a.yaml").unlink()
        event, fields = await policy.next_line()
        assert (event, fields["reason"]) == ("policy.refused", "no *.yaml file in the directory")
        assert policy.source.current.roles == {"one"}


async def test_changes_that_were_made_before_the_watch_began_are_taken(policies: Path) -> None:
    policy = Watched(policies)
    (policies / "a.yaml").write_text(role("two"))
    task = asyncio.create_task(policy.source.run(policy.taken.put_nowait))
    assert (await policy.next_policy()).roles == {"two"}
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
