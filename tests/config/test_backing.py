"""The environment decides which services back Loradex."""

from pathlib import Path

import pytest

from config import backing

DATA = Path("/somewhere")


def test_nothing_set_means_embedded():
    assert backing.database({}, DATA)["NAME"] == DATA / "db.sqlite3"
    assert backing.broker({}, DATA)["broker_url"] == "folder://localhost"
    assert backing.blob_store({}, DATA)["OPTIONS"] == {"root": DATA / "files"}


def test_a_database_url_means_postgresql():
    settings = backing.database({"DATABASE_URL": "postgresql://ada:p%40ss@db:5433/loradex"}, DATA)
    assert settings["ENGINE"] == "django.db.backends.postgresql"
    assert (settings["USER"], settings["PASSWORD"], settings["HOST"], settings["PORT"]) == ("ada", "p@ss", "db", 5433)
    assert settings["NAME"] == "loradex"


def test_other_databases_and_stores_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="mysql"):
        backing.database({"DATABASE_URL": "mysql://x"}, DATA)
    with pytest.raises(ValueError, match="S3_BUCKET"):
        backing.blob_store({"S3_BUCKET": "x"}, DATA)


def test_a_broker_url_is_used_as_it_is():
    assert backing.broker({"CELERY_BROKER_URL": "redis://r/0"}, DATA)["broker_url"] == "redis://r/0"


@pytest.mark.parametrize(
    ("env", "is_open"),
    [({}, True), ({"HOST": "::1"}, True), ({"HOST": "0.0.0.0"}, False), ({"HOST": "0.0.0.0", "SIGNUP": "open"}, True),
     ({"SIGNUP": "closed"}, False)],
)  # fmt: skip
def test_sign_up_is_closed_beyond_loopback_unless_opened(env, is_open):
    assert backing.signup_open(env) is is_open
