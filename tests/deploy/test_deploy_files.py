"""What linters cannot see: that the files in deploy/ fit each other and the program."""

from __future__ import annotations

import re
import tomllib
from pathlib import PurePosixPath
from typing import Any

import pytest
import typer
from deploy_tools import (
    BUDGET,
    COMPOSE,
    CONTAINER,
    DASHBOARDS,
    DATASOURCES,
    DEPLOY,
    DEPLOYMENT,
    KUBERNETES,
    KUSTOMIZATION,
    PLACES,
    POD,
    POLICY,
    PROMETHEUS,
    ROOT,
    SERVICE,
    command_lines,
    image_environment,
    instructions,
    last,
    option,
    options_of,
    seconds,
    serve_settings,
    unit,
)

from crayon.cli.shared.app import app
from crayon.config import NOT_SETTINGS, load, setting_keys, variable
from crayon.server.serve import SERVICE as SERVICE_NAME

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PORTS = {port["name"]: port["containerPort"] for port in CONTAINER["ports"]}
FILES = [path for path in DEPLOY.rglob("*") if path.is_file() and path.parent.name != "secrets"]
# After the answers are out, the model is closed and the process ends.
CLOSE_SECONDS = 10


# -- the program


@pytest.mark.parametrize(("words"), command_lines().values(), ids=command_lines())
def test_command_lines_parse(words: list[str]) -> None:
    name, *arguments = words
    known = options_of(name)
    used = {word.partition("=")[0] for word in arguments if word.startswith("--")}
    assert used <= known
    command = typer.main.get_command(app).commands[name]  # type: ignore[attr-defined] # our own group class
    command.make_context(name, arguments).close()


