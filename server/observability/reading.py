"""A server's metrics page, read from outside: numbers as of one moment, and rates between two."""

from __future__ import annotations

import math
import time
import urllib.error
import urllib.request
from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from crayon.errors import ServerError, ServerUnavailableError
from crayon.local_only import check_local_only
from crayon.server.observability import metric_catalogue as names

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    Labels = frozenset[tuple[str, str]]

MAX_PAGE_BYTES = 4 * 2**20


@dataclass(frozen=True, slots=True)
class Page:
    """What a page said, and when (`time.monotonic()`): values by series and labels."""

    at: float
    values: Mapping[tuple[str, Labels], float] = field(default_factory=dict)

    def get(self, name: str, **labels: str) -> float | None:
        """Return the sum of a series over all labels but the given ones; None if there is none."""
        wanted = set(labels.items())
        found = [value for (series, has), value in self.values.items() if series == name and wanted <= has]
        return sum(found) if found else None

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return the values of a series by one label's values."""
        found: defaultdict[str, float] = defaultdict(float)
        for (series, has), value in self.values.items():
            if series == name:
                found[dict(has).get(label, "")] += value
        return dict(found)

    def label(self, name: str, label: str) -> str:
        """Return what an info metric says."""
        return next(iter(self.by(name, label)), "")


def fetch(address: str, timeout: float = 5.0) -> Page:
    """Read the page of the server whose metrics are at `host:port`.

    Raises:
        PrivacyError: CRAYON_LOCAL_ONLY is on; nothing was sent.
        ServerUnavailableError: nobody answers there.
        ServerError: what answers is no metrics page of Crayon.
    """
    check_local_only()
    url = f"http://{address}/metrics"
    try:
        # The scheme is ours, and an answer is read up to a limit; no proxy is asked for a server's own port.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=timeout) as answer:
            body = answer.read(MAX_PAGE_BYTES + 1)
    except urllib.error.HTTPError as error:
        raise ServerError(f"{url} answers {error.code}: is this the port of --metrics-port?") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        why = getattr(reason, "strerror", None) or reason
        raise ServerUnavailableError(
            f"no metrics at {url}: {why}; `crayon serve --metrics-port PORT` shows them"
        ) from None
    except Exception as error:  # noqa: BLE001 - http.client has errors of its own kind for what is no HTTP
        raise ServerError(f"{url} does not speak HTTP ({type(error).__name__}): is it the gRPC port?") from None
    if len(body) > MAX_PAGE_BYTES:
        raise ServerError(f"{url} is longer than {MAX_PAGE_BYTES} bytes: it is no page of a Crayon server")
    return Page(time.monotonic(), dict(_parsed(body, url)))


def _parsed(body: bytes, url: str) -> Iterator[tuple[tuple[str, Labels], float]]:
    from prometheus_client.parser import text_string_to_metric_families

    seen = False
    try:
        for family in text_string_to_metric_families(body.decode("utf-8")):
            for sample in family.samples:
                seen = seen or sample.name == names.SERVING.name
                yield (sample.name, frozenset(sample.labels.items())), float(sample.value)
    except (ValueError, KeyError, IndexError):
        raise ServerError(f"{url} is no page of metrics") from None
    if not seen:
        raise ServerError(f"{url} is no page of a Crayon server: {names.SERVING.name} is not there")


def rate(before: Page | None, now: Page, name: str) -> float | None:
    """Return by how much a counter grows a second; None if that cannot be known, as after a restart."""
    if before is None or now.at <= before.at:
        return None
    was, is_now = before.get(name), now.get(name)
    if was is None or is_now is None or is_now < was:
        return None
    return (is_now - was) / (now.at - before.at)


def quantile(before: Page | None, now: Page, name: str, share: float) -> float | None:
    """Return a quantile of a histogram's values between two pages (or since the start), as Prometheus estimates it.

    None if there were no values; the last finite bound if it lies above it.
    """
    counts = _buckets(now, name)
    if before is not None and before.at < now.at:
        was = _buckets(before, name)
        counts = {bound: max(0.0, count - was.get(bound, 0.0)) for bound, count in counts.items()}
    total = counts.get(math.inf, 0.0)
    if not total:
        return None
    wanted, low, below = share * total, 0.0, 0.0
    for bound, count in sorted(counts.items()):
        if count >= wanted:
            if math.isinf(bound):
                return low
            inside = count - below
            return low + (bound - low) * ((wanted - below) / inside if inside else 1.0)
        low, below = bound, count
    return low


def _buckets(page: Page, name: str) -> dict[float, float]:
    return {float(bound): value for bound, value in page.by(f"{name}_bucket", "le").items()}
