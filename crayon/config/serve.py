"""The section `[serve]`: every key is an option of `crayon serve`, whose help, range and default stand here only."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from pydantic import Field

from crayon.config.fields import (
    EMPTY_IS_NONE,
    Float,
    Int,
    OptionalBool,
    OptionalFloat,
    OptionalInt,
    OptionalPath,
    Section,
    Texts,
)
from crayon.server.config import ServeConfig

# Where it listens and how it stops has its defaults where it is checked.
_LISTENING = ServeConfig()


class EngineKind(StrEnum):
    """What answers: a model in llama.cpp, or an echo for tests."""

    LLAMA_CPP = "llama_cpp"
    ECHO = "echo"


class Predict(StrEnum):
    """How much room an answer is given in the cache."""

    WORST = "worst"
    MEAN = "mean"
    QUANTILE = "quantile"
    PAPER = "paper"


class Overlap(StrEnum):
    """Whether prompts are read and answers written at the same time."""

    NONE = "none"
    DUAL = "dual"


class KvCache(StrEnum):
    """How requests divide the cells of the cache."""

    SPLIT = "split"
    UNIFIED = "unified"


class ServeSettings(Section):
    """What `crayon serve` offers, and how. No key holds a secret: a command line can be read by others."""

    engine: Annotated[
        EngineKind, Field(description="llama_cpp runs a model; echo says back what it hears, for tests.")
    ] = EngineKind.LLAMA_CPP
    model: Annotated[
        str,
        Field(
            min_length=1,
            description="The model: name, path or reference (crayon models ls).",
            json_schema_extra={"metavar": "MODEL"},
        ),
    ] = "qwen2.5-coder-1.5b-instruct"
    host: Annotated[
        str, Field(min_length=1, description="A loopback address, localhost, or unix:/path for a socket file.")
    ] = _LISTENING.host
    port: Annotated[Int, Field(ge=0, le=65535, description="0 picks a free one.")] = _LISTENING.port
    health_host: Annotated[
        str, Field(min_length=1, description="Where --health-port listens; 0.0.0.0 for probes from outside.")
    ] = _LISTENING.health_host
    health_port: Annotated[
        OptionalInt,
        Field(ge=1, le=65535, description="Answer grpc.health.v1, and nothing else, there too, always in plain text."),
    ] = _LISTENING.health_port
    pools: Annotated[
        Texts,
        Field(
            description="Adapters to blend: name or folder; may be given again.",
            json_schema_extra={"flag": "--pool", "metavar": "POOL"},
        ),
    ] = ()
    slots: Annotated[
        OptionalInt, Field(ge=1, le=256, description="Most requests computed together; if not given, as tuned, or 8.")
    ] = None
    ctx: Annotated[Int, Field(ge=16, description="Tokens of context of all slots together; memory grows with it.")] = (
        32768
    )
    threads: Annotated[
        OptionalInt, Field(ge=1, description="Compute threads; if not given, as tuned, or all cores it may use.")
    ] = None
    batch: Annotated[OptionalInt, Field(ge=1, description="Most tokens computed in one step; 512 if not given.")] = None
    step_ms: Annotated[
        OptionalFloat,
        Field(ge=0, description="How long a step may delay answers being written; 0: any. 250 if not given."),
    ] = None
    late_share: Annotated[
        OptionalFloat,
        Field(
            ge=0,
            le=1,
            description="Share of steps that may be longer than --step-ms, so that prompts are read whole; 0.04 if not "
            "given.",
        ),
    ] = None
    first_ms: Annotated[
        OptionalFloat,
        Field(ge=1, description="Steps may be longer where a prompt waits so long; 1500 if not given."),
    ] = None
    predict: Annotated[
        Predict | None,
        EMPTY_IS_NONE,
        Field(description="Room for an answer in the cache: all it may get, or as much as answers seen got."),
    ] = None
    spill: Annotated[
        OptionalBool, Field(description="Set requests aside where the cache is fuller than predicted.")
    ] = None
    idle_prefixes: Annotated[
        OptionalInt, Field(ge=0, le=256, description="Finished requests that later ones may begin with.")
    ] = None
    blend_quantum: Annotated[
        OptionalInt, Field(ge=0, description="Tokens of one blend before the next one's turn; 0: one step.")
    ] = None
    plan_ahead: Annotated[OptionalBool, Field(description="Plan the next step while one is computed.")] = None
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
    stats_file: Annotated[
        OptionalPath,
        Field(
            description="Keep the engine's counters there, as JSON, for benches.", json_schema_extra={"metavar": "PATH"}
        ),
    ] = None
    tune: Annotated[bool, Field(description="Search for up to 30 s at a model's first start (crayon tune server).")] = (
        False
    )
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
    echo_delay: Annotated[Float, Field(ge=0, description="With --engine echo: seconds for each word.")] = 0.0
