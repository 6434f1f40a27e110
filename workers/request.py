"""How a worker's main process treats one message of the broker."""

from typing import Any

from celery.worker import request


class Request(request.Request):
    """A request whose failed acknowledgement ends the consumer's loop, so that it connects again.

    Celery would log the error and go on with a message that counts as taken for ever; on Redis, a worker that takes one
    message at a time would then take no other one.
    """

    def __init__(self, message: Any, *, connection_errors: Any = None, **options: Any) -> None:
        super().__init__(message, connection_errors=(), **options)
