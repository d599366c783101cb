"""A customisation as its user gets it: made, checked, saved under a name, and answered by through the SDK."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from crayon.customising.customise import check, customise
from crayon.customising.store import CustomizationStore
from crayon.errors import PromptTooLongError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from crayon import Crayon
    from crayon.completion import Blend, Route
    from crayon.customising.customise import NewCustomization
    from crayon.customising.customization import Customization
    from crayon.customising.device_calls import DeviceCalls
    from crayon.customising.sample import Sample
    from crayon.data.qa import Item
    from crayon.lab.eval.answer_cache import AnswerCache

PATIENCE_S = 600.0
_LEAST = 1e-30


@dataclass(frozen=True, slots=True)
class Product:
    """A customisation that was checked.

    Args:
        customization: as it is saved.
        key: stands for its weights, its evidence and its samples.
        draft: what it was made from, before the check.
    """

    customization: Customization
    key: str
    draft: NewCustomization

    @property
    def kinds(self) -> tuple[str, ...]:
        """What answers in any of its profiles: "blend", "examples", "classes"; () where the plain base does."""
        found = [kind for profile in self.customization.profiles for kind in profile.evidence.kinds]
        blends = ["blend"] if any(self.customization.blend(p.name) for p in self.customization.profiles) else []
        return tuple(dict.fromkeys([*blends, *found]))


@dataclass(frozen=True, slots=True)
class Given:
    """What a product answers to an item.

    Args:
        text: of `ask`.
        logs: log-probability of each option, as `choose` divides its belief; () without options.
        margin: how far the likeliest leads, 0 to 1.
        kinds: what took part, as `Route.evidence` says, and "blend".
        too_long: the question does not fit the context.
    """

    text: str
    logs: tuple[float, ...] = ()
    margin: float = 0.0
    kinds: tuple[str, ...] = ()
    too_long: bool = False

    @property
    def plain(self) -> bool:
        """Whether the plain base answered."""
        return not self.kinds and not self.too_long


def make_product(
    calls: DeviceCalls,
    folder: Path,
    samples: Sequence[Sample],
    pool_id: str | None,
    identity: Callable[[Blend | None], str],
    cache: AnswerCache,
) -> Product:
    """Customise, check and save as `Crayon.customize` does; the name says what is in it.

    Args:
        calls: the device.
        folder: where customisations are kept.
        samples: of the user.
        pool_id: as `customise` takes it.
        identity: tells one blend from another.
        cache: makes the key.
    """
    draft = customise(calls, "eval", samples, pool_id=pool_id)
    found = check(calls, draft)
    blends = [identity(found.blend(profile.name)) for profile in found.profiles]
    profiles = [asdict(profile) for profile in found.profiles]
    key = cache.key("product", blends, profiles, found.material, found.space)
    named = replace(found, name=f"eval-{key[:24]}")
    store = CustomizationStore(str(folder))
    if named.name not in store:
        store.save(named, draft.samples, draft.vectors)
    return Product(named, key, draft)


def ask_product(client: Crayon, name: str, item: Item, max_tokens: int) -> bytes:
    """Return what a client answers by a customisation, as `read_given` reads it."""
    logs: list[float] = []
    margin = 0.0
    routes: list[Route] = []
    texts = [text.strip() for text in item.choices]
    # Some data sets give one option twice.
    options = list(dict.fromkeys(texts))
    try:
        if len(options) > 1:
            chosen = client.choose(item.prompt, options, blend=name, timeout=PATIENCE_S)
            by_text = dict(zip(options, chosen.probabilities, strict=True))
            logs = [round(math.log(max(by_text[text], _LEAST)), 5) for text in texts]
            margin = round(chosen.margin, 6)
            routes.append(chosen.route)
        done = client.ask(item.prompt, blend=name, timeout=PATIENCE_S, temperature=0.0, max_tokens=max_tokens)
        routes.append(done.route)
    except PromptTooLongError:
        return json.dumps(["", [], 0.0, [], True]).encode()
    kinds = [kind for route in routes for kind in (*(("blend",) if _changes(route.blend) else ()), *route.evidence)]
    return json.dumps([done.text, logs, margin, list(dict.fromkeys(kinds)), False]).encode()


def read_given(data: bytes) -> Given:
    """Return what `ask_product` has written."""
    text, logs, margin, kinds, too_long = json.loads(data)
    return Given(text, tuple(logs), margin, tuple(kinds), too_long)


def _changes(blend: Blend | None) -> bool:
    return blend is not None and any(blend.weights)
