"""configs/deploy/ as far as it can be checked without an engine: schemas, linters, and what the files have to say.

``tests/peers/test_deployed.py`` runs a federation under the same flags.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any

import click
import pytest
import typer.main
import yaml
from moonflower.__main__ import app
from moonflower.configs.roles import ClientConfig, Config, ServerConfig, load_config
from support import ROOT
from support.deployment import DEPLOY, unit

SIDES = ("server", "client")
USER = 10001
MEMBERS_ONLY = {"pandas", "pyarrow", "scikit-learn", "tenseal", "torch"}
DNS = {("UDP", 53), ("TCP", 53)}
KUBERNETES = ("1.29", "1.31", "1.34")


def program(name: str) -> str:
    """Return a tool of this environment or of the machine; skips where it is missing."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed here")
    return found


def manifests(side: str) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((DEPLOY / "kubernetes" / f"{side}.yaml").read_text()))


def manifest(side: str, kind: str, name: str = "") -> dict[str, Any]:
    """Return the one manifest of a kind, or of a name."""
    found = [one for one in manifests(side) if one["kind"] == kind and name in ("", one["metadata"]["name"])]
    assert len(found) == 1
    return found[0]


def pod(side: str) -> dict[str, Any]:
    return manifest(side, "StatefulSet" if side == "server" else "Deployment")["spec"]["template"]["spec"]


def service(side: str) -> dict[str, Any]:
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"][side]


def settings(side: str, file: Path) -> Config:
    return load_config(ServerConfig if side == "server" else ClientConfig, file)


def real(command: list[str]) -> bool:
    """Return whether a command of ours exists, and takes that many arguments."""
    assert command[0] == "/opt/moonflower/bin/moonflower"
    commands: Any = typer.main.get_command(app)
    found = commands.get_command(click.Context(commands), command[1])
    return found is not None and len([one for one in found.params if one.param_type_name == "argument"]) == len(
        command[2:]
    )


# Containerfiles


def instructions(side: str) -> list[tuple[str, str]]:
    text = (DEPLOY / "container" / f"{side}.Containerfile").read_text()
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#")).replace("\\\n", " ")
    return [(word, rest.strip()) for word, _, rest in (line.partition(" ") for line in lines.splitlines() if line)]


def last_stage(side: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for word, rest in instructions(side):
        if word == "FROM":
            found.clear()
        found[word].append(rest)
    return found


@pytest.mark.parametrize("side", SIDES)
def test_hadolint_finds_nothing(side: str) -> None:
    line = [program("hadolint"), "--no-color", str(DEPLOY / "container" / f"{side}.Containerfile")]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "")


@pytest.mark.parametrize("side", SIDES)
def test_an_image_runs_as_nobody_in_particular_and_without_a_shell(side: str) -> None:
    stage = last_stage(side)
    assert stage["USER"] == [f"{USER}:{USER}"]
    assert "RUN" not in stage  # nothing is changed that the build stage made
    assert "ADD" not in stage
    entry, command = (json.loads(stage[word][0]) for word in ("ENTRYPOINT", "CMD"))
    assert entry == ["/opt/moonflower/bin/moonflower"]
    assert command == [side, f"/etc/moonflower/{side}.toml"]
    assert real([*entry, *command])
    assert real(json.loads(stage["HEALTHCHECK"][0].partition("CMD ")[2]))
    assert json.loads(stage["VOLUME"][0]) == [f"/var/lib/moonflower-{side}"]
    assert "PYTHONDONTWRITEBYTECODE=1" in stage["ENV"][0]
    assert len(stage["LABEL"][0].split("org.opencontainers.image.")) == 5


@pytest.mark.parametrize("side", SIDES)
def test_an_image_is_built_from_what_the_package_is_made_of(side: str) -> None:
    found = instructions(side)
    images = [rest for word, rest in found if word == "FROM"]
    assert images == ["${PYTHON} AS build", "${PYTHON}"]
    assert found[0] == ("ARG", "PYTHON=docker.io/library/python:3.11-slim")
    copied = {name for word, rest in found if word == "COPY" for name in rest.split()[:-1]}
    for name in copied - {"--from=build", "/opt/moonflower", "/state", "*.py"}:
        assert (ROOT / name).exists(), name
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = {name.split(".")[1] for name in packages if "." in name}
    assert rooms <= copied
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "py.typed", "*.py"} <= copied


