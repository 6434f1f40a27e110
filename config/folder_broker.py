"""The embedded broker: a folder with one file per message, safe for several processes.

kombu's own filesystem transport writes a message into its final file, so that a worker may read it half written, fails
to parse it and ends. Here a file appears whole. The table of bindings, which has the same flaw, is not needed: every
queue is bound to the exchange of its name.
"""

import os
import uuid
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import filesystem
from kombu.utils.json import dumps


class Channel(filesystem.Channel):
    def _get(self, queue: str) -> Any:
        try:
            return super()._get(queue)
        except OSError as error:
            # The folder is away: a worker waits for it, instead of ending.
            raise Empty from error

    def _put(self, queue: str, payload: Any, **_: Any) -> None:
        folder = Path(self.data_folder_out)
        folder.mkdir(parents=True, exist_ok=True)
        part = folder / f"{uuid.uuid4()}.part"
        part.write_text(dumps(payload), encoding="utf-8")
        # The clock comes first: messages are taken in the order of their names.
        os.replace(part, folder / f"{time_ns()}_{part.stem}.{queue}.msg")

    def get_table(self, exchange: str) -> list[Any]:
        return [filesystem.exchange_queue_t(exchange, "", exchange)]

    def _queue_bind(self, *_: Any) -> None:
        """Bindings follow from names."""


class Transport(filesystem.Transport):
    Channel = Channel
