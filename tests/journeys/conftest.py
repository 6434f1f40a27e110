"""One site for all journeys of a session; each journey uses owners of its own."""

from collections.abc import Iterator

import pytest

from tests.journeys.server import Site, running_site


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
