"""The section `[serve]`: every key is an option of `crayon serve`, whose help, range and default stand here only."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field, SecretStr
from pydantic_settings import NoDecode

from crayon.config.fields import (
    EMPTY_IS_NONE,
    SPLIT_LIST,
    Float,
    Int,
    OptionalBool,
    OptionalPath,
    Section,
    Texts,
)
from crayon.server.config import ServeConfig
from crayon.server.forecast.rules import LengthRule  # noqa: TC001 - pydantic evaluates the annotations at run time

MOST_NANO_BATCHES = 16
# Where it listens and how it stops has its defaults where it is checked.
_LISTENING = ServeConfig()


class EngineKind(StrEnum):
    """What answers: a model in llama.cpp or in vLLM, or an echo for tests."""

    LLAMA_CPP = "llama_cpp"
    VLLM = "vllm"
    ECHO = "echo"


class Overlap(StrEnum):
    """Whether prompts are read and answers written at the same time."""

    NONE = "none"
    DUAL = "dual"


class KvCache(StrEnum):
    """How requests divide the cells of the cache."""

    SPLIT = "split"
    UNIFIED = "unified"


class VllmScheduler(StrEnum):
    """Who decides what vLLM computes next."""

    NANO = "nano"
    STOCK = "stock"


class LogLines(StrEnum):
    """How log lines are written."""

    TEXT = "text"
    JSON = "json"


class ServeSettings(Section):
    """What `crayon serve` offers, and how. Secrets are no options: a command line can be read by others."""

    engine: Annotated[
        EngineKind,
        Field(
            description="llama_cpp runs a model on this machine's cores; vllm runs it on GPUs and on many machines "
            "(docs/reference/engines.md); echo says back what it hears, for tests."
        ),
    ] = EngineKind.LLAMA_CPP
    model: Annotated[
        str,
        Field(
            min_length=1,
            description="The model: name, path or reference (crayon models ls); with vllm the folder of one (crayon "
            "models export).",
            json_schema_extra={"metavar": "MODEL"},
        ),
    ] = "qwen2.5-coder-1.5b-instruct"
    host: Annotated[
        str, Field(min_length=1, description="An address of this machine, or unix:/path for a socket file.")
    ] = _LISTENING.host
    port: Annotated[Int, Field(ge=0, le=65535, description="0 picks a free one.")] = _LISTENING.port
    health_host: Annotated[
        str, Field(min_length=1, description="Where --health-port listens; 0.0.0.0 for probes from outside.")
    ] = _LISTENING.health_host
    health_port: Annotated[
        Int | None,
        Field(ge=1, le=65535, description="Answer grpc.health.v1, and nothing else, there too, always in plain text."),
        EMPTY_IS_NONE,
    ] = _LISTENING.health_port
    http_port: Annotated[
        Int | None,
        Field(
            ge=0,
            le=65535,
            description="Answer HTTP clients of OpenAI, Anthropic and Ollama there, too, with the same model, TLS and "
            "tokens (extra gateway); 0 picks a free one. The section [gateway] says the rest.",
            json_schema_extra={"flag": "--http"},
        ),
        EMPTY_IS_NONE,
    ] = None
    pools: Annotated[
        Texts,
        Field(
            description="Adapters to blend: name or folder; may be given again.",
            json_schema_extra={"flag": "--pool", "metavar": "POOL"},
        ),
    ] = ()
    adapters: Annotated[
        Texts,
        Field(
            description="With vllm: an adapter in PEFT's format, asked for by this name in place of the model's; may "
            "be given again.",
            json_schema_extra={"flag": "--adapter", "metavar": "NAME=FOLDER"},
        ),
    ] = ()
    slots: Annotated[
        Int | None,
        Field(ge=1, le=256, description="Most requests computed together; if not given, as tuned, or 8."),
        EMPTY_IS_NONE,
    ] = None
    ctx: Annotated[
        Int,
        Field(
            ge=16,
            description="Tokens of context of all slots together; memory grows with it. With vllm: of one request.",
        ),
    ] = 32768
    threads: Annotated[
        Int | None,
        Field(ge=1, description="Compute threads; if not given, as tuned, or all cores it may use."),
        EMPTY_IS_NONE,
    ] = None
    batch: Annotated[
        Int | None,
        Field(ge=1, description="Most tokens computed in one step; if not given, as tuned, or 512."),
        EMPTY_IS_NONE,
    ] = None
    step_ms: Annotated[
        Float | None,
        Field(ge=0, description="How long a step may delay answers being written; 0: any. 250 if not given."),
        EMPTY_IS_NONE,
    ] = None
    late_share: Annotated[
        Float | None,
        Field(
            ge=0,
            le=1,
            description="Share of steps that may be longer than --step-ms, so that prompts are read whole; 0.04 if not "
            "given.",
        ),
        EMPTY_IS_NONE,
    ] = None
    first_ms: Annotated[
        Float | None,
        Field(ge=1, description="Steps may be longer where a prompt waits so long; 1500 if not given."),
        EMPTY_IS_NONE,
    ] = None
    predict: Annotated[
        LengthRule | None,
        EMPTY_IS_NONE,
        Field(
            description="Room for an answer in the cache: all it may get (worst), or as much as answers seen got on "
            "average (mean); mean if not given."
        ),
    ] = None
    spill: Annotated[
        OptionalBool, Field(description="Set requests aside where the cache is fuller than predicted.")
    ] = None
    idle_prefixes: Annotated[
        Int | None, Field(ge=0, le=256, description="Finished requests that later ones may begin with."), EMPTY_IS_NONE
    ] = None
    blend_quantum: Annotated[
        Int | None,
        Field(ge=0, description="Tokens of one blend before the next one's turn; 0: one step."),
        EMPTY_IS_NONE,
    ] = None
    plan_ahead: Annotated[OptionalBool, Field(description="Plan the next step while one is computed.")] = None
    nano_batches: Annotated[
        Int | None,
        Field(
            ge=1,
            le=MOST_NANO_BATCHES,
            description="Engine calls for each step of a blend, at most: answers first, then prompts; 1: one for all.",
        ),
        EMPTY_IS_NONE,
    ] = None
    overlap: Annotated[
        Overlap | None,
        EMPTY_IS_NONE,
        Field(description="dual reads prompts and writes answers at once, on cores of their own."),
    ] = None
    kv: Annotated[
        KvCache | None,
        EMPTY_IS_NONE,
        Field(
            description="split: each slot has an equal part of --ctx. unified: one request may hold all of it, but "
            "steps with many requests take twice as long."
        ),
    ] = None
    max_queue: Annotated[
        Int | None,
        Field(
            ge=1,
            description="Most requests that wait; more are refused at once, with the time after which to come back. "
            "256 if not given.",
        ),
        EMPTY_IS_NONE,
    ] = None
    max_queue_tokens: Annotated[
        Int | None,
        Field(
            ge=1,
            description="Most tokens of the prompts that wait, and of one request that scores or embeds; if not given, "
            "four times --ctx, 131,072 at least.",
        ),
        EMPTY_IS_NONE,
    ] = None
    tokens: Annotated[tuple[SecretStr, ...], NoDecode, SPLIT_LIST] = ()
    tokens_file: Annotated[
        OptionalPath,
        Field(
            description="Who may call: one name:token a line, # for comments; chmod 600. SIGHUP reads it again.",
            json_schema_extra={"metavar": "PATH"},
        ),
    ] = None
    tls_cert: Annotated[
        OptionalPath,
        Field(description="Speak TLS with this certificate chain (PEM).", json_schema_extra={"metavar": "PATH"}),
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
        bool, Field(description="Speak plain text where other machines can listen, too.")
    ] = False
    insecure_no_tokens: Annotated[
        bool, Field(description="Let everybody in who can reach the port from another machine.")
    ] = False
    client_concurrent: Annotated[
        Int | None, Field(ge=1, description="Most requests at a time of one client."), EMPTY_IS_NONE
    ] = None
    client_requests_per_minute: Annotated[
        Int | None, Field(ge=1, description="Most requests a minute of one client."), EMPTY_IS_NONE
    ] = None
    client_tokens_per_minute: Annotated[
        Int | None,
        Field(ge=1, description="Most tokens a minute of one client, prompts and answers together."),
        EMPTY_IS_NONE,
    ] = None
    stats_file: Annotated[
        OptionalPath,
        Field(
            description="Keep the engine's counters there, as JSON, for benches.", json_schema_extra={"metavar": "PATH"}
        ),
    ] = None
    tune: Annotated[
        OptionalBool,
        Field(
            description="With llama.cpp: take sizes from the record of a search (crayon tune server), and search for "
            "about 30 s at a model's first start on this machine. On unless a size is given by hand."
        ),
    ] = None
    drain_seconds: Annotated[
        Float, Field(ge=0, description="How long running answers may go on after the first signal.")
    ] = _LISTENING.drain_seconds
    ready_file: Annotated[
        OptionalPath,
        Field(description="Write the address here while serving, for scripts.", json_schema_extra={"metavar": "PATH"}),
    ] = None
    exit_on_stdin_eof: Annotated[
        bool, Field(description="Stop when standard input ends: with the program that holds it.")
    ] = False
    metrics_port: Annotated[
        Int | None,
        Field(
            ge=0,
            le=65535,
            description="Show metrics for Prometheus and `crayon top` there, over HTTP; 0 picks a free one. Off if not "
            "given.",
        ),
        EMPTY_IS_NONE,
    ] = _LISTENING.metrics_port
    metrics_host: Annotated[
        str,
        Field(min_length=1, description="Where --metrics-port listens. Anybody who reaches it may read the metrics."),
    ] = _LISTENING.metrics_host
    log_format: Annotated[
        LogLines | None,
        Field(description="Log a line for every request too, as text or JSON; never what was said."),
        EMPTY_IS_NONE,
    ] = None
    vllm_scheduler: Annotated[
        VllmScheduler,
        Field(
            description="With vllm: nano lets requests in by the predicted peak of the cache, those with adapters in "
            "use first; stock is vLLM's own, and no class of ours runs in it."
        ),
    ] = VllmScheduler.NANO
    tensor_parallel: Annotated[
        Int | None, Field(ge=1, description="With vllm: devices that each layer is divided among."), EMPTY_IS_NONE
    ] = None
    pipeline_parallel: Annotated[
        Int | None, Field(ge=1, description="With vllm: stages that the layers are divided into."), EMPTY_IS_NONE
    ] = None
    data_parallel: Annotated[
        Int | None, Field(ge=1, description="With vllm: copies of the model that share the requests."), EMPTY_IS_NONE
    ] = None
    enable_dbo: Annotated[
        OptionalBool,
        Field(
            description="With vllm: its dual batch overlap, which takes effect for mixtures of experts over several "
            "devices only."
        ),
    ] = None
    vllm: Annotated[
        Texts,
        Field(
            description="With vllm: any other of its engine arguments, by its name in Python, as vllm serve --help "
            "has them; value in JSON, or else a text. May be given again. Example: gpu_memory_utilization=0.8",
            json_schema_extra={"flag": "--vllm", "metavar": "NAME=VALUE"},
        ),
    ] = ()
    echo_delay: Annotated[Float, Field(ge=0, description="With --engine echo: seconds for each word.")] = 0.0
