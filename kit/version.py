"""The version of the suite: of the services, their API and the package."""

from typing import Final

VERSION: Final = "0.1.0"
"""Semantic version; CHANGELOG.md has the changes."""
