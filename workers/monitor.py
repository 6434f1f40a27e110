"""A worker's own /healthz and /metrics, on METRICS_PORT where one is set: nothing else in a worker speaks HTTP."""

import logging
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from django.conf import settings
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from registry.metrics import counted

logger = logging.getLogger(__name__)

# A round of the sweeper takes seconds even where the database is away.
SILENCE_S = 60


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Probes are no news."""


def serve(seconds_since_round: Callable[[], float]) -> None:
    """Answer in a thread. `seconds_since_round` tells how long ago the sweeper finished a round."""

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] == "/metrics":
            status, kind, text = "200 OK", CONTENT_TYPE_LATEST, generate_latest(counted())
        elif environ["PATH_INFO"] != "/healthz":
            status, kind, text = "404 Not Found", "text/plain", b"/healthz and /metrics are here.\n"
        elif seconds_since_round() < SILENCE_S:
            status, kind, text = "200 OK", "application/json", b'{"status": "ok"}'
        else:
            status, kind, text = "503 Service Unavailable", "application/json", b'{"status": "stuck"}'
        start_response(status, [("Content-Type", kind), ("Content-Length", str(len(text)))])
        return [text]

    if not settings.METRICS_PORT:
        return
    try:
        server = make_server(settings.HOST, settings.METRICS_PORT, answer, _Server, _Quiet)
    except OSError:
        logger.warning("METRICS_PORT %d is taken; this worker answers nothing on it", settings.METRICS_PORT)
        return
    threading.Thread(target=server.serve_forever, name="monitor", daemon=True).start()
