"""Errors of the HTTP interface: what went wrong, as status code and as the object OpenAI's clients expect."""

from __future__ import annotations

from typing import Any

from starlette.exceptions import HTTPException

from halfbyte import errors

# Statuses -> OpenAI's error types.
_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    415: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    500: "server_error",
    501: "server_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}

_STATUSES: list[tuple[type[errors.HalfbyteError], int, str | None]] = [
    (errors.ModelNotFoundError, 404, "model_not_found"),
    (errors.ContextOverflowError, 400, "context_length_exceeded"),
    (errors.InvalidArgumentError, 400, None),
    (errors.UnsupportedError, 400, "unsupported"),
    (errors.TemplateError, 400, None),
    (errors.DownloadError, 502, "download_failed"),
    (errors.OutOfMemoryError, 503, "out_of_memory"),
    (errors.BusyError, 503, "overloaded"),
    (errors.CancelledError, 503, "cancelled"),
]


class ApiError(HTTPException):
    """A request that is refused: an HTTPException, so that frameworks let it pass. param: the field at fault. code: for programs. retry_after_s: when to try again."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        # Messages may quote input, and lone surrogates in it could not be sent.
        self.message = message.encode("utf-8", "replace").decode()
        super().__init__(status, self.message)
        self.status = status
        self.param = param
        self.code = code
        self.retry_after_s = retry_after_s

    @classmethod
    def of(cls, error: errors.HalfbyteError, param: str | None = None) -> ApiError:
        """The refusal that an error of halfbyte amounts to."""
        for kind, status, code in _STATUSES:
            if isinstance(error, kind):
                wait_s = 1.0 if isinstance(error, errors.BusyError) else None
                return cls(status, str(error), param=param, code=code, retry_after_s=wait_s)
        return cls(500, str(error))

    @property
    def type(self) -> str:
        """OpenAI's name of this kind of error."""
        return _TYPES.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")

    def answer_headers(self) -> dict[str, str]:
        """Headers that go with it."""
        out = {}
        if self.retry_after_s is not None:
            out["retry-after"] = str(max(1, round(self.retry_after_s)))
        if self.status == 401:
            out["www-authenticate"] = "Bearer"
        return out

    def openai(self) -> dict[str, Any]:
        """The error object of OpenAI's API."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}
