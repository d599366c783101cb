"""How well the scope gate tells a user's own queries from others: intents of ten domains, and queries of none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from crayon.customising.customise import customise
from crayon.data.qa import load_items
from crayon.lab.bench.report import BenchRow
from crayon.lab.eval.cases import as_samples
from crayon.lab.eval.routing.traffic import shuffled
from crayon.router.metrics import auroc
from crayon.router.scope import ScopeGate

if TYPE_CHECKING:
    from collections.abc import Callable

    from crayon.adapters.pool import Pool
    from crayon.lab.eval.device_runner import DeviceRunner
    from crayon.lab.eval.routing.settings import RouteSettings

OUT_OF_SCOPE = "oos"


def scope_rows(
    pool: Pool, subject: DeviceRunner, settings: RouteSettings, model: str, tell: Callable[[str], None]
) -> list[BenchRow]:
    """Return the mean AUROC over the domains in turn: against queries of no domain, and against the other domains."""
    test = load_items(settings.intents, "test")
    domains = sorted({item.task for item in test} - {OUT_OF_SCOPE})
    tell(f"scope: embedding {len(test)} queries of {len(domains)} domains")
    vectors, _, _ = subject.calls.vectors(pool, [item.prompt for item in test])
    task = np.array([item.task for item in test])
    found: dict[str, dict[str, list[float]]] = {"scope_auroc_oos": {}, "scope_auroc_domains": {}}
    for domain in domains:
        train = load_items(settings.intents, "train", domain)
        for draw in range(settings.draws):
            samples = as_samples(shuffled(train, settings.seed, domain, draw)[: settings.samples])
            draft = customise(subject.calls, "eval", samples, pool_id=pool.id)
            gate = ScopeGate([profile.scope() for profile in draft.customization.profiles])
            verdicts = [gate.judge(vector) for vector in vectors]
            inside = np.array([verdict.score - verdict.threshold for verdict in verdicts])
            own = task == domain
            for name, others in (
                ("scope_auroc_oos", task == OUT_OF_SCOPE),
                ("scope_auroc_domains", ~own & (task != OUT_OF_SCOPE)),
            ):
                part = own | others
                value = auroc(own[part].astype(float), inside[part])
                if value is not None:
                    found[name].setdefault(domain, []).append(value)
    rows = []
    for name, by_domain in found.items():
        if not by_domain:
            continue  # the data set has no such queries
        means = [float(np.mean(values)) for values in by_domain.values()]
        note = ", ".join(f"{domain} {mean:.3f}" for domain, mean in zip(by_domain, means, strict=True))
        rows.append(
            BenchRow(name, float(np.mean(means)), "ratio", tuple(means), model, f"{settings.samples} samples",
            note=note,
                n=len(test), draws=settings.draws)
        )  # fmt: skip
    return rows
