"""What holds for every test."""

from tests.secrets_in_output import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]
