"""A stand-in for OpenVINO GenAI's continuous batching: one token a step for everybody, and no model."""

from __future__ import annotations

import os
from enum import Enum
from typing import Any


class SchedulerConfig:
    pass


class GenerationConfig:
    max_new_tokens = 0
    ignore_eos = do_sample = True


class GenerationStatus(Enum):
    RUNNING = 0
    FINISHED = 1


class Output:
    def __init__(self, ids: list[int]) -> None:
        self.generated_ids = ids


class Handle:
    def __init__(self, left: int) -> None:
        self.left = left
        self.unread: list[int] = []

    def can_read(self) -> bool:
        return bool(self.unread)

    def read(self) -> dict[int, Output]:
        ids, self.unread = self.unread, []
        return {0: Output(ids)}

    def get_status(self) -> GenerationStatus:
        return GenerationStatus.RUNNING if self.left else GenerationStatus.FINISHED

    def stop(self) -> None:
        self.left = 0


class ContinuousBatchingPipeline:
    def __init__(self, path: str, config: SchedulerConfig, device: str, properties: dict[str, int]) -> None:
        if os.environ.get("FAKE_UNREADABLE", "\0") in path:
            raise RuntimeError("unsupported GGUF tensor type")
        assert device == "CPU"
        assert properties == {"INFERENCE_NUM_THREADS": 1}
        assert config.dynamic_split_fuse  # type: ignore[attr-defined]  # set by the worker
        self._handles: list[Handle] = []

    def add_request(self, _: int, ids: Any, config: GenerationConfig) -> Handle:
        if ids.data.shape[1] == 13:
            raise RuntimeError("an unlucky prompt")
        assert config.ignore_eos
        assert not config.do_sample
        self._handles.append(Handle(config.max_new_tokens))
        return self._handles[-1]

    def has_non_finished_requests(self) -> bool:
        return any(handle.left for handle in self._handles)

    def step(self) -> None:
        for handle in self._handles:
            if handle.left:
                handle.left -= 1
                handle.unread.append(1)
