"""The whole measurement of the router: users, both sides' answers, decisions, figures, plots."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from crayon.data.priors import load_priors
from crayon.lab.eval.customize import EvalReport
from crayon.lab.eval.device_runner import DeviceRunner
from crayon.lab.eval.routing.decide import Decider
from crayon.lab.eval.routing.scopes import scope_rows
from crayon.lab.eval.routing.sides import DeviceSide, ServerSide
from crayon.lab.eval.routing.summary import rows
from crayon.lab.eval.routing.traffic import make_users
from crayon.models import prepared
from crayon.router.cases import Priors
from crayon.router.signals import DEFAULT_CHOICE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from crayon.adapters.pool import Pool
    from crayon.engine import Engine
    from crayon.lab.eval.answer_cache import AnswerCache
    from crayon.lab.eval.customize import ModelUnderTest, OpenEngine, Tell
    from crayon.lab.eval.routing.decide import Routed
    from crayon.lab.eval.routing.settings import RouteSettings
    from crayon.lab.eval.routing.traffic import User

_TELL_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class RouteMeasurement:
    """The report, what its plots are drawn from, and the names of both models."""

    report: EvalReport
    results: Sequence[tuple[User, Sequence[Routed]]]
    device: str
    server: str


def evaluate_route(
    open_engine: OpenEngine,
    model: ModelUnderTest,
    pool: Pool,
    server: Engine,
    settings: RouteSettings,
    cache: AnswerCache,
    *,
    workers: int = 1,
    tell: Tell = lambda _: None,
) -> RouteMeasurement:
    """Measure who should have answered, and who did.

    Args:
        open_engine: opens the device with the given pools.
        model: what it runs.
        pool: what users are customised with.
        server: the connection to the larger model.
        settings: how much to measure.
        cache: where answers are kept; a run that was killed goes on from there.
        workers: how many questions the device answers side by side.
        tell: takes lines about the progress.

    Raises:
        ServerError: the server cannot be reached.
        ConfigError: no folder of datasets.
    """
    users = make_users(pool.manifest, settings)
    served = server.models()[0]
    with ExitStack() as stack:
        stack.callback(cache.save)
        engines = [stack.enter_context(open_engine([pool])) for _ in range(max(workers, 1))]
        subject = stack.enter_context(
            closing(DeviceRunner(engines, cache, f"{model.sha256} {prepared.library_version()}"))
        )
        name = f"{model.name} {model.quantization}".strip()
        found = scope_rows(pool, subject, settings, name, tell)
        progress = _Progress(tell, _planned(users, settings.draws))
        server_side = ServerSide(server, cache, f"{served.source_sha256 or served.name} {served.quantization}")
        priors = load_priors(model.name, served.name, DEFAULT_CHOICE) or Priors()
        decider = Decider(pool, subject, DeviceSide(subject), server_side, priors, progress.step)
        results = []
        for user in users:
            progress.what = f"{user.group} {user.name}"
            results.append((user, [decider.draw(user, draw) for draw in range(settings.draws)]))
    both = f"{name} with {served.name}"
    report = EvalReport(
        "eval route",
        {name: model.sha256, served.name: served.source_sha256, f"pool {pool.id}": pool.manifest.tensors_sha256},
        [*rows(results, both, settings), *found],
        settings=asdict(settings),
    )
    return RouteMeasurement(report, results, model.name, served.name)


def _planned(users: Sequence[User], draws: int) -> int:
    """Return how many answers all draws need: samples and known strangers of both sides, queries of three."""
    return sum(
        2 * sum(len(user.draws[draw]) + len(user.known) for draw in range(draws)) + 3 * draws * len(user.queries)
        for user in users
    )


class _Progress:
    """Tells now and then where it is and how long the rest will take."""

    def __init__(self, tell: Tell, total: int) -> None:
        self.what = ""
        self._tell = tell
        self._total = total
        self._done = 0
        self._started = self._told = time.monotonic()

    def step(self) -> None:
        """Count one answer."""
        self._done += 1
        now = time.monotonic()
        if now - self._told >= _TELL_EVERY_S:
            self._told = now
            left = (now - self._started) * (self._total - self._done) / self._done
            minutes = f"{left / 60:.0f} min" if left >= 60 else f"{left:.0f} s"
            self._tell(f"{self.what}; {self._done:,} of {self._total:,} answers, about {minutes} left")
