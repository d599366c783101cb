"""Who calls: the client's identity, for one RPC."""

from __future__ import annotations

import contextlib
import hashlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from crayon.engine import Delta, Finished, Started

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import grpc

    from crayon.completion import Usage
    from crayon.engine import Event

    Context = grpc.aio.ServicerContext[Any, Any]

# How much text one token is, where nobody has counted.
CHARS_PER_TOKEN = 4
_MAX_NAME_CHARS = 256


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that an RPC is for: its name, and how tokens are charged to it."""

    name: str
    charge: Callable[[int], None] = lambda _tokens: None

    def pay(self, usage: Usage) -> None:
        """Charge what a request has used."""
        self.charge(usage.prompt_tokens + usage.completion_tokens)


_CALLER: ContextVar[Caller] = ContextVar("crayon_caller")


@contextlib.contextmanager
def calling(caller: Caller) -> Iterator[None]:
    """Make `caller` the one that `current_caller` returns in this task."""
    token = _CALLER.set(caller)
    try:
        yield
    finally:
        _CALLER.reset(token)


def current_caller() -> Caller:
    """Return the client of the RPC that this task answers."""
    return _CALLER.get(Caller(""))


class Meter:
    """Counts an answer, and charges it at its end however it ends: a caller that hangs up pays for what was computed.

    Args:
        caller: who pays.
        prompt_chars: length of the prompt, for an answer that never tells its usage.
    """

    def __init__(self, caller: Caller, prompt_chars: int) -> None:
        self._caller = caller
        self._chars = prompt_chars
        self._started = False
        self._usage: Usage | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._usage is not None:
            self._caller.pay(self._usage)
        elif self._started:
            self._caller.charge(-(-self._chars // CHARS_PER_TOKEN))

    def see(self, event: Event) -> None:
        """Count an event of the answer."""
        if isinstance(event, Delta):
            self._chars += len(event.text)
        elif isinstance(event, Started):
            self._started = True
        elif isinstance(event, Finished):
            self._usage = event.usage


def identity(token_name: str | None, context: Context) -> str:
    """Return who calls: the token's name, else the certificate's subject, else the address without its port.

    The kind stands before it, so that no certificate passes for a token of that name.
    """
    if token_name is not None:
        return f"token:{token_name}"
    certificate = _subject(context.auth_context())
    return f"certificate:{certificate}" if certificate else host_of(context.peer())


def _subject(auth: Any) -> str:
    for key in ("x509_common_name", "x509_subject_alternative_name"):
        for value in auth.get(key, ()):
            if value:
                return str(value.decode("utf-8", "replace"))[:_MAX_NAME_CHARS]
    # Without a name, the certificate itself is one.
    return next((hashlib.sha256(pem).hexdigest() for pem in auth.get("x509_pem_cert", ()) if pem), "")


def host_of(peer: str) -> str:
    """Return whom gRPC's name of a peer stands for, without its port."""
    # ipv4:1.2.3.4:567, ipv6:[::1]:567 (percent-encoded) or unix:/path: a new connection has a new port.
    return peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
