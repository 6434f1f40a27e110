"""Logs on stderr: readable on a terminal, one JSON object a line elsewhere; libraries' lines go the same way.

What is bound with `structlog.contextvars` (the request's id; in a worker the job's) is in every line. Values of local
variables are never logged: they hold tokens, prompts and samples.
"""

import logging
import sys
from typing import Any

import structlog

OWN = ("registry", "retrieval", "workers", "config")
# Whatever LOG_LEVEL says: below this they log SQL parameters, signed headers and whole messages.
AT_LEAST_INFO = ("django.db.backends", "botocore", "boto3", "s3transfer", "urllib3", "kombu", "amqp")
# What a line may have besides its message. Django adds whole requests, query strings included.
EXTRA = ("method", "route", "path", "status", "ms", "user_id", "remote")

SHARED: list[Any] = [
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.ExtraAdder(allow=EXTRA),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]


def logging_config(level: str, *, as_json: bool | None = None) -> dict[str, Any]:
    """A `logging.config.dictConfig`.

    Args:
        level: of the libraries; Loradex itself logs from INFO, or from DEBUG where the libraries do.
        as_json: default: whether stderr is not a terminal.
    """
    if as_json is None:
        as_json = not sys.stderr.isatty()
    own = "DEBUG" if level == "DEBUG" else "INFO"
    bounded = AT_LEAST_INFO if level == "DEBUG" else ()
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "line": {
                "()": structlog.stdlib.ProcessorFormatter,
                "foreign_pre_chain": SHARED,
                "processors": [structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(as_json)],
            }
        },
        "filters": {"crash": {"()": lambda: _has_traceback}},
        "handlers": {"console": {"class": "logging.StreamHandler", "formatter": "line"}},
        "root": {"handlers": ["console"], "level": level},
        "loggers": {
            **{name: {"level": own} for name in OWN},
            **{name: {"level": "INFO"} for name in bounded},
            # Told by the line of the request; only a crash needs a second one.
            "django.request": {"filters": ["crash"]},
            "django.security.DisallowedHost": {"level": "CRITICAL"},
        },
    }


def _has_traceback(record: logging.LogRecord) -> bool:
    return bool(record.exc_info)


def _renderers(as_json: bool) -> list[Any]:
    if as_json:
        return [
            structlog.processors.format_exc_info,
            structlog.processors.EventRenamer("message"),
            structlog.processors.JSONRenderer(),
        ]
    return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback, pad_event_to=0)]
