"""The bed that one model is raced on: its file, its prompts, its bare library, and the systems on it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from crayon.lab.bench.serving.client import TimedRequest, drive
from crayon.lab.bench.serving.openvino_peer import OpenVino
from crayon.lab.bench.serving.systems import CrayonSystem, LlamaServer, SystemSettings
from crayon.lab.bench.serving.tuning import AGAIN, offline_axes, own_axes, slots_for, tune
from crayon.lab.bench.serving.workloads import CONSTANT, Workload, constant, from_trace, load_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from crayon.lab.bench.serving.client import Run
    from crayon.lab.bench.serving.optimum import Optimum
    from crayon.lab.bench.serving.peers import Peers
    from crayon.lab.bench.serving.plan import ModelPlan, Plan
    from crayon.lab.bench.serving.prompts import PromptMaker
    from crayon.lab.bench.serving.systems import System

WARM_ANSWER = 4
# Of ours: nobody watches an answer, so a step may be as long as it likes.
OFFLINE_OPTIONS = ("--step-ms", "0")


@dataclass(slots=True, kw_only=True)
class ServingTestbed:
    """Everything that the parts need of one model.

    Args:
        label: what rows call the model: its name and the type of the file.
        path: the file that all systems run.
        source: the published file, for a peer that cannot read the prepared one.
        maker: of prompts.
        optimum: what the bare library does.
        plan, model_plan: sizes.
        peers: the programs.
        threads: of every system.
        pools: adapter pools of the model, by name or folder.
        progress: is told what is being measured.
    """

    label: str
    path: Path
    source: Path
    maker: PromptMaker
    optimum: Optimum
    plan: Plan
    model_plan: ModelPlan
    peers: Peers
    threads: int
    pools: tuple[str, ...] = ()
    progress: Callable[[str], None] = lambda _: None
    workloads: dict[str, Workload] = field(default_factory=dict)
    rates: dict[str, float] = field(default_factory=dict)
    """Requests a second that our server answered offline, by workload: where a search for a rate begins."""
    unmeasured: list[str] = field(default_factory=list)
    """What could not be measured, and why."""
    known: Mapping[tuple[str, str], SystemSettings] = field(default_factory=dict)
    """Another model's best settings, by system and workload: where a short search begins."""
    best: dict[tuple[str, str], SystemSettings] = field(default_factory=dict)
    """The best settings found so far, likewise."""

    # -- what is asked

    def workload(self, name: str) -> Workload:
        """Return the requests of a workload, the same ones for every system."""
        if name not in self.workloads:
            share = self.model_plan
            if name == CONSTANT:
                self.workloads[name] = constant(share.requests)
            else:
                self.workloads[name] = from_trace(
                    name,
                    load_trace(name),
                    context=self.plan.context,
                    tokens=share.tokens,
                    most=share.requests,
                    shortest=self.maker.shortest,
                )
        return self.workloads[name]

    def jobs(self, workload: Workload, requests: int | None = None) -> list[TimedRequest]:
        """Return jobs with fresh prompts: no run can find another's in a cache."""
        return [TimedRequest(self.maker.make(pair.prompt), pair.answer) for pair in workload.pairs[:requests]]

    # -- who is asked

    def settings(self, workload: Workload) -> SystemSettings:
        """Return where the search of settings begins."""
        return SystemSettings(slots=slots_for(workload.context)[-1], context=workload.context, threads=self.threads)

    def ours(self, settings: SystemSettings, *, pools: bool = False) -> System:
        """Return our server."""
        return CrayonSystem(self.path, settings, self.pools if pools else ())

    def llama(self, settings: SystemSettings, *, reuse_prefix: bool = False) -> System:
        """Return llama-server."""
        return LlamaServer(self.peers.llama_server, self.path, settings, reuse_prefix=reuse_prefix)

    def openvino(self, settings: SystemSettings, path: Path) -> System:
        """Return OpenVINO GenAI on one of the two files."""
        return OpenVino(self.peers.openvino, path, settings)

    def warm(self, system: System) -> None:
        """Let a started system touch all its memory once."""
        drive(system, [TimedRequest(self.maker.make(max(64, self.maker.shortest)), WARM_ANSWER) for _ in range(2)])

    def run(self, system: System, jobs: list[TimedRequest], concurrency: int | None = None) -> Run:
        """Start a system, warm it, and run jobs on it once."""
        with system:
            self.warm(system)
            return drive(system, jobs, concurrency=concurrency)

    # -- with which settings

    def best_llama(self, name: str) -> SystemSettings:
        """Return llama-server's best flags for a workload, searched at the first call."""
        return self._search("llama-server", name)

    def best_ours(self, name: str) -> SystemSettings:
        """Return the best number of slots of our server, searched likewise."""
        return self._search("crayon", name)

    def _search(self, system: str, name: str) -> SystemSettings:
        searched = self.model_plan.searched
        searched_on = name if name in searched else searched[-1]
        workload = self.workload(searched_on)
        key = (system, searched_on)
        if key not in self.best:
            self.progress(f"{self.label}: the best flags of {system} on {searched_on}")
            make = self.llama if system == "llama-server" else self.ours
            start = self.settings(workload)
            if system == "crayon":
                axes = own_axes(workload.context, self.plan.slots)
                start = replace(start, batch=1024, options=OFFLINE_OPTIONS)
            else:
                axes = offline_axes(workload.context, self.plan.slots)
                start = replace(start, batch=512, ubatch=512)
            if key in self.known:
                start = self._fitted(self.known[key], workload)
                axes = tuple(axis for axis in axes if axis[0] == AGAIN[system])

            def score(settings: SystemSettings) -> float:
                return self.run(make(settings), self.jobs(workload, self._trial(settings))).tokens_per_second

            self.best[key] = tune(start, axes, score)[0]
        return self._fitted(self.best[key], self.workload(name))

    def _trial(self, settings: SystemSettings) -> int:
        """Return how many requests a trial has: all slots must be taken at least once, where there are as many."""
        return min(max(self.plan.search_requests, settings.slots), self.model_plan.requests)

    def _fitted(self, settings: SystemSettings, workload: Workload) -> SystemSettings:
        """Return settings found on one workload with the context of another."""
        return replace(settings, context=workload.context, slots=min(settings.slots, slots_for(workload.context)[-1]))
