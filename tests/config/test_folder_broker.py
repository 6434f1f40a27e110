"""The embedded broker under several processes' hands."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection, Queue

import config  # noqa: F401 - registers the transport
from config.folder_broker import Transport


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Connection]:
    options = {"data_folder_in": str(tmp_path), "data_folder_out": str(tmp_path), "polling_interval": 0.01}
    with Connection("folder://localhost", transport_options=options) as connection:
        assert isinstance(connection.transport, Transport)
        yield connection


def test_messages_arrive_once_and_in_order(broker):
    with broker.SimpleQueue("celery") as queue:
        for number in range(20):
            queue.put({"number": number})
        got = []
        for _ in range(20):
            message = queue.get(timeout=5)
            got.append(message.payload["number"])
            message.ack()
        assert got == list(range(20))
        assert queue.qsize() == 0


def test_a_message_is_never_seen_half_written(broker, tmp_path):
    done = threading.Event()
    broken: list[str] = []

    def watch() -> None:
        while not done.is_set():
            for path in tmp_path.glob("*.msg"):
                try:
                    json.loads(path.read_text(encoding="utf-8"))
                except FileNotFoundError:
                    continue
                except ValueError as error:
                    broken.append(str(error))
                path.unlink(missing_ok=True)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with broker.Producer() as producer:
        for number in range(2000):
            producer.publish({"number": number}, routing_key="celery", exchange="celery", declare=[Queue("celery")])
    done.set()
    watcher.join()
    assert broken == []
