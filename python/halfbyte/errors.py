"""The error family. Everything halfbyte raises on purpose is a HalfbyteError; its text says what to do."""

from __future__ import annotations


class HalfbyteError(Exception):
    """Base class. ``message`` says what was found and expected, ``hint`` what to do (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(f"{message} {hint}".strip())
        self.message = message
        self.hint = hint


class FormatError(HalfbyteError, ValueError):
    """A file is damaged or is not what it claims to be."""


class UnsupportedError(HalfbyteError):
    """A valid file or request that halfbyte cannot serve (architecture, tensor type, schema keyword)."""


class InvalidArgumentError(HalfbyteError, ValueError):
    """An argument is out of range or of no meaning."""


class ConstraintError(InvalidArgumentError):
    """An answer could not be held to its grammar any further: nothing may follow, or finding out costs too much."""


class OutOfMemoryError(HalfbyteError, MemoryError):
    """An allocation was refused or would not fit the machine."""


class ContextOverflowError(HalfbyteError, ValueError):
    """Prompt and answer do not fit the context."""


class CancelledError(HalfbyteError):
    """The caller stopped the work."""


class BusyError(HalfbyteError):
    """The queue of waiting requests is full; the same request may succeed later."""


class FileError(HalfbyteError, OSError):
    """The operating system refused a file operation."""


class ModelNotFoundError(HalfbyteError, FileNotFoundError):
    """No model of that name: not a file, not an alias, not in the store, or the hub does not have it."""


class DownloadError(HalfbyteError, OSError):
    """A download failed or its content does not match its hash."""


class TemplateError(HalfbyteError, ValueError):
    """A chat template failed, looped, or touched what it must not."""
