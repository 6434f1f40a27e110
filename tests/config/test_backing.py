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


def test_the_query_of_a_database_url_reaches_the_driver_and_wins():
    url = "postgresql:///loradex?host=%2Frun%2Fpg&sslmode=require&connect_timeout=60"
    options = backing.database({"DATABASE_URL": url}, DATA)["OPTIONS"]
    assert (options["host"], options["sslmode"], options["connect_timeout"]) == ("/run/pg", "require", "60")
    assert "lock_timeout" in options["options"]


def test_only_web_processes_have_a_pool():
    url = {"DATABASE_URL": "postgresql://db/loradex"}
    assert "pool" not in backing.database(url, DATA)["OPTIONS"]
    assert backing.database(url | {"LORADEX_WEB_THREADS": "8"}, DATA)["OPTIONS"]["pool"]["max_size"] >= 8


def test_other_databases_and_stores_that_do_not_exist_are_refused():
    with pytest.raises(ValueError, match="mysql"):
        backing.database({"DATABASE_URL": "mysql://x"}, DATA)
    with pytest.raises(ValueError, match="without S3_BUCKET"):
        backing.blob_store({"S3_ENDPOINT_URL": "http://s3:8333"}, DATA)


def test_a_bucket_means_s3_and_a_server_of_ones_own_needs_no_region():
    assert backing.blob_store({"S3_BUCKET": "b", "AWS_REGION": "eu-west-1"}, DATA)["OPTIONS"] == {
        "bucket": "b", "endpoint_url": None, "public_endpoint_url": None, "region": "eu-west-1",
    }  # fmt: skip
    own = {"S3_BUCKET": "b", "S3_ENDPOINT_URL": "http://s3:8333", "S3_PUBLIC_ENDPOINT_URL": "https://files.example.org"}
    settings = backing.blob_store(own, DATA)
    assert settings["BACKEND"] == "registry.stores.s3.S3Store"
    assert settings["OPTIONS"] == {
        "bucket": "b", "endpoint_url": "http://s3:8333", "public_endpoint_url": "https://files.example.org",
        "region": "us-east-1",
    }  # fmt: skip


def test_a_broker_url_is_used_as_it_is():
    assert backing.broker({"CELERY_BROKER_URL": "redis://r/0"}, DATA)["broker_url"] == "redis://r/0"


@pytest.mark.parametrize("url", ["redis://r/0", "rediss://r/0", "amqp://r//"])
def test_no_wait_on_a_broker_is_unbounded(url):
    options = backing.broker({"CELERY_BROKER_URL": url}, DATA)["broker_transport_options"]
    assert [value for name, value in options.items() if name.endswith("timeout")]


def test_other_brokers_and_a_database_without_a_name_are_refused():
    with pytest.raises(ValueError, match="sqs"):
        backing.broker({"CELERY_BROKER_URL": "sqs://x"}, DATA)
    with pytest.raises(ValueError, match="names no database"):
        backing.database({"DATABASE_URL": "postgresql://db"}, DATA)


@pytest.mark.parametrize(
    ("url", "told"),
    [("milvus://m", {"uri": "http://m:19530", "token": "", "db_name": ""}),
     ("milvuss://u:p%40@m:1/ours", {"uri": "https://m:1", "token": "u:p@", "db_name": "ours"}),
     ("milvus://[::1]:2", {"uri": "http://[::1]:2", "token": "", "db_name": ""}), ("", None)],
)  # fmt: skip
def test_a_vector_engine_is_a_milvus(url, told):
    assert backing.vector_engine({"VECTOR_ENGINE_URL": url}) == told


@pytest.mark.parametrize("url", ["qdrant://q", "milvus://", "milvus:///database"])
def test_other_vector_engines_are_refused(url):
    with pytest.raises(ValueError, match="milvus://"):
        backing.vector_engine({"VECTOR_ENGINE_URL": url})


@pytest.mark.parametrize(
    ("env", "is_open"),
    [({}, True), ({"HOST": "::1"}, True), ({"HOST": "0.0.0.0"}, False), ({"HOST": "0.0.0.0", "SIGNUP": "open"}, True),
     ({"SIGNUP": "closed"}, False)],
)  # fmt: skip
def test_sign_up_is_closed_beyond_loopback_unless_opened(env, is_open):
    assert backing.signup_open(env) is is_open
