"""Refusals that a caller may see: each has a stable code, an HTTP status and a sentence that says what to do."""

from typing import Any


class AppError(Exception):
    """A refusal. `message` is safe to show; `detail` is JSON; `headers` go on the HTTP answer."""

    code = "invalid"
    http_status = 400

    def __init__(self, message: str, *, detail: dict[str, Any] | None = None, headers: dict[str, str] | None = None):
        super().__init__(message)
        self.message = message
        self.detail = detail or {}
        self.headers = headers or {}


class Invalid(AppError):
    """A field, part or value that is not acceptable; `detail` maps field names to what is wrong."""


class PermissionRefused(AppError):
    code = "permission_denied"
    http_status = 403


class NotFound(AppError):
    code = "not_found"
    http_status = 404


class AlreadyExists(AppError):
    code = "already_exists"
    http_status = 409


class Conflict(AppError):
    code = "conflict"
    http_status = 409


class TooLarge(AppError):
    code = "too_large"
    http_status = 413


class InvalidSamples(AppError):
    code = "invalid_samples"
    http_status = 422


class InvalidVectors(AppError):
    code = "invalid_vectors"
    http_status = 422


class NotMergeable(AppError):
    """`detail.inputs`: `{adapter, code, message}` for each input that stands in the way."""

    code = "not_mergeable"
    http_status = 422


class NotRoutable(AppError):
    """`detail.inputs`: `{where, adapter, code, message}` for each expert that stands in the way of a bundle."""

    code = "not_routable"
    http_status = 422

    def __init__(self, inputs: list[dict[str, str]]):
        super().__init__(f"{inputs[0]['adapter']}: {inputs[0]['message']}", detail={"inputs": inputs})


class MissingPrototypes(NotRoutable):
    """The experts have nothing that the router could compare with."""

    code = "missing_prototypes"


class Throttled(AppError):
    """The caller has as much under way as one may have. Try again once some of it has ended."""

    code = "throttled"
    http_status = 429

    def __init__(self, message: str, *, retry_after_s: int = 30):
        super().__init__(message, headers={"Retry-After": str(retry_after_s)})


class NotReady(AppError):
    code = "not_ready"
    http_status = 503

    def __init__(self, message: str, *, retry_after_s: int = 5, detail: dict[str, Any] | None = None):
        super().__init__(message, detail=detail, headers={"Retry-After": str(retry_after_s)})


class StoreUnavailable(NotReady):
    """The store of files cannot be reached, is full or answers with errors; its cause is for the log. Try again."""

    def __init__(
        self, message: str = "The store of files does not answer as it should. Nothing was changed; try again soon."
    ):
        super().__init__(message, retry_after_s=10)


class BlobDamaged(AppError):
    """A stored file is missing, or its bytes do not hash to its name any more.

    Args:
        cause: which, and what is wrong with it; a note in the log's traceback, not shown to callers.
    """

    code = "not_ready"
    http_status = 503

    def __init__(self, cause: str) -> None:
        super().__init__(
            "A stored file is missing or damaged. The operator has to restore it from a backup.",
            headers={"Retry-After": "3600"},
        )
        self.add_note(cause)