@pytest.mark.parametrize("place", PLACES)
def test_settings_files_are_read_without_a_complaint(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = DEPLOY / place / "crayon.toml"
    monkeypatch.setenv("CRAYON_CONFIG", str(path))
    configuration = load()
    assert configuration.warnings == ()
    assert configuration.sources


def test_variables_are_settings() -> None:
    known = {variable(key) for key in setting_keys()} | NOT_SETTINGS
    for path in FILES:
        named = set(re.findall(r"^[^#]*\b(CRAYON_[A-Z0-9_]*[A-Z0-9])=", path.read_text("utf-8"), re.MULTILINE))
        assert named <= known, path.name
    names = {*COMPOSE["services"]["crayon"]["environment"], *(entry["name"] for entry in CONTAINER["env"])}
    assert names <= known
    # A Service named crayon would put CRAYON_PORT among them.
    assert POD["enableServiceLinks"] is False


# -- ports and probes


def test_the_port_of_requests_is_one() -> None:
    with pytest.MonkeyPatch.context() as patch:
        assert {serve_settings(place, patch).port for place in PLACES} == {PORTS["grpc"]}
    assert COMPOSE["services"]["crayon"]["ports"] == [f"{PORTS['grpc']}:{PORTS['grpc']}"]
    assert {port["name"]: port["port"] for port in SERVICE["spec"]["ports"]} == {
        name: PORTS[name] for name in ("grpc", "metrics")
    }
    assert {port["targetPort"] for port in SERVICE["spec"]["ports"]} <= set(PORTS)
    assert [rule["ports"][0]["port"] for rule in POLICY["spec"]["ingress"]] == [PORTS["grpc"], PORTS["metrics"]]
    assert {int(word) for word in last("EXPOSE").split()} == set(PORTS.values())


def test_prometheus_scrapes_the_port_that_metrics_are_on() -> None:
    lines = command_lines()
    said = {int(option(lines[name], "--metrics-port")) for name in ("compose", "deployment", "unit")}
    annotations = DEPLOYMENT["spec"]["template"]["metadata"]["annotations"]
    targets = [
        target for job in PROMETHEUS["scrape_configs"] for one in job["static_configs"] for target in one["targets"]
    ]
    assert said == {PORTS["metrics"]}
    assert targets == [f"crayon:{PORTS['metrics']}"]
    assert "crayon" in COMPOSE["services"]
    assert COMPOSE["services"]["crayon"]["expose"] == [str(PORTS["metrics"])]
    assert annotations["prometheus.io/port"] == str(PORTS["metrics"])


def test_grafana_finds_prometheus_and_shows_the_dashboard() -> None:
    configs = COMPOSE["configs"]
    assert all((DEPLOY / "docker" / config["file"]).is_file() for config in configs.values())
    targets = {entry["target"]: configs[entry["source"]]["file"] for entry in COMPOSE["services"]["grafana"]["configs"]}
    provisioning = PurePosixPath("/etc/grafana/provisioning")
    assert targets[str(provisioning / "datasources" / "prometheus.yaml")] == "./grafana/prometheus.yaml"
    assert targets[str(provisioning / "dashboards" / "crayon.yaml")] == "./grafana/dashboards.yaml"
    [provider] = DASHBOARDS["providers"]
    assert provider["type"] == "file"
    shown = [
        file for target, file in targets.items() if str(PurePosixPath(target).parent) == provider["options"]["path"]
    ]
    assert shown == ["../grafana/crayon.json"]
    [source] = DATASOURCES["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in COMPOSE["services"]


@pytest.mark.parametrize("probe", ["startupProbe", "readinessProbe", "livenessProbe"])
def test_probes_ask_for_the_service_at_the_port_without_tls(probe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    serve = serve_settings("kubernetes", monkeypatch)
    assert CONTAINER[probe]["grpc"] == {"port": serve.health_port, "service": SERVICE_NAME}
    assert serve.health_port == PORTS["health"]
    assert serve.health_host == "0.0.0.0"
    # The kubelet's default of 1 s is little for a node that computes.
    assert CONTAINER[probe]["timeoutSeconds"] >= 3


def test_a_container_is_probed_where_it_tells_health(monkeypatch: pytest.MonkeyPatch) -> None:
    port = int(image_environment()["CRAYON_SERVE__HEALTH_PORT"])
    assert port == serve_settings("docker", monkeypatch).health_port == PORTS["health"]


# -- stopping


def test_what_stops_a_server_waits_longer_than_it_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = {place: serve_settings(place, monkeypatch).drain_seconds for place in PLACES}
    pause = CONTAINER["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert POD["terminationGracePeriodSeconds"] >= pause + drain["kubernetes"] + CLOSE_SECONDS
    assert seconds(COMPOSE["services"]["crayon"]["stop_grace_period"]) >= drain["docker"] + CLOSE_SECONDS
    assert seconds(unit()["TimeoutStopSec"][0]) >= drain["systemd"] + CLOSE_SECONDS
    assert unit()["KillSignal"] == ["SIGTERM"]
    assert last("STOPSIGNAL") == "SIGTERM"


def test_a_first_start_may_fetch_the_model() -> None:
    startup = CONTAINER["startupProbe"]
    patience = startup["periodSeconds"] * startup["failureThreshold"]
    found = re.search(r"--start-period=(\w+)", last("HEALTHCHECK"))
    assert found
    assert patience == seconds(found[1]) == seconds(unit()["TimeoutStartSec"][0])


# -- who it runs as, and what it may


def test_nothing_runs_as_root() -> None:
    user, group = last("USER").split(":")
    assert int(user) >= 10000
    assert COMPOSE["services"]["crayon"]["user"] == f"{user}:{group}"
    assert POD["securityContext"]["runAsNonRoot"] is True
    assert (POD["securityContext"]["runAsUser"], POD["securityContext"]["runAsGroup"]) == (int(user), int(group))
    assert unit()["DynamicUser"] == ["yes"]
    assert [word for word, _ in instructions()].index("USER") > [word for word, _ in instructions()].index("RUN")


def test_what_may_be_taken_away_is() -> None:
    context = CONTAINER["securityContext"]
    assert context["readOnlyRootFilesystem"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert POD["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert POD["automountServiceAccountToken"] is False
    assert set(CONTAINER["resources"]) == {"requests", "limits"}
    service = COMPOSE["services"]["crayon"]
    assert (service["read_only"], service["cap_drop"]) == (True, ["ALL"])
    assert service["security_opt"] == ["no-new-privileges:true"]
    said = unit()
    for key, value in {"NoNewPrivileges": "yes", "ProtectSystem": "strict", "CapabilityBoundingSet": ""}.items():
        assert said[key] == [value]
    assert said["SystemCallFilter"] == ["@system-service", "~@privileged"]


def test_what_is_written_goes_into_volumes() -> None:
    volume = PurePosixPath("/var/lib/crayon")
    assert last("VOLUME") == f'["{volume}"]'
    places = [value for value in image_environment().values() if value.startswith("/")]
    assert len(places) >= 5
    assert all(PurePosixPath(place).is_relative_to(volume) for place in places)
    mounts = {mount["mountPath"]: mount for mount in CONTAINER["volumeMounts"]}
    assert {path for path, mount in mounts.items() if not mount.get("readOnly")} == {str(volume), "/tmp"}
    assert COMPOSE["services"]["crayon"]["volumes"] == [f"state:{volume}"]
    assert COMPOSE["services"]["crayon"]["tmpfs"] == ["/tmp"]
    assert unit()["StateDirectory"] == [volume.name]
    for value in unit()["Environment"]:
        name, _, path = value.partition("=")
        assert not path.startswith("/") or name == "CRAYON_CONFIG" or PurePosixPath(path).is_relative_to(volume)


def test_secrets_are_referred_to_and_not_there() -> None:
    mounts = {mount["name"]: PurePosixPath(mount["mountPath"]) for mount in CONTAINER["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in POD["volumes"]}
    secret = ("--tls-cert", "--tls-key", "--tokens-file")
    for place, folder in (("deployment", "/etc/crayon"), ("compose", "/run/secrets")):
        for name in secret:
            assert PurePosixPath(option(command_lines()[place], name)).is_relative_to(folder)
    assert {PurePosixPath(option(command_lines()["compose"], name)).name for name in secret} == set(COMPOSE["secrets"])
    for name in ("tls", "tokens"):
        (volume,) = [volume for volume in POD["volumes"] if volume["name"] == name]
        assert volume["secret"]["defaultMode"] == 0o440
        assert any(PurePosixPath(value.partition("=")[2]).is_relative_to(mounts[name]) for value in CONTAINER["args"])
    for path in FILES:
        text = path.read_text("utf-8")
        assert "kind: Secret" not in text
        assert "PRIVATE KEY" not in text


# -- Kubernetes' own


def test_selectors_find_the_pods() -> None:
    labels = DEPLOYMENT["spec"]["template"]["metadata"]["labels"]
    selectors: list[dict[str, Any]] = [
        DEPLOYMENT["spec"]["selector"]["matchLabels"],
        SERVICE["spec"]["selector"],
        BUDGET["spec"]["selector"]["matchLabels"],
        POLICY["spec"]["podSelector"]["matchLabels"],
    ]
    assert all(selector.items() <= labels.items() and selector for selector in selectors)
    assert SERVICE["spec"]["clusterIP"] == "None"
    # With one pod less than there are, an eviction can go on.
    assert DEPLOYMENT["spec"]["replicas"] > BUDGET["spec"]["maxUnavailable"]


def test_the_kustomization_has_every_file() -> None:
    files = {path.name for path in KUBERNETES.iterdir()} - {"kustomization.yaml", "crayon.toml"}
    assert set(KUSTOMIZATION["resources"]) == files
    (generated,) = KUSTOMIZATION["configMapGenerator"]
    (config,) = [volume for volume in POD["volumes"] if "configMap" in volume]
    assert config["configMap"]["name"] == generated["name"]
    (mount,) = [mount for mount in CONTAINER["volumeMounts"] if mount["name"] == config["name"]]
    (said,) = [entry["value"] for entry in CONTAINER["env"] if entry["name"] == "CRAYON_CONFIG"]
    assert said == f"{mount['mountPath']}/{generated['files'][0]}"


def test_images_have_the_version_of_the_project() -> None:
    version = PROJECT["project"]["version"]
    (image,) = KUSTOMIZATION["images"]
    assert image["name"] == CONTAINER["image"]
    assert image["newTag"] == version
    assert COMPOSE["services"]["crayon"]["image"] == f"crayon:{version}"
    for service in COMPOSE["services"].values():
        assert re.search(r":v?\d", service["image"]), "an image without a version is another one tomorrow"


def test_the_image_is_built_from_all_of_the_package() -> None:
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")}
    folders = {folder.split("/")[0] for folder in PROJECT["tool"]["setuptools"]["package-dir"].values()}
    metadata = {PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert allowed == folders | metadata | {"pyproject.toml"}
    assert {"server"} <= set(PROJECT["project"]["optional-dependencies"])
