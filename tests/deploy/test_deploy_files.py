"""The files of deploy/ are what the programs take them for, and agree with the server and with each other."""

import inspect
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from sdserver import ray_app
from sdserver.app.draining import INTERRUPT_SECONDS
from sdserver.engine.supervisor import STOP_SECONDS
from sdserver.settings.load import load
from sdserver.settings.model import Settings, options
from tests.deploy.balancers import (
    DEPLOY,
    ROOT,
    Address,
    envoy_program,
    haproxy_command,
    nginx_command,
    nginx_text,
    program,
)
from tests.documentation.conftest import (  # noqa: F401 - fixtures
    Routes,
    api,
    api_routes,
    client,
    maintenance_routes,
)

TEXTS = sorted(path for path in DEPLOY.rglob("*") if path.is_file() and path.suffix not in {".json", ".png"})
START = re.compile(r"start\.sh((?:[ \t]+(?:\\\n)?[^\s`]+)+)")
KUBERNETES = ("1.32", "1.34", "1.37")


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def documents(name: str) -> dict[str, Any]:
    """The objects of a file for Kubernetes, by kind and name."""
    found = yaml.safe_load_all((DEPLOY / "kubernetes" / name).read_text("utf-8"))
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in found}


def settings_of(arguments: list[str], tmp_path: Path) -> Settings:
    """What a node makes of its flags, with their folders and files below one of ours."""
    here = [re.sub(r"^(--[\w-]+=)?(?=/)", rf"\g<0>{tmp_path}", one) for one in arguments]
    for one in here:
        place = Path(one.partition("=")[2] or one)
        if place.is_relative_to(tmp_path):
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("user:password") if place.suffix else place.mkdir(exist_ok=True)
    return load(here, {}, cwd=tmp_path, root=tmp_path)


def command_lines() -> Iterator[Any]:
    for path in TEXTS:
        for number, found in enumerate(START.findall(path.read_text("utf-8").replace("\\\n", " "))):
            flags = found.partition(" > ")[0].partition(" #")[0]
            if "--" in flags:
                yield pytest.param(shlex.split(flags), id=f"{path.name}-{number}")


@pytest.mark.parametrize("flags", list(command_lines()))
def test_commands_that_are_shown_start_a_node(flags: list[str], tmp_path: Path) -> None:
    found = [flag for flag in flags if flag not in {"&", "2>&1"}]
    settings_of(found, tmp_path)


