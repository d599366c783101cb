"""What customising leaves behind: weights, profiles, and what they are expected to be worth."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, field, replace
from typing import Literal

from crayon.adapters.records import read_record
from crayon.completion import Blend
from crayon.customising.evidence import NONE
from crayon.customising.profiles import BASE, Profile
from crayon.errors import AdapterError, AdapterMismatchError, InvalidRequestError

# 2: centres are of another embedding than those of 1, and profiles may hold evidence.
SCHEMA = 2
EXPORTED = "examples and closed answers stay with the samples: this is the blend alone"
# A mean over fewer samples says too much about each of them to be handed on.
MIN_SHARED = 4
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_MATERIAL = re.compile(r"(?:[0-9a-f]{16})?")
# Words that `blend` takes for something else.
RESERVED = frozenset({BASE, "auto"})


def check_name(name: object) -> str:
    """Return `name` if it can name a customisation.

    Raises:
        InvalidRequestError: it cannot.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InvalidRequestError(
            "name", "must be 1 to 64 letters, digits, dots, dashes or underscores, a letter or digit first"
        )
    if name.lower() in RESERVED or name.lower().endswith(".json"):
        raise InvalidRequestError("name", f"{name!r} stands for something else; choose another name")
    return name


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A blend that did worse than the plain base on the user's samples, so that the base was kept.

    Args:
        profile: whose blend it was.
        weights: one for each member of the pool.
        base: the plain base's figure on the profile's samples, and
        customised: the blend's; points, or nats a token.
        samples: how many samples were scored.
    """

    profile: str
    weights: tuple[float, ...]
    base: float
    customised: float
    samples: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """How the user's own samples fare, each under the weights of the others, against the plain base.

    Args:
        metric: "accuracy" in points (0 to 100) where the task is a choice, else "logprob", the mean
            log-probability (nats) of the answers' tokens.
        base: the plain base's figure.
        customised: that of what answers now: the blend, or the base where its blend was refused.
        low: and
        high: 95 % interval of the difference, from the spread over the samples; None after a single one.
        samples: how many samples were scored.
        refused: blends that did worse than the base, for information; nothing applies them.
    """

    metric: Literal["accuracy", "logprob"]
    base: float
    customised: float
    low: float | None
    high: float | None
    samples: int
    refused: tuple[Refused, ...] = ()

    @property
    def gain(self) -> float:
        """How much the blend is above the base; points, or nats a token."""
        return self.customised - self.base


@dataclass(frozen=True, slots=True, kw_only=True)
class Customization:
    """A device model made for a user's tasks: a pool and, for each task, weights of its members.

    Args:
        name: what the user calls it.
        pool_id: the pool that the weights are for; "" where the model has none.
        base: name of the model that it was made for.
        base_sha256: hash of that model's source file.
        members: names of the pool's members, in the order of the weights.
        layer: the layer whose states the profiles' centres are made of, and
        space: the id of the space they lie in (`Space.id`); "" where it is not known.
        profiles: one for each task, the one with most samples first.
        samples: how many samples there were, and
        answered: how many of them had an answer.
        created: date and time, ISO 8601 in UTC.
        expectation: what it is worth on the user's samples, where that was checked.
        note: why there is no expectation, or what else is to be known.
        material: hash of the samples and embeddings that are kept beside it, 16 hex digits; "" in an export, and in
            what was saved before there was one.
    """

    name: str
    pool_id: str
    base: str
    base_sha256: str
    members: tuple[str, ...]
    layer: int
    profiles: tuple[Profile, ...]
    samples: int
    answered: int
    created: str
    expectation: Expectation | None = None
    note: str = ""
    material: str = ""
    space: str = ""
    schema: int = field(default=SCHEMA, repr=False)

    def __post_init__(self) -> None:
        names = [profile.name for profile in self.profiles]
        if self.schema != SCHEMA:
            raise AdapterError(
                f"the customisation has schema {self.schema}, this Crayon reads {SCHEMA}; "
                + ("update Crayon" if self.schema > SCHEMA else "customise again with its samples")
            )
        if not names or len(set(names)) != len(names) or BASE in names:
            raise AdapterError("the customisation's profiles lack a name of their own")
        if not _MATERIAL.fullmatch(self.material):
            raise AdapterError("the customisation's material is no hash of 16 hex digits")
        for profile in self.profiles:
            if not len(profile.weights) == len(profile.similarity) == len(self.members):
                raise AdapterError(f"profile {profile.name!r} has not one weight for each of the pool's members")
            if not profile.centre and len(self.profiles) > 1:
                raise AdapterError(f"profile {profile.name!r} has no centre, so it cannot be told from the others")
        for refused in self.expectation.refused if self.expectation else ():
            if refused.profile not in names or len(refused.weights) != len(self.members):
                raise AdapterError(f"the refused blend of {refused.profile!r} belongs to no profile or other members")
        if len({len(profile.centre) for profile in self.profiles}) > 1:
            raise AdapterError("the customisation's profiles have centres of different sizes")

    @property
    def fits(self) -> bool:
        """Whether any profile changes what the plain base answers."""
        return any(profile.changes for profile in self.profiles)

    def refused(self, profile: str) -> Refused | None:
        """Return the blend that was refused to a profile, if one was."""
        found = self.expectation.refused if self.expectation else ()
        return next((refused for refused in found if refused.profile == profile), None)

    @property
    def scoped(self) -> bool:
        """Whether queries can be told to belong to it or not; an export of very few samples cannot."""
        return all(profile.centre for profile in self.profiles)

    def profile(self, name: str) -> Profile:
        """Return the profile of this name.

        Raises:
            InvalidRequestError: there is none.
        """
        for profile in self.profiles:
            if profile.name == name:
                return profile
        known = ", ".join(profile.name for profile in self.profiles)
        raise InvalidRequestError("profile", f"{self.name} has no profile {name!r}; there are {known}")

    def blend(self, profile: str) -> Blend | None:
        """Return the weights of a profile as a request carries them; None for "base" and where no member fits."""
        if profile == BASE:
            return None
        found = self.profile(profile)
        return Blend(self.pool_id, found.weights) if found.fits else None

    def check_base(self, source_sha256: str, model: str) -> None:
        """Check that it was made for this model.

        Raises:
            AdapterMismatchError: it was made for another one.
        """
        known = bool(source_sha256 and self.base_sha256)
        if source_sha256 != self.base_sha256 if known else model != self.base:
            raise AdapterMismatchError(
                f"customisation {self.name!r} was made for {self.base}, not for {model}; "
                f"open the device with {self.base} (or with 'auto', which does so by itself), or customise again"
            )

    def renamed(self, name: str) -> Customization:
        """Return it under another name; so is called the task that had its name, unless that is a member's."""
        if name == self.name or self.name in self.members:
            return replace(self, name=name)
        new = {self.name: name}
        profiles = tuple(replace(profile, name=new.get(profile.name, profile.name)) for profile in self.profiles)
        expectation = self.expectation
        if expectation is not None:
            refused = tuple(replace(one, profile=new.get(one.profile, one.profile)) for one in expectation.refused)
            expectation = replace(expectation, refused=refused)
        return replace(self, name=name, profiles=profiles, expectation=expectation)

    def without_samples(self) -> Customization:
        """Return what can be handed on: the weights, without examples and answers, which are the samples' own words.

        A centre that is the mean of fewer than 4 samples is left out, and so is what the samples fared with them.
        """
        few = any(profile.samples < MIN_SHARED for profile in self.profiles)
        profiles = tuple(
            replace(profile, evidence=NONE, centre=() if few else profile.centre) for profile in self.profiles
        )
        found = replace(self, profiles=profiles, material="")
        if any(profile.evidence for profile in self.profiles):
            found = replace(found, expectation=None, note=EXPORTED)
        return found

    def dump(self) -> bytes:
        """Return it as JSON."""
        record = asdict(self)
        if not self.material:
            del record["material"]  # an export can be read by a Crayon that knows of none
        return (json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n").encode()

    @classmethod
    def parse(cls, data: bytes, where: str) -> Customization:
        """Return the customisation that `data` holds; `where` names it in messages.

        Raises:
            AdapterError: it is no JSON, or a field is missing, unknown or of another type.
        """
        return read_record(cls, data, where)
