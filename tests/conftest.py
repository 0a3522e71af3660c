"""What every test of the suite may use."""

from __future__ import annotations

from collections.abc import Generator

import pytest

pytest_plugins = ["pytester", "road", "secret_watch"]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what a worker of xdist cannot send: tests log lone surrogates, and reports carry what was captured."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
