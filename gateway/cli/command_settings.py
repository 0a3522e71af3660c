"""The settings that a command acts on, apart from `serve`.

Owns one decision: a command that is called where `gateway serve --dev` has run, with no secret named, acts on what that made.
"""

from __future__ import annotations

import os

from gateway.settings import Reading, Settings, is_development_folder, read_settings


def command_settings() -> Settings:
    """Read the settings for an account command.

    Raises:
        SettingsError: With every finding.
    """
    return command_reading(write=True).settings


def command_reading(*, write: bool) -> Reading:
    """Read the settings and where each came from.

    Args:
        write: Whether the data directory may be made.

    Raises:
        SettingsError: With every finding.
    """
    return read_settings(os.environ, development=is_development_folder(os.environ), write=write)