def test_the_servers_image_has_what_the_server_needs_and_no_torch() -> None:
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    needed = {re.split(r"[^\w-]", one)[0].lower() for one in wanted}
    listed = [one for one in (DEPLOY / "container" / "server.txt").read_text().splitlines() if not one.startswith("#")]
    assert set(listed) == needed - MEMBERS_ONLY
    code = (
        "import sys\n"
        "for name in ('torch', 'tenseal', 'pandas', 'sklearn', 'scipy', 'pyarrow'): sys.modules[name] = None\n"
        "import moonflower.__main__, moonflower.server.live\n"
        "import moonflower.server.door.process, moonflower.oauth.issuer.serve\n"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stderr


# Compose


def test_the_compose_file_fits_the_specifications_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed here")
    package = importlib.util.find_spec("check_jsonschema")
    if package is None or not package.origin:
        pytest.skip("check-jsonschema, which brings the schema, is not installed here")
    schema = json.loads((Path(package.origin).parent / "builtin_schemas/vendor/compose-spec.json").read_text())
    kind = jsonschema.validators.validator_for(schema)
    assert list(kind(schema).iter_errors(yaml.safe_load((DEPLOY / "compose.yaml").read_text()))) == []


@pytest.mark.parametrize("side", SIDES)
def test_a_service_may_do_as_little_as_it_needs(side: str) -> None:
    one = service(side)
    assert one["user"] == f"{USER}:{USER}"
    assert one["read_only"] is True
    assert one["cap_drop"] == ["ALL"]
    assert one["security_opt"][0] == "no-new-privileges:true"
    assert not {"cap_add", "privileged", "network_mode", "pid", "ipc", "devices", "environment", "env_file"} & set(one)
    assert all(word in one["tmpfs"][0] for word in ("/tmp:", "noexec", "nosuid", "nodev", "size="))
    assert all(volume.endswith(":ro") for volume in one["volumes"][:-1])
    assert one["volumes"][-1] == f"{side}-state:/var/lib/moonflower-{side}"
    assert one["restart"] == "on-failure:3"
    assert ("ports" in one) == (side == "server")
    test = one["healthcheck"]["test"]
    assert test[0] == "CMD"
    assert real(test[1:])
    assert (DEPLOY / one["build"]["context"]).resolve() == ROOT
    assert (ROOT / one["build"]["dockerfile"]).is_file()
    assert set(one["networks"]) == {side}


def test_files_that_compose_mounts_are_there_or_secrets() -> None:
    whole = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    for side in SIDES:
        assert (DEPLOY / f"config/{side}.toml").is_file()
        assert f"./config/{side}.toml:/etc/moonflower/{side}.toml:ro" in whole["services"][side]["volumes"]
    assert set(whole["services"]["server"]["secrets"]) == set(whole["secrets"]) == {"server.pem", "server.key"}
    profile = whole["services"]["client"]["security_opt"][1].removeprefix("seccomp=")
    assert (DEPLOY / profile).is_file()


def test_the_clients_seccomp_profile_allows_two_namespaces_and_no_more() -> None:
    profile = json.loads((DEPLOY / "container" / "client.seccomp.json").read_text())
    rules = {name: rule for rule in profile["syscalls"] for name in rule["names"]}
    assert sum(len(rule["names"]) for rule in profile["syscalls"]) == len(rules), "a system call stands there twice"
    user, net, every = 0x10000000, 0x40000000, 0x7E020000
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    assert rules["unshare"]["args"][0]["value"] == 0xFFFFFFFF & ~(user | net)
    assert rules["clone"]["args"][0]["value"] == every
    assert rules["clone3"]["action"] == "SCMP_ACT_ERRNO"
    forbidden = {"mount", "setns", "ptrace", "bpf", "keyctl", "process_vm_readv", "io_uring_setup", "userfaultfd"}
    forbidden |= {"init_module", "finit_module", "kexec_load", "reboot", "settimeofday", "clock_settime", "pivot_root"}
    forbidden |= {"open_by_handle_at", "perf_event_open", "chroot", "swapon", "umount2", "fsopen", "move_mount"}
    assert not forbidden & set(rules)


# Kubernetes


@pytest.mark.parametrize("version", KUBERNETES)
@pytest.mark.parametrize("side", [*SIDES, "client-keys"])
def test_manifests_fit_the_schemas_of_kubernetes(side: str, version: str) -> None:
    checks = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed here")
    for one in manifests(side):
        checks.validate(one, version, strict=True)


@pytest.mark.parametrize("side", SIDES)
def test_a_pod_keeps_to_the_restricted_profile(side: str) -> None:
    labels = manifest(side, "Namespace")["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "restricted"
    spec = pod(side)
    (container,) = spec["containers"]
    security = spec["securityContext"]
    assert (security["runAsNonRoot"], security["runAsUser"], security["runAsGroup"]) == (True, USER, USER)
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert security["fsGroupChangePolicy"] == "OnRootMismatch"
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert not {"hostNetwork", "hostPID", "hostIPC", "initContainers"} & set(spec)
    assert not {"env", "envFrom", "lifecycle", "command"} & set(container)
    assert spec["automountServiceAccountToken"] is False
    assert {kind for volume in spec["volumes"] for kind in volume if kind != "name"} <= {
        *("configMap", "secret", "emptyDir", "persistentVolumeClaim")
    }
    assert set(container["resources"]["limits"]) == {"memory", "ephemeral-storage"}
    assert set(container["resources"]["requests"]) == {"cpu", "memory", "ephemeral-storage"}


def test_the_job_that_makes_keys_is_confined_as_the_node_is_and_reaches_nobody() -> None:
    job = manifest("client-keys", "Job")["spec"]["template"]
    node, spec = pod("client"), job["spec"]
    (own,) = node["containers"]
    same = ("serviceAccountName", "automountServiceAccountToken", "enableServiceLinks", "securityContext")
    assert [spec[name] for name in same] == [node[name] for name in same]
    assert [one for one in node["volumes"] if one["name"] != "data"] == spec["volumes"]
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["securityContext"] == own["securityContext"]
        assert container["image"] == own["image"]
        assert [one for one in own["volumeMounts"] if one["name"] != "data"] == container["volumeMounts"]
    assert [one["args"] for one in spec["initContainers"]] == [["keys", "new", "/etc/moonflower/client.toml"]]
    assert [one["args"] for one in spec["containers"]] == [["member", "card", "/etc/moonflower/client.toml"]]
    chosen = manifest("client", "NetworkPolicy", "node")["spec"]["podSelector"]["matchLabels"]
    assert not chosen.items() <= job["metadata"]["labels"].items()


@pytest.mark.parametrize("side", SIDES)
def test_one_process_has_a_state(side: str) -> None:
    workload = manifest(side, "StatefulSet" if side == "server" else "Deployment")["spec"]
    assert workload["replicas"] == 1
    if side == "server":
        (claim,) = workload["volumeClaimTemplates"]
    else:
        claim = manifest(side, "PersistentVolumeClaim")
        assert workload["strategy"] == {"type": "Recreate"}
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]


def test_probes_use_routes_ports_and_commands_that_exist() -> None:
    (server,), (client,) = pod("server")["containers"], pod("client")["containers"]
    ports = {port["name"]: port["containerPort"] for port in server["ports"]}
    config = settings("server", DEPLOY / "config/server.toml")
    assert isinstance(config, ServerConfig)
    assert ports == {"gateway": int(config.server.listen.rpartition(":")[2])}
    for kind in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert server[kind]["httpGet"] == {"scheme": "HTTPS", "path": "/health", "port": "gateway"}
    assert '"/health"' in (ROOT / "server/door/api.py").read_text()
    assert real(client["readinessProbe"]["exec"]["command"])
    assert "livenessProbe" not in client
    assert real(["/opt/moonflower/bin/moonflower", *server["args"]])
    assert real(["/opt/moonflower/bin/moonflower", *client["args"]])
    balancer = manifest("server", "Service")["spec"]
    assert (balancer["ports"][0]["targetPort"], balancer["externalTrafficPolicy"]) == ("gateway", "Local")


def outgoing(side: str) -> dict[str, set[tuple[str, int]]]:
    """Return where a pod may connect to: an address or ``names`` → ports."""
    chosen = manifest(side, "NetworkPolicy", "server" if side == "server" else "node")["spec"]
    found = {}
    for rule in chosen["egress"]:
        (to,) = rule["to"]
        if "ipBlock" in to:
            where = to["ipBlock"]["cidr"]
        else:
            assert to["podSelector"] == {"matchLabels": {"k8s-app": "kube-dns"}}
            assert to["namespaceSelector"] == {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}
            where = "names"
        found[where] = {(port["protocol"], port["port"]) for port in rule["ports"]}
    return found


@pytest.mark.parametrize("side", SIDES)
def test_nothing_may_be_reached_that_no_policy_names(side: str) -> None:
    nothing = manifest(side, "NetworkPolicy", "nothing-by-default")["spec"]
    assert nothing == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    policies = [one for one in manifests(side) if one["kind"] == "NetworkPolicy"]
    assert len(policies) == 2
    own = next(one["spec"] for one in policies if one["metadata"]["name"] != "nothing-by-default")
    workload = manifest(side, "StatefulSet" if side == "server" else "Deployment")
    assert own["podSelector"]["matchLabels"].items() <= workload["spec"]["template"]["metadata"]["labels"].items()
    assert own["policyTypes"] == ["Ingress", "Egress"]


def test_a_node_reaches_names_server_and_issuer_and_nobody_reaches_a_node() -> None:
    assert "ingress" not in manifest("client", "NetworkPolicy", "node")["spec"]
    config = tomllib.loads((DEPLOY / "config/client.toml").read_text())
    assert config["client"]["server"].endswith(":8443")
    assert config["oauth"]["issuer"].startswith("https://")
    assert outgoing("client") == {"names": DNS, "192.0.2.10/32": {("TCP", 8443)}, "198.51.100.20/32": {("TCP", 443)}}


def test_a_server_is_reached_at_the_gateway_and_reaches_names_and_issuer() -> None:
    (rule,) = manifest("server", "NetworkPolicy", "server")["spec"]["ingress"]
    assert rule == {"ports": [{"protocol": "TCP", "port": 8443}]}
    assert outgoing("server") == {"names": DNS, "198.51.100.20/32": {("TCP", 443)}}


# Configs


@pytest.mark.parametrize("side", SIDES)
def test_every_key_of_an_example_is_accepted(side: str, tmp_path: Path) -> None:
    inline = manifest(side, "ConfigMap")["data"][f"{side}.toml"]
    (tmp_path / "inline.toml").write_text(inline)
    settings(side, DEPLOY / f"config/{side}.toml")
    settings(side, tmp_path / "inline.toml")
    example = tomllib.loads((DEPLOY / f"config/{side}.toml").read_text())
    if side == "client":
        example["client"]["isolate"] = False  # RuntimeDefault forbids it; the pod's NetworkPolicy holds instead
    assert tomllib.loads(inline) == example


def mounts(side: str) -> tuple[dict[str, bool], dict[str, bool]]:
    """Return what compose and Kubernetes mount: path in the container → may it be written to."""
    one = service(side)
    composed = {}
    for given in one["volumes"]:
        path = given.removesuffix(":ro")
        composed[path.rpartition(":")[2]] = path == given
    composed |= {f"/run/secrets/{name}": False for name in one.get("secrets", [])}
    composed |= {entry.partition(":")[0]: True for entry in one["tmpfs"]}
    (container,) = pod(side)["containers"]
    return composed, {mount["mountPath"]: not mount.get("readOnly", False) for mount in container["volumeMounts"]}


@pytest.mark.parametrize("side", SIDES)
def test_every_path_of_a_config_is_mounted_and_the_other_way_round(side: str) -> None:
    config = settings(side, DEPLOY / f"config/{side}.toml")
    if isinstance(config, ServerConfig):
        written, read = [config.server.state], [config.server.tls_cert, config.server.tls_key]
    else:
        assert isinstance(config, ClientConfig)
        assert config.data.path
        written, read = [config.client.state, config.oauth.key], [config.data.path]
    read.append(Path(f"/etc/moonflower/{side}.toml"))
    for found in mounts(side):
        for paths, writable in ((written, True), (read, False)):
            for path in paths:
                homes = [one for one in found if PurePosixPath(path).is_relative_to(one)]
                assert len(homes) == 1, path
                assert found[homes[0]] == writable, path
        used = [one for one in found if any(PurePosixPath(path).is_relative_to(one) for path in [*written, *read])]
        assert set(found) - set(used) == {"/tmp"}
    secret = next(one for one in pod("server")["volumes"] if "secret" in one)["secret"]
    assert (secret["defaultMode"], [one["path"] for one in secret["items"]]) == (0o440, ["server.pem", "server.key"])


# systemd


@pytest.fixture
def installed(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A unit whose program exists, for tools that look."""
    side = request.getfixturevalue("side")
    text = (DEPLOY / "systemd" / f"moonflower-{side}.service").read_text()
    file = tmp_path / f"moonflower-{side}.service"
    file.write_text(text.replace("/opt/moonflower/bin/moonflower", sys.executable))
    return file


@pytest.mark.parametrize("side", SIDES)
def test_systemd_understands_every_line_of_a_unit(side: str, installed: Path) -> None:
    line = [program("systemd-analyze"), "verify", "--man=no", str(installed)]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@pytest.mark.parametrize("side", SIDES)
def test_systemd_rates_a_unit_as_little_exposed(side: str, installed: Path) -> None:
    line = [program("systemd-analyze"), "security", "--no-pager", "--offline=true", "--threshold=20", str(installed)]
    said = subprocess.run(line, capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout


@pytest.mark.parametrize("side", SIDES)
def test_a_unit_stays_down_after_an_end_that_a_restart_does_not_mend(side: str) -> None:
    found = unit(side)
    assert found["RestartPreventExitStatus"] == ["2 77" if side == "client" else "2"]
    assert found["Restart"] == ["on-failure"]
    assert real(found["ExecStart"][0].split())
    assert found["User"] == found["StateDirectory"] == [f"moonflower-{side}"]
    assert found["CapabilityBoundingSet"] == [""]
    assert "AmbientCapabilities" not in found
    # the worker needs these two, and no member's process needs more
    assert found["RestrictNamespaces"] == ["user net" if side == "client" else "yes"]
