"""What linters cannot see of deploy/scaling and docs/how-to/scaling.md: numbers, names and flags fit each other."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest
from deploy_tools import DEPLOYMENT, KUSTOMIZATION, SERVICE, options_of
from scaling_tools import (
    FOLDER,
    GROUP,
    NODES,
    PODS,
    REPLICAS,
    ROOT,
    TEXT,
    container,
    deployed,
    documented,
    serve_settings,
    shell_commands,
)

from crayon.models.capacity import Sizes, capacity
from crayon.server.serve import SERVICE as SERVICE_NAME

GIB = 2**30
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
CLOSE_SECONDS = 10
# leaderworkerset.x-k8s.io/v1, by the documentation of its fields.
FIELDS: dict[str, set[str]] = {
    "spec": {"replicas", "leaderWorkerTemplate", "rolloutStrategy", "startupPolicy", "networkConfig"},
    "leaderWorkerTemplate": {
        "leaderTemplate",
        "workerTemplate",
        "size",
        "restartPolicy",
        "subGroupPolicy",
        "volumeClaimTemplates",
        "persistentVolumeClaimRetentionPolicy",
    },
    "rolloutStrategy": {"type", "rollingUpdateConfiguration"},
    "rollingUpdateConfiguration": {"partition", "maxUnavailable", "maxSurge"},
}
CHOICES = {
    "startupPolicy": {"LeaderCreated", "LeaderReady"},
    "restartPolicy": {"Default", "RecreateGroupOnPodRestart", "RecreateGroupAfterStart", "None"},
    "type": {"RollingUpdate"},
}


def check_fields(name: str, value: dict[str, Any]) -> None:
    assert set(value) <= FIELDS[name], name
    for key, inner in value.items():
        if key in FIELDS:
            check_fields(key, inner)
        elif key in CHOICES:
            assert inner in CHOICES[key], key


def test_the_set_is_one() -> None:
    found = NODES["LeaderWorkerSet"]
    assert found["apiVersion"] == "leaderworkerset.x-k8s.io/v1"
    assert set(found) == {"apiVersion", "kind", "metadata", "spec"}
    check_fields("spec", found["spec"])
    update = found["spec"]["rolloutStrategy"]["rollingUpdateConfiguration"]
    assert update["maxUnavailable"] + update["maxSurge"] > 0
    assert isinstance(GROUP["size"], int)


# -- the program


@pytest.mark.parametrize("words", [*deployed().values(), *documented().values()], ids=lambda words: " ".join(words[:6]))
def test_command_lines_are_the_programs(words: list[str]) -> None:
    settings = serve_settings(words)
    assert settings.engine == "vllm"
    assert {word.partition("=")[0] for word in words if word.startswith("--")} <= options_of("serve")


def flag(pod: str, name: str, default: int = 1) -> int:
    found = [word.partition("=")[2] for word in deployed()[pod] if word.startswith(f"--{name}=")]
    return int(found[0]) if found else default


def gpus(pod: str) -> int:
    resources = container(pod)["resources"]
    assert resources["requests"]["nvidia.com/gpu"] == resources["limits"]["nvidia.com/gpu"]
    return int(resources["limits"]["nvidia.com/gpu"])


def test_each_part_of_a_model_has_a_gpu() -> None:
    assert flag("replicas", "tensor-parallel") * flag("replicas", "pipeline-parallel") == gpus("replicas")
    # A stage stays within a node.
    assert flag("leader", "tensor-parallel") == gpus("leader") == gpus("worker")
    assert flag("leader", "pipeline-parallel") == GROUP["size"]


def test_the_group_is_joined_at_the_port_that_the_leader_opens() -> None:
    (head, _), (worker,) = shell_commands("leader"), shell_commands("worker")
    assert head[:3] == ["ray", "start", "--head"]
    (port,) = [word.partition("=")[2] for word in head if word.startswith("--port=")]
    assert worker[:3] == ["ray", "start", f"--address=$LWS_LEADER_ADDRESS:{port}"]
    assert "--block" in worker
    assert "--vllm=distributed_executor_backend=ray" in deployed()["leader"]


# -- Kubernetes


@pytest.mark.parametrize("pod", ["replicas", "leader"])
def test_probes_ask_where_health_is_told(pod: str) -> None:
    ports = {port["name"]: port["containerPort"] for port in container(pod)["ports"]}
    assert flag(pod, "health-port") == ports["health"]
    assert flag(pod, "metrics-port") == ports["metrics"]
    assert ports["grpc"] == SERVICE["spec"]["ports"][0]["port"]
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container(pod)[probe]["grpc"] == {"port": ports["health"], "service": SERVICE_NAME}


def test_pods_live_longer_than_answers() -> None:
    def pause(pod: str) -> int:
        return int(container(pod)["lifecycle"]["preStop"]["sleep"]["seconds"])

    for pod in ("replicas", "leader"):
        drained = pause(pod) + flag(pod, "drain-seconds") + CLOSE_SECONDS
        assert PODS[pod]["spec"]["terminationGracePeriodSeconds"] >= drained
    # All pods of a group are told to stop at the same time, and the leader's answers need the worker.
    assert pause("leader") + flag("leader", "drain-seconds") + CLOSE_SECONDS <= pause("worker")
    assert pause("worker") < PODS["worker"]["spec"]["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("pod", PODS)
def test_what_may_be_taken_away_is(pod: str) -> None:
    spec, base = PODS[pod]["spec"], DEPLOYMENT["spec"]["template"]["spec"]
    for key in ("securityContext", "serviceAccountName", "automountServiceAccountToken", "enableServiceLinks"):
        assert spec[key] == base[key], key
    assert container(pod)["securityContext"] == base["containers"][0]["securityContext"]
    mounts = {mount["name"]: mount for mount in container(pod)["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in spec["volumes"]}
    assert {mount["mountPath"] for mount in mounts.values() if not mount.get("readOnly")} == {
        "/var/lib/crayon",
        "/tmp",
        "/dev/shm",
    }


def test_only_who_serves_has_certificate_and_tokens() -> None:
    def secrets(pod: str) -> set[str]:
        volumes = PODS[pod]["spec"]["volumes"]
        return {volume["secret"]["secretName"] for volume in volumes if "secret" in volume}

    base = {v["secret"]["secretName"] for v in DEPLOYMENT["spec"]["template"]["spec"]["volumes"] if "secret" in v}
    assert secrets("replicas") == secrets("leader") == base
    assert secrets("worker") == set()


def test_services_find_those_that_serve_and_have_names_of_their_own() -> None:
    for found, pod in ((REPLICAS, "replicas"), (NODES, "leader")):
        service = found["Service"]["spec"]
        labels = PODS[pod]["metadata"]["labels"]
        assert service["clusterIP"] == "None"
        assert service["selector"].items() <= labels.items()
        policy = found["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"]
        assert policy.items() <= labels.items()
    worker = PODS["worker"]["metadata"]["labels"]
    assert not NODES["Service"]["spec"]["selector"].items() <= worker.items()
    assert NODES["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"].items() <= worker.items()
    # The controller makes a Service with the set's name.
    names = {NODES["Service"]["metadata"]["name"], REPLICAS["Service"]["metadata"]["name"]}
    assert NODES["LeaderWorkerSet"]["metadata"]["name"] not in names
    for name in names:
        assert f"{name}.{KUSTOMIZATION['namespace']}.svc.cluster.local" in TEXT
    deployment = REPLICAS["Deployment"]["spec"]
    labels = PODS["replicas"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"].items() <= labels.items()
    assert deployment["replicas"] > REPLICAS["PodDisruptionBudget"]["spec"]["maxUnavailable"]


def test_ray_is_open_to_its_own_group_only() -> None:
    rules = NODES["NetworkPolicy"]["spec"]["ingress"]
    (every_port,) = [rule for rule in rules if "ports" not in rule]
    selector = NODES["NetworkPolicy"]["spec"]["podSelector"]
    assert every_port["from"] == [{"podSelector": selector}]
    assert NODES["NetworkPolicy"]["spec"]["policyTypes"] == ["Ingress"]


def test_the_images_are_what_the_text_builds() -> None:
    images = {container(pod)["image"] for pod in PODS}
    assert images == {f"registry.example/crayon-vllm:{VERSION}"}
    assert f"docker build -f deploy/scaling/Dockerfile -t crayon-vllm:{VERSION} ." in TEXT
    dockerfile = (FOLDER / "Dockerfile").read_text("utf-8")
    assert f"crayon-vllm:{VERSION}" in dockerfile
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    wanted = re.search(r"^ARG VLLM=v(.+)$", dockerfile, re.MULTILINE)
    assert wanted
    assert extras["vllm"] == [f"vllm=={wanted[1]}"]
    assert f"vLLM {wanted[1]}" in TEXT
    user = str(DEPLOYMENT["spec"]["template"]["spec"]["securityContext"]["runAsUser"])
    assert f"USER {user}:{user}" in dockerfile


def test_files_that_are_named_are_there() -> None:
    named = set(re.findall(r"deploy/scaling/[\w.]+", TEXT))
    assert {path.name for path in FOLDER.iterdir()} == {name.rpartition("/")[2] for name in named}
    for name in re.findall(r"\]\(([\w./-]+\.md)\b", TEXT):
        assert (ROOT / "docs" / "how-to" / name).exists()


# -- the arithmetic


def test_the_table_is_computed() -> None:
    rows = re.search(r"<!-- capacity: .*?-->\n\n(.*?)\n\n<!-- end", TEXT, re.DOTALL)
    assert rows
    lines = rows[1].splitlines()[2:]
    assert len(lines) == 4
    for line in lines:
        shape, weights, devices, parts, per_token, tokens, requests = (
            cell.strip() for cell in line.strip("| ").split("|")
        )
        layers, heads, dim = map(int, shape.split(","))
        count, memory = re.findall(r"\d+", devices)
        tensor, pipeline = map(int, parts.split("x"))
        assert int(count) == tensor * pipeline
        sizes = Sizes(
            layers=layers,
            kv_heads=heads,
            head_dim=dim,
            element_bytes=2,
            weight_bytes=int(float(weights.removesuffix("GiB")) * GIB),
        )
        found = capacity(
            sizes,
            device_bytes=int(memory) * GIB,
            request_tokens=2000,
            tensor_parallel=tensor,
            pipeline_parallel=pipeline,
        )
        assert per_token == f"{found.kv_bytes_per_token / 1024:g} KiB"
        assert (tokens, requests) == (f"{found.tokens:,}", f"{found.requests:,}")


def test_the_clients_numbers_are_the_clients() -> None:
    from crayon.client import balancer, prober

    said = (
        f"every {balancer.CHECK_S:g} s, and those that failed after {balancer.FIRST_PAUSE_S:g} s",
        f"up to {balancer.LAST_PAUSE_S:g} s",
        f"every {prober.NAMES_S:g} s while",
        f"After {prober.IDLE_S:g} s without a request",
    )
    words = " ".join(TEXT.split())
    for part in said:
        assert part in words, part
