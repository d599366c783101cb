"""The section `[gateway]`: each key is an option of `crayon gateway`, with its help, range and default."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from crayon.config.fields import SPLIT_LIST, Float, Int, OptionalPath, Section, Texts
from crayon.wire.limits import MAX_REQUEST_BYTES


class GatewaySettings(Section):
    """Where HTTP clients are answered, and who may be one. Secrets are no options: a command line can be read."""

    host: Annotated[str, Field(min_length=1, description="An address of this machine.")] = "127.0.0.1"
    port: Annotated[Int, Field(ge=0, le=65535, description="0 picks a free one.")] = 11435
    allowed_hosts: Annotated[
        Texts,
        Field(
            description="A name that requests may call this machine by, beside localhost and its addresses; may be "
            "given again. Others are refused: a page could have its own name lead here.",
            json_schema_extra={"flag": "--allowed-host", "metavar": "NAME"},
        ),
    ] = ()
    cors_origins: Annotated[
        Texts,
        Field(
            description="Pages from there may ask, such as https://app.example.org; may be given again. None if not "
            "given.",
            json_schema_extra={"flag": "--cors-origin", "metavar": "ORIGIN"},
        ),
    ] = ()
    tokens: Annotated[tuple[SecretStr, ...], NoDecode, SPLIT_LIST] = ()
    tokens_file: Annotated[
        OptionalPath,
        Field(
            description="Who may ask, by bearer token (an OpenAI client's API key): one name:token a line, # for "
            "comments; chmod 600. SIGHUP reads it again.",
            json_schema_extra={"metavar": "PATH"},
        ),
    ] = None
    tls_cert: Annotated[
        OptionalPath,
        Field(description="Speak HTTPS with this certificate chain (PEM).", json_schema_extra={"metavar": "PATH"}),
    ] = None
    tls_key: Annotated[
        OptionalPath,
        Field(description="Its private key (PEM, no password; chmod 600).", json_schema_extra={"metavar": "PATH"}),
    ] = None
    tls_client_ca: Annotated[
        OptionalPath,
        Field(
            description="Take only clients with a certificate of these authorities.",
            json_schema_extra={"metavar": "PATH"},
        ),
    ] = None
    insecure_plain_text: Annotated[
        bool, Field(description="Speak plain HTTP where other machines can listen, too.")
    ] = False
    insecure_no_tokens: Annotated[
        bool, Field(description="Let everybody in who can reach the port from another machine.")
    ] = False
    max_tokens: Annotated[
        Int, Field(ge=1, description="Longest answer where a request does not say, as far as the context goes.")
    ] = 1024
    max_requests: Annotated[
        Int, Field(ge=1, le=4096, description="Most requests at a time; more are refused, with the time to come back.")
    ] = 64
    max_body_bytes: Annotated[Int, Field(ge=1024, description="The largest request that is read.")] = MAX_REQUEST_BYTES
    stored_responses: Annotated[
        Int,
        Field(ge=0, description="Answers of /v1/responses kept in memory for previous_response_id; the oldest go."),
    ] = 256
    keep_alive_seconds: Annotated[
        Float, Field(gt=0, description="How long a stream may be silent before a comment keeps its connection open.")
    ] = 10.0
    idle_minutes: Annotated[
        Float,
        Field(ge=0, description="Unload the models after so long without a request; the next loads them (0: never)."),
    ] = 30.0
    drain_seconds: Annotated[
        Float, Field(ge=0, description="How long running answers may go on after the first signal.")
    ] = 30.0
    ready_file: Annotated[
        OptionalPath,
        Field(
            description="Write the address here while answering, for scripts.", json_schema_extra={"metavar": "PATH"}
        ),
    ] = None
