"""What a calibration is bound to, read off the engines that run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from crayon.customising.profile_gate import pool_for
from crayon.router.record import Binding

if TYPE_CHECKING:
    from crayon.customising.customization import Customization
    from crayon.customising.evidence import Evidence
    from crayon.engine import Engine, ModelInfo


def binding_of(device: Engine, customization: Customization | None, server_model: str = "") -> Binding:
    """Return what runs on the device, under which weights, and which model is behind the server.

    Args:
        device: the device's engine.
        customization: what is in use, if anything.
        server_model: as `server_model_of` gives it; "" where the server was not asked.

    Raises:
        AdapterError: the customisation's pool is not there.
    """
    model = device.models()[0]
    pool = None if customization is None else pool_for(customization, device)
    pool_id = "" if pool is None else f"{pool.id} {pool.manifest.tensors_sha256[:16]}".strip()
    return Binding(
        base_model=model.source_sha256 or model.name,
        # Which type it is, to be read, and the bytes: two preparations of one type need not be one file.
        quantization=f"{model.quantization} {str(getattr(device, 'file_sha256', ''))[:16]}".strip(),
        pool_id=pool_id,
        profiles=profile_hashes(customization),
        prompt_template=str(getattr(device, "template_sha256", "")),
        server_model=server_model,
    )


def profile_hashes(customization: Customization | None) -> dict[str, str]:
    """Return a hash of what each profile answers with, by its name."""
    if customization is None:
        return {}
    # Rounded numbers of ours as JSON: the same on every machine.
    return {
        profile.name: _hash(
            [profile.weights, profile.centre, profile.threshold, *_told(profile.evidence, customization.material)]
        )
        for profile in customization.profiles
    }


def _told(evidence: Evidence, material: str) -> list[object]:
    """Return what an answer depends on beside the blend: the evidence, and the samples it is made of."""
    return [asdict(evidence), material] if evidence else []


def server_model_of(model: ModelInfo) -> str:
    """Return what stands for a server's model: its name, and the hash of its file where the server tells it."""
    return f"{model.name} {model.source_sha256[:16]}".strip()


def _hash(value: object) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()
