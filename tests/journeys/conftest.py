"""A site for each file of journeys; each journey in it uses owners of its own."""

from collections.abc import Iterator

import pytest

from tests.journeys.server import Site, running_site


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A site of a module's own: what else is on it, and so what a page shows, does not depend on which ran before."""
    with running_site(tmp_path_factory.mktemp("site")) as running:
        yield running
