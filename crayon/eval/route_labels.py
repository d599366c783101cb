"""The router's metrics tried on known answers: which of two real models was right on public questions (RouteLLM's)."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crayon.data.lines import read_lines
from crayon.data.qa import data_folder
from crayon.errors import ConfigError, InvalidRequestError
from crayon.router import apgr, cpt, curve, oracle_curve, outcomes

if TYPE_CHECKING:
    from collections.abc import Sequence

FILE = "routing/small_vs_large.jsonl.gz"
GROUPS = ("mmlu", "gsm8k", "all")
ORDERS = 20
_SEED = 150


@dataclass(frozen=True, slots=True)
class Label:
    """One question of a dataset, and who got it right."""

    id: str
    weak: bool
    strong: bool


@dataclass(frozen=True, slots=True)
class LabelMetrics:
    """What the labels of one group say; all but APGR and counts in per cent.

    Args:
        group: "mmlu", "gsm8k" or "all".
        n: questions.
        weak: accuracy of the weak model alone.
        strong: of the strong one.
        only_weak: questions that only the weak one gets right.
        only_strong: that only the strong one does.
        neither: that neither does.
        oracle_cpt50: least share of calls, in per cent, with which an order that knows all recovers half of the gap.
        oracle_cpt80: likewise 80 % of it.
        oracle_peak: its best accuracy.
        oracle_peak_share: least share of calls for that.
        oracle_apgr: its average performance gap recovered, unclipped.
        random_apgr: mean of 20 random orders.
        random_apgr_spread: their standard deviation.
    """

    group: str
    n: int
    weak: float
    strong: float
    only_weak: float
    only_strong: float
    neither: float
    oracle_cpt50: float | None
    oracle_cpt80: float | None
    oracle_peak: float
    oracle_peak_share: float
    oracle_apgr: float | None
    random_apgr: float | None
    random_apgr_spread: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the fields as plain values."""
        return asdict(self)


def load_labels() -> list[Label]:
    """Return all labels of the folder of datasets, in the order of the file.

    Raises:
        ConfigError: the folder has no such file.
        InvalidRequestError: the file cannot be read, or a line is no label.
    """
    path = data_folder() / FILE
    if not path.is_file():
        raise ConfigError("CRAYON_DATA", f"{path} is not there; set CRAYON_DATA to a folder that has it")
    labels = [_label(line, where) for line, where in read_lines(path, "labels")]
    if len({label.id for label in labels}) < len(labels):
        raise InvalidRequestError("labels", f"{path.name} has one id twice")
    return labels


def measure(labels: Sequence[Label], group: str) -> LabelMetrics:
    """Return the metrics of one group of labels.

    Raises:
        InvalidRequestError: there is no such group, or no label in it.
    """
    if group not in GROUPS:
        raise InvalidRequestError("group", f"must be one of {', '.join(GROUPS)}, not {group!r}")
    chosen = [label for label in labels if group == "all" or label.id.startswith(group)]
    if not chosen:
        raise InvalidRequestError("labels", f"none is of {group}")
    weak, strong = [label.weak for label in chosen], [label.strong for label in chosen]
    oracle, who = oracle_curve(weak, strong), outcomes(weak, strong)
    rng = np.random.default_rng(_SEED)
    random = [value for _ in range(ORDERS) if (value := apgr(curve(weak, strong, rng.random(len(chosen))))) is not None]
    peak_share, peak = oracle.peak
    return LabelMetrics(
        group=group,
        n=len(chosen),
        weak=100 * oracle.device,
        strong=100 * oracle.server,
        only_weak=100 * who.only_device,
        only_strong=100 * who.only_server,
        neither=100 * who.neither,
        oracle_cpt50=_per_cent(cpt(oracle, 0.5)),
        oracle_cpt80=_per_cent(cpt(oracle, 0.8)),
        oracle_peak=100 * peak,
        oracle_peak_share=100 * peak_share,
        oracle_apgr=apgr(oracle),
        random_apgr=float(np.mean(random)) if random else None,
        random_apgr_spread=float(np.std(random, ddof=1)) if random else None,
    )


def _per_cent(share: float | None) -> float | None:
    return None if share is None else 100 * share


def _label(line: str, where: str) -> Label:
    try:
        fields: dict[str, Any] = json.loads(line)
        label = Label(fields["id"], fields["small_correct"], fields["large_correct"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidRequestError("labels", f"{where} is not a label: {error!r}") from None
    if not isinstance(label.id, str) or not isinstance(label.weak, bool) or not isinstance(label.strong, bool):
        raise InvalidRequestError("labels", f"{where}: must have an id and two flags")
    return label
