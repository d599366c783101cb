"""Which errors of the device are its own inability, so that a server that may answer is asked instead."""

from __future__ import annotations

from crayon.errors import (
    ChatTemplateError,
    CrayonError,
    DownloadError,
    EngineClosedError,
    EngineError,
    ModelFileError,
    OverloadedError,
    PromptTooLongError,
)

DEVICE_FAILURES = (
    PromptTooLongError,
    ChatTemplateError,
    EngineError,
    OverloadedError,
    ModelFileError,
    DownloadError,
)


def is_devices_own(error: CrayonError) -> bool:
    """Return whether an error says what this device cannot do; what the caller did wrong is wrong everywhere."""
    return isinstance(error, DEVICE_FAILURES) and not isinstance(error, EngineClosedError)
