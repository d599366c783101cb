"""What is believed of a pair of models' accuracies before a user's own queries tell."""

from __future__ import annotations

import tomllib
from importlib import resources
from typing import TYPE_CHECKING, Any

from crayon.router.cases import Prior, Priors
from crayon.router.device_map import CurvePrior

if TYPE_CHECKING:
    from collections.abc import Mapping


def load_priors(device: str, server: str | None = None, signal: str = "") -> Priors | None:
    """Return the priors of a pair of models, or None: nothing is known of it.

    Args:
        device: the device's model, by its catalogue name.
        server: the server's; None where it is not known: then the pair that is usual for the device.
        signal: what tells how sure the device is; the curve is left out where it was measured for another.
    """
    text = resources.files("crayon.data").joinpath("priors.toml").read_text(encoding="utf-8")
    for pair in tomllib.loads(text)["pairs"]:
        if pair["device"] == device and server in {None, pair["server"]}:
            return Priors(
                device=_prior(pair["device_inside"]),
                server=_prior(pair["server_inside"]),
                outside_device=_prior(pair["device_outside"]),
                outside_server=_prior(pair["server_outside"]),
                curve=_curve(pair.get("device_curve", {}), signal),
            )
    return None


def _prior(counts: Mapping[str, float]) -> Prior:
    return Prior(counts["right"], counts["wrong"])


def _curve(values: Mapping[str, Any], signal: str) -> CurvePrior | None:
    if values.get("signal") != signal:
        return None
    return CurvePrior(values["slope"], values["slope_sd"], values["intercept"], values["intercept_sd"])
