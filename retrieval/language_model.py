"""The language model that the operator has named: one question, one answer, by the protocol of OpenAI's chat."""

import http.client
import json
import logging
import time
import urllib.error
import urllib.request
from typing import Any

from django.conf import settings

from registry.errors import NotReady

logger = logging.getLogger(__name__)

TIMEOUT_S = 20
MAX_BYTES = 256 * 1024


class LanguageModelUnavailable(NotReady):
    """None is configured, or it does not answer as it should; its cause is for the log."""

    code = "llm_unavailable"

    def __init__(self, message: str, *, retry_after_s: int = 10) -> None:
        super().__init__(message, retry_after_s=retry_after_s)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """The key and the question go where the operator said, and nowhere else."""

    def redirect_request(self, *_: Any) -> None:
        return None


_opener = urllib.request.build_opener(_NoRedirects)


def ask(prompt: str) -> str:
    """What the model answers to a prompt. Raises: LanguageModelUnavailable."""
    if not (settings.ROUTER_LLM_URL and settings.ROUTER_LLM_MODEL):
        raise LanguageModelUnavailable(
            "No language model is configured: the operator has to set ROUTER_LLM_URL and ROUTER_LLM_MODEL. "
            'With {"choose": "prompt"} you get the prompt for one of your own.',
            retry_after_s=3600,
        )
    try:
        return _content(json.loads(_answer(prompt)))
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, RecursionError) as error:
        logger.warning("The language model at %s failed: %r", settings.ROUTER_LLM_URL, error)
        raise LanguageModelUnavailable("The language model does not answer as it should. Try again later.") from error


def _answer(prompt: str) -> bytes:
    """The body of the answer. Raises: OSError, HTTPException: no answer in time; ValueError: one that is too long."""
    question = {
        "model": settings.ROUTER_LLM_MODEL,
        "messages": [{"role": "user", "content": prompt}],
        "temperature": 0,
    }
    headers = {"Content-Type": "application/json"}
    if settings.ROUTER_LLM_KEY:
        headers["Authorization"] = f"Bearer {settings.ROUTER_LLM_KEY}"
    url = f"{settings.ROUTER_LLM_URL.rstrip('/')}/chat/completions"
    if not url.startswith(("http://", "https://")):
        raise ValueError("ROUTER_LLM_URL must begin with http:// or https://.")
    request = urllib.request.Request(url, json.dumps(question).encode(), headers)  # noqa: S310 (checked above)
    deadline = time.monotonic() + TIMEOUT_S
    with _opener.open(request, timeout=TIMEOUT_S) as response:
        body = bytearray()
        while part := response.read1(65536):
            body += part
            if len(body) > MAX_BYTES:
                raise ValueError(f"more than {MAX_BYTES} bytes")
            if time.monotonic() > deadline:
                raise TimeoutError(f"still answering after {TIMEOUT_S} s")
    return bytes(body)


def _content(answer: Any) -> str:
    """Raises: LookupError, TypeError, ValueError: it is no chat completion."""
    text = answer["choices"][0]["message"]["content"]
    if not isinstance(text, str):
        raise ValueError("no text")
    return text
