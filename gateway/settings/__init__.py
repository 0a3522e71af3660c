"""Settings: what an operator may choose, read once at start, checked whole, and frozen from then on.

Owns the names, bounds, defaults and documentation of every setting, and the way from the environment and a TOML file to one
`Settings` value. Refuses to own what a setting means to a part of the gateway: `compose` hands each part its numbers.
"""

from gateway.settings.data_dir import claim_data_dir
from gateway.settings.loading import (
    Finding,
    Origin,
    Reading,
    SettingsError,
    data_directory,
    is_development_folder,
    load_settings,
    read_settings,
)
from gateway.settings.model import Issuer, Settings, not_in_this_release, shipped_policy_dir

__all__ = [
    "Finding",
    "Issuer",
    "Origin",
    "Reading",
    "Settings",
    "SettingsError",
    "claim_data_dir",
    "data_directory",
    "is_development_folder",
    "load_settings",
    "not_in_this_release",
    "read_settings",
    "shipped_policy_dir",
]
