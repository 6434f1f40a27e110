"""How gunicorn serves the site: `gunicorn -c config/gunicorn.py config.wsgi`."""

import gc
import os

from config.logs import logging_config

_host = os.environ.get("HOST", "127.0.0.1")
bind = f"{f'[{_host}]' if ':' in _host else _host}:{os.environ.get('PORT', '8000')}"
# Threads: requests wait for the database, the encoder and slow clients, and share one index in memory. A client that
# is slow with its headers waits outside of them; each that is slow with a body holds one.
worker_class = "gthread"
threads = 16
# Processes: Python computes in one thread of each at a time. Each has an encoder and the index's names in its memory.
workers = int(os.environ.get("WEB_CONCURRENCY") or 1)
if workers > 1:
    # Read by torch where they load it: together they have the cores, and no more threads than those.
    os.environ.setdefault("OMP_NUM_THREADS", str(max((os.cpu_count() or 1) // workers, 1)))
# One database connection for each (config/backing.py).
os.environ["LORADEX_WEB_THREADS"] = str(threads)
keepalive = 65
# The pages keep what was chosen in their addresses.
limit_request_line = 8190
# Of a process that no longer turns its loop, not of a request: uploads take as long as they take.
timeout = 120
# After SIGTERM, running requests may end; `serve` and an orchestrator's grace period may be shorter.
graceful_timeout = 30
# X-Forwarded-Proto counts from these peers only.
forwarded_allow_ips = ",".join(os.environ.get("TRUSTED_PROXIES", "127.0.0.1 ::1").replace(",", " ").split())
# The site logs a line per request itself.
loglevel = "warning"
logconfig_dict = logging_config(os.environ.get("LOG_LEVEL", "WARNING"))
logconfig_dict["loggers"]["gunicorn.error"] = {"level": "WARNING", "handlers": [], "propagate": True}
control_socket_disable = True


def post_worker_init(worker) -> None:
    # Only here, where the application is loaded, and not in gunicorn's main process.
    from config import urls  # noqa: F401, PLC0415
    from config.metrics import serve_metrics_port  # noqa: PLC0415
    from registry.metrics import forget_the_dead  # noqa: PLC0415

    forget_the_dead()
    serve_metrics_port()
    # What was imported stays. A full collection that looks through it makes some request 50 ms longer.
    gc.collect()
    gc.freeze()
