"""The embedded broker under several processes' hands."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection

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


def test_a_worker_waits_for_a_folder_that_is_away(broker, tmp_path):
    with broker.SimpleQueue("celery") as queue:
        shutil.rmtree(tmp_path)
        with pytest.raises(queue.Empty):
            queue.get(timeout=0.1)
        queue.put({"number": 1})
        assert queue.get(timeout=5).payload == {"number": 1}


class Spy:
    """Looks into the folder while the message that it is part of is being written."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.seen: list[Path] | None = None

    def __json__(self) -> str:
        self.seen = list(self.folder.glob("*.msg"))
        return "spy"


def test_a_message_is_not_there_before_it_is_complete(broker, tmp_path):
    spy = Spy(tmp_path)
    broker.channel()._put("celery", {"body": spy})
    assert spy.seen == []
    [message] = tmp_path.glob("*.msg")
    assert json.loads(message.read_text(encoding="utf-8"))["body"]
    assert list(tmp_path.iterdir()) == [message]