@pytest.mark.parametrize("name", ["two-instances.conf", "two-hosts.conf"])
def test_nginx_takes_its_files(name: str, tmp_path: Path) -> None:
    nodes = [Address(7860, 8001), Address(7861, 8002)]
    command = nginx_command(tmp_path, nginx_text(name, 8080, nodes))
    found = subprocess.run([*command, "-t"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "[warn]" not in found.stderr


def test_haproxy_takes_its_file(tmp_path: Path) -> None:
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    found = subprocess.run(
        [*haproxy_command(tmp_path, text), "-c"], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert "warning" not in (found.stdout + found.stderr).lower()


def test_envoy_takes_its_file() -> None:
    command = [envoy_program(), "--mode", "validate", "-c", str(DEPLOY / "envoy" / "envoy.yaml")]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert not re.search(r"\[(warning|error|critical)\]|deprecated", found.stderr), found.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    """With the path of this tree's start.sh."""
    analyze = program("systemd-analyze", "systemd")
    text = (DEPLOY / "systemd" / "sdserver.service").read_text("utf-8")
    unit = tmp_path / "sdserver.service"
    unit.write_text(text.replace("/opt/sdserver/start.sh", str(ROOT / "start.sh")))
    found = subprocess.run([analyze, "verify", unit], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "sdserver.service" not in found.stderr


def test_the_unit_waits_for_the_end_and_lets_the_engine_be(tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / "sdserver.service").read_text("utf-8")
    (command,) = re.findall(r"^ExecStart=\S+start\.sh (.*)$", text, re.M)
    (seconds,) = re.findall(r"^TimeoutStopSec=(\d+)$", text, re.M)
    assert int(seconds) > seconds_to_end(settings_of(shlex.split(command), tmp_path))
    assert "KillMode=mixed" in text
    assert "RestartPreventExitStatus=2" in text


def seconds_to_end(settings: Settings) -> float:
    """The most that a node may take from SIGTERM to its exit."""
    return settings.drain_delay + settings.shutdown_timeout + INTERRUPT_SECONDS + 2 * STOP_SECONDS


@pytest.mark.parametrize("version", KUBERNETES)
def test_kubernetes_takes_the_manifest(version: str) -> None:
    for one in documents("sdserver.yaml").values():
        kubernetes_validate.validate(one, version, strict=True)


def test_the_manifest_agrees_with_the_server(
    maintenance_routes: Routes,  # noqa: F811
    tmp_path: Path,
) -> None:
    found = documents("sdserver.yaml")
    pod = found["Deployment/sdserver"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    settings = settings_of(container["args"], tmp_path)
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"http": settings.port, "maintenance": settings.maintenance_port}
    assert settings.host == "0.0.0.0"
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        asked = container[probe]["httpGet"]
        assert f"GET {asked['path']}" in maintenance_routes
        assert asked["port"] == "maintenance"
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pod["terminationGracePeriodSeconds"] > pause + seconds_to_end(settings)
    mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
    assert [str(tmp_path) + mounts[name] for name in ("models", "data")] == [
        str(settings.models_dir),
        str(settings.data_dir),
    ]
    notes = found["Deployment/sdserver"]["spec"]["template"]["metadata"]["annotations"]
    assert notes["prometheus.io/port"] == str(settings.maintenance_port)
    assert f"GET {notes['prometheus.io/path']}" in maintenance_routes


def test_the_manifests_objects_find_each_other() -> None:
    found = documents("sdserver.yaml")
    deployment = found["Deployment/sdserver"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == labels
    claims = [
        v["persistentVolumeClaim"]["claimName"]
        for v in deployment["template"]["spec"]["volumes"]
        if "persistentVolumeClaim" in v
    ]
    assert [f"PersistentVolumeClaim/{name}" in found for name in claims] == [True]
    for name in ("Service/sdserver", "Service/sdserver-nodes"):
        assert found[name]["spec"]["selector"] == labels
        assert {port["targetPort"] for port in found[name]["spec"]["ports"]} <= {"http", "maintenance"}
    assert found["PodDisruptionBudget/sdserver"]["spec"]["selector"]["matchLabels"] == labels
    assert found["NetworkPolicy/sdserver"]["spec"]["podSelector"]["matchLabels"] == labels


@pytest.mark.parametrize("name", ["scaling-prometheus.yaml", "scaling-metrics-api.yaml"])
def test_scaling_asks_for_what_there_is(
    name: str,
    maintenance_routes: Routes,  # noqa: F811
    client: Any,  # noqa: F811
) -> None:
    from sdserver.ops.metrics import Metrics  # noqa: PLC0415
    from sdserver.ops.state import Node  # noqa: PLC0415

    (scaled,) = documents(name).values()
    objects = documents("sdserver.yaml")
    assert f"Deployment/{scaled['spec']['scaleTargetRef']['name']}" in objects
    (trigger,) = scaled["spec"]["triggers"]
    asked = trigger["metadata"]
    assert all(isinstance(value, str) for value in asked.values()), "KEDA takes texts alone"
    if trigger["type"] == "prometheus":
        shown = Metrics().text(Node("test").facts(), client).decode()
        metric = re.search(r"sdserver_\w+", asked["query"])
        assert metric
        assert f"\n{metric[0]} " in shown
    else:
        service, port, path = re.fullmatch(
            r"http://([\w-]+)\.default\.svc:(\d+)(/\w+)", asked["url"]
        ).groups()  # type: ignore[union-attr]
        assert f"GET {path}" in maintenance_routes
        assert int(port) in [one["port"] for one in objects[f"Service/{service}"]["spec"]["ports"]]
        fields = {"running": client.running, "pending": client.waiting}
        assert asked["valueLocation"] in fields


def test_compose_takes_its_file() -> None:
    schema = json.loads((Path(__file__).parent / "compose_spec.json").read_text("utf-8"))
    jsonschema.Draft7Validator(schema).validate(read("compose/compose.yaml"))


def test_compose_agrees_with_the_server_and_with_haproxy(tmp_path: Path) -> None:
    found = read("compose/compose.yaml")
    services, haproxy = found["services"], (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    addresses = {name: one["networks"]["nodes"]["ipv4_address"] for name, one in services.items()}
    for name in ("a", "b"):
        service = services[name]
        settings = settings_of(service["command"], tmp_path)
        assert settings.host == "0.0.0.0"
        assert f"server {name} {addresses[name]}:{settings.port} " in haproxy
        assert f"port {settings.maintenance_port}\n" in haproxy
        assert settings.forwarded_allow_ips == (f"{addresses['balancer']}/32",)
        assert float(service["stop_grace_period"].removesuffix("s")) > seconds_to_end(settings)
        folders = dict(volume.split(":") for volume in service["volumes"])
        assert set(folders) <= set(found["volumes"])
        assert {str(tmp_path) + folder for folder in folders.values()} == {
            str(settings.models_dir),
            str(settings.data_dir),
        }
        assert (DEPLOY / "compose" / service["build"] / "Dockerfile").is_file()
        assert service["read_only"]
    bind = services["balancer"]["volumes"][0].split(":")[0]
    assert (DEPLOY / "compose" / bind).resolve() == DEPLOY / "haproxy" / "haproxy.cfg"


def test_folders_of_compose_are_writable_in_the_image() -> None:
    """A new volume has the owner and mode of what the image has there."""
    dockerfile = (ROOT / "Dockerfile").read_text("utf-8")
    (writable,) = re.findall(r"chmod -R a\+rwX ([\w ]+)", dockerfile)
    for name in ("a", "b"):
        for volume in read("compose/compose.yaml")["services"][name]["volumes"]:
            folder = Path(volume.split(":")[1])
            assert folder.parent == Path("/usr/src/app")
            assert folder.name in writable.split()


def test_variables_that_are_shown_are_settings() -> None:
    known = {f"SDSERVER_{option.name.upper()}" for option in options()}
    for path in TEXTS:
        named = set(re.findall(r"\bSDSERVER_[A-Z_]+", path.read_text("utf-8")))
        assert named <= known, path


def test_balancers_know_every_route_that_makes_pictures(api_routes: Routes) -> None:  # noqa: F811
    """HAProxy has its queue for those alone."""
    text = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    (beginnings,) = re.findall(r"acl makes path -m beg (.*)", text)
    making = {route for route in api_routes if takes_pictures(route)}
    assert len(making) >= 7
    assert {route for route in making if not route.split()[1].startswith(tuple(beginnings.split()))} == set()
    for start in beginnings.split():
        assert any(route.startswith(f"POST {start}") for route in making), start


def takes_pictures(route: str) -> bool:
    """Routes that are answered with pictures, or what was seen on them."""
    return bool(re.match(r"POST /(sdapi/v1/(txt2img|img2img|extra-|interrogate)|v1/images/)", route))


@pytest.mark.parametrize("name", ["nginx/two-instances.conf", "nginx/two-hosts.conf"])
def test_nginx_knows_the_routes_that_it_treats_apart(name: str, api_routes: Routes) -> None:  # noqa: F811
    text = (DEPLOY / name).read_text("utf-8")
    staying, events = re.findall(r"location ~ (\S+)", text)
    paths = {route.split()[1] for route in api_routes}
    assert {path for path in paths if re.search(staying, path)} == {"/", "/login", "/v1/jobs"}
    assert {path for path in paths if re.search(events, path)} == {"/v1/events", "/v1/jobs/{job_id}/events"}


def test_all_balancers_have_the_same_cookie_and_paths() -> None:
    haproxy = (DEPLOY / "haproxy" / "haproxy.cfg").read_text("utf-8")
    envoy = (DEPLOY / "envoy" / "envoy.yaml").read_text("utf-8")
    assert "acl begins path / /login /v1/jobs\n" in haproxy
    assert 'regex: "/(login|v1/jobs)?"' in envoy
    nginx = [
        (DEPLOY / "nginx" / name).read_text("utf-8") for name in ("two-instances.conf", "two-hosts.conf")
    ]
    assert all("sdserver_node" in text for text in (haproxy, envoy, *nginx))


def test_rays_file_names_what_there_is(tmp_path: Path) -> None:
    found = read("ray/serve.yaml")
    (application,) = found["applications"]
    module, _, name = application["import_path"].partition(":")
    assert module == ray_app.__name__
    assert inspect.isfunction(getattr(ray_app, name))
    settings = settings_of(application["args"]["flags"], tmp_path)
    (deployment,) = application["deployments"]
    assert deployment["graceful_shutdown_timeout_s"] > ray_app.STOP_SECONDS
    assert seconds_to_end(settings) <= ray_app.STOP_SECONDS + 2 * STOP_SECONDS


def test_every_file_is_told_of() -> None:
    readme = (DEPLOY / "README.md").read_text("utf-8")
    links = re.findall(r"\]\(([^)#]+)[^)]*\)", readme)
    for link in links:
        assert link.startswith("https:") or (DEPLOY / link).exists(), link
    told = {(DEPLOY / link).resolve() for link in links}
    for path in TEXTS:
        assert path in told or path.parent in told or path == DEPLOY / "README.md", path
