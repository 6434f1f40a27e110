"""One PostgreSQL, Redis and S3 for the session, and a site on all three. What cannot be started fails, never skips."""

import uuid
from collections.abc import Iterator

import pytest

from tests.journeys.server import Site, running_site
from tests.services.postgres import Postgres
from tests.services.redis_server import RedisServer
from tests.services.seaweed import SeaweedFS, running_seaweedfs
from tests.services.stacks import LEASE_S, Stack


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    server = Postgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    server = RedisServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def seaweed() -> Iterator[SeaweedFS]:
    with running_seaweedfs() as server:
        yield server


@pytest.fixture(scope="session")
def new_services(postgres: Postgres, redis_server: RedisServer, seaweed: SeaweedFS):
    """Returns: a function that makes an empty database, queue and bucket, and returns the environment naming them."""
    queues = iter(range(16))

    def make() -> dict[str, str]:
        return {
            "DATABASE_URL": postgres.new_database(f"loradex-{uuid.uuid4().hex[:8]}"),
            "CELERY_BROKER_URL": redis_server.url(next(queues)),
            **seaweed.env(seaweed.make_bucket()),
        }

    return make


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory, new_services) -> Iterator[Site]:
    """A site with one worker on real services."""
    with running_site(tmp_path_factory.mktemp("site"), **new_services()) as running:
        yield running


@pytest.fixture(scope="session", params=["embedded", "services"])
def stack(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A site without a worker and with short leases, on SQLite and a folder, and on PostgreSQL, Redis and S3."""
    real = request.param == "services"
    env = request.getfixturevalue("new_services")() if real else {}
    folder = tmp_path_factory.mktemp(request.param)
    with running_site(folder / "data", worker=False, JOB_LEASE_S=str(LEASE_S), **env) as running:
        made = Stack(running, running.client(running.create_token("ada")))
        made.redis = request.getfixturevalue("redis_server") if real else None
        made.prepare(folder)
        yield made
