"""The models that the gateway names: the router, each side, and each customisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from crayon.completion import Mode, Source
from crayon.engine import BLEND, CONSTRAIN, ENCODE, GENERATE
from crayon.errors import InvalidRequestError, UnknownModelError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from crayon.engine import ModelInfo

ROUTER = "crayon"
# What an engine can do, in the words that clients look for.
# A grammar holds an answer to a schema, and calls of tools to the model's own form.
_WORDS = {GENERATE: ("completion",), ENCODE: ("embedding",), CONSTRAIN: ("json_schema", "tools"), BLEND: ("blend",)}


@dataclass(frozen=True, slots=True, kw_only=True)
class VirtualModel:
    """A name that clients may ask for, and what that means.

    Args:
        id: the name.
        mode: who may answer; None leaves it to the settings and the request.
        blend: the customisation that answers.
        infos: the models behind it, as far as they can be told now.
        own: whether it is a server's own: there is nobody else who could answer.
    """

    id: str
    mode: Mode | None = None
    blend: str | None = None
    infos: tuple[ModelInfo, ...] = ()
    own: bool = False

    @property
    def context_length(self) -> int | None:
        """The longest that any side takes, prompt and answer together; None where that cannot be told now."""
        return max((info.context_tokens for info in self.infos), default=None)

    @property
    def capabilities(self) -> list[str]:
        """What it can do, in clients' words."""
        can = {word for info in self.infos for word in info.capabilities}
        return [said for word, words in _WORDS.items() if word in can for said in words]

    def as_openai(self, created: int) -> dict[str, Any]:
        """Return its entry in `/v1/models`."""
        return {
            "id": self.id,
            "object": "model",
            "created": created,
            "owned_by": "crayon",
            "context_length": self.context_length,
            "max_model_len": self.context_length,
            "capabilities": self.capabilities,
            "crayon": {
                "mode": None if self.mode is None else str(self.mode),
                "customization": self.blend,
                "models": [info.name for info in self.infos],
            },
        }


def hybrid_models(
    sides: Mapping[Source, Sequence[ModelInfo]], customizations: Iterable[str]
) -> tuple[VirtualModel, ...]:
    """Return the models in front of a device, a server or both: first the router."""
    firsts = {source: tuple(infos[:1]) for source, infos in sides.items()}
    found = [VirtualModel(id=ROUTER, infos=tuple(info for infos in firsts.values() for info in infos))]
    for source, mode in ((Source.DEVICE, Mode.ONLY_ON_DEVICE), (Source.SERVER, Mode.ONLY_ON_SERVER)):
        if source in sides:
            found.append(VirtualModel(id=f"{ROUTER}/{source}", mode=mode, infos=firsts[source]))
    if Source.DEVICE in sides:
        taken = {model.id for model in found}
        found += [
            VirtualModel(id=f"{ROUTER}/{name}", blend=name, infos=firsts[Source.DEVICE])
            for name in customizations
            if f"{ROUTER}/{name}" not in taken
        ]
    return tuple(found)


def own_models(infos: Sequence[ModelInfo]) -> tuple[VirtualModel, ...]:
    """Return the model of a server that offers its own, under its own name."""
    return tuple(VirtualModel(id=info.name, infos=(info,), own=True) for info in infos[:1])


def find_model(models: Sequence[VirtualModel], name: str | None) -> VirtualModel:
    """Return the model that a request names.

    Raises:
        InvalidRequestError: it names none.
        UnknownModelError: there is no such one.
    """
    if name is None:
        raise InvalidRequestError("model", f"must be given, such as {models[0].id!r}; /v1/models lists them")
    for model in models:
        if model.id == name:
            return model
    known = ", ".join(model.id for model in models[:20])
    raise UnknownModelError(f"the model {name[:100]!r} does not exist here; there is: {known}")
