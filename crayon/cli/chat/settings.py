"""What hands that know Ollama type in a chat: /set, /show and /models."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from crayon.cli.shared import console
from crayon.errors import InvalidRequestError

if TYPE_CHECKING:
    from crayon.cli.chat.repl import Repl

# Ollama's names for ours.
_SAME = {"num_predict": "max_tokens", "num_ctx": "context"}
_WHOLE = ("max_tokens", "top_k", "seed")
_PARAMETERS = ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "stop")


def set_something(repl: Repl, argument: str) -> None:
    """Run /set system TEXT, or /set NAME VALUE (or /set parameter NAME VALUE).

    Raises:
        InvalidRequestError: there is no such setting, or the value does not fit it.
    """
    name, _, value = argument.removeprefix("parameter ").strip().partition(" ")
    name, value = _SAME.get(name, name), value.strip().strip('"')
    if name == "system":
        repl.system = value or None
        console.message("system message: " + (value or "none"))
        return
    if name == "context":
        raise InvalidRequestError("context", "holds from the model's opening on: leave, and `crayon chat --context N`")
    if name not in _PARAMETERS:
        raise InvalidRequestError("command", f"takes system or one of {', '.join(_PARAMETERS)}, and a value")
    if not value:
        repl.sampling.pop(name, None)
        console.message(f"{name}: as it was")
        return
    from crayon.sampling import Sampling
    from crayon.sdk.call.options import resolve_sampling

    changed = {**repl.sampling, name: _value(name, value)}
    resolve_sampling(Sampling(), changed)
    repl.sampling = changed
    console.message(f"{name}: {changed[name]}")


def show_settings(repl: Repl, argument: str) -> None:
    """Run /show: what holds for the next question; /show system or /show model for one of it."""
    rows = {
        "mode": str(repl.mode),
        "system": repl.system or "none",
        "blend": repl.blend or repl.customization or "none, the plain base",
        "stays here": "yes" if repl.stays_here else "no",
        "set": ", ".join(f"{name} {value}" for name, value in repl.sampling.items()) or "nothing",
        "model": repl.answers[-1].model if repl.answers else "told by the first answer",
        "messages": f"{len(repl.history)}" + (f", the oldest {repl.left_out} left out" if repl.left_out else ""),
    }
    wanted = {"system", "model"} & set(argument.split()) or set(rows)
    for label, value in rows.items():
        if label in wanted:
            console.message(f"{label:<11} {value}")


def list_models(repl: Repl, _: str) -> None:  # noqa: ARG001 - every command takes the conversation
    """Run /models: those on this machine."""
    from crayon.cli.shared import options
    from crayon.models import Store, StoreState, default_models_dir, load_catalogue

    store, catalogue = Store(options.load_settings({}).models_dir or default_models_dir()), load_catalogue()
    here = [entry.name for entry in catalogue if store.state(entry.wanted) in {StoreState.READY, StoreState.UNVERIFIED}]
    here += [name for name in store.fetched_names() if catalogue.get(name) is None]
    for name in here or ["none yet"]:
        console.message(name)
    console.message("another one: leave, and `crayon chat --device NAME`; `crayon models ls` lists all", "dim")


def _value(name: str, text: str) -> Any:
    if name == "stop":
        return [text]
    try:
        return int(text) if name in _WHOLE else float(text)
    except ValueError:
        raise InvalidRequestError(name, f"must be a number, not {text!r}") from None
