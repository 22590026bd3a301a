"""What holds for every test."""

from collections.abc import Callable

import pytest

from skerry import database
from tests.secrets_in_output import pytest_runtest_makereport

__all__ = ["pytest_runtest_makereport"]


@pytest.fixture
def later_schema(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets services find one schema more than there is: what they opened before is migrated by this script."""

    def add(script: str) -> None:
        schema = database._schema
        monkeypatch.setattr(database, "_schema", lambda package: [*schema(package), script])

    return add
