"""The SDK: `Crayon` and `AsyncCrayon`, and what they return."""

from __future__ import annotations

from crayon.sdk.answer import Piece
from crayon.sdk.async_client import AsyncCrayon
from crayon.sdk.async_stream import AsyncAnswerStream
from crayon.sdk.call.options import CallOptions
from crayon.sdk.call.privacy import Privacy
from crayon.sdk.client import Crayon
from crayon.sdk.conversation import AsyncConversation, Conversation
from crayon.sdk.status import ClientStatus
from crayon.sdk.stream import AnswerStream

__all__ = [
    "AnswerStream",
    "AsyncAnswerStream",
    "AsyncConversation",
    "AsyncCrayon",
    "CallOptions",
    "ClientStatus",
    "Conversation",
    "Crayon",
    "Piece",
    "Privacy",
]
