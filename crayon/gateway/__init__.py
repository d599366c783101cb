"""The gateway: OpenAI's, Anthropic's and Ollama's HTTP routes in front of a client that decides which side answers.

`crayon.gateway:app` is an ASGI application made of the settings, for who runs it under a server of their own;
`crayon gateway` runs it under uvicorn. It needs the extra `gateway`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from starlette.types import ASGIApp

    app: ASGIApp


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module 'crayon.gateway' has no attribute {name!r}")
    from crayon.gateway.application import application

    made = globals()["app"] = application()  # once: whoever asks again means the same models
    return made
