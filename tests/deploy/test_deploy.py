"""The manifests, the Dockerfile and the compose file are valid and agree with each other.

The rendered manifests are checked against the schemas of Kubernetes and of the Dask operator
(dask-kubernetes 2026.3.0), and their command lines against the parsers of the programs.
"""

import json
import re
import shutil
import tomllib
from copy import deepcopy
from importlib import import_module

import pytest
import yaml
from dask.utils import parse_bytes
from distributed import Scheduler
from distributed.cli import dask_scheduler, dask_worker
from distributed.http.scheduler.prometheus.core import SchedulerMetricCollector
from dkmeans_jobs.input import open_input
from dkmeans_jobs.parser import parse
from packaging.requirements import Requirement

import dkmeans
from tests.deploy.manifests import (
    DEPLOY,
    DRIVER,
    GOLDEN,
    NAME,
    OVERLAYS,
    ROOT,
    SCHEDULER,
    WORKER,
    complaints,
    manifest,
    of_kind,
    pods,
    render,
)

# Kinds that operators add to Kubernetes.
OF_OPERATORS = ("DaskJob", "PodMonitor", "PrometheusRule")
VERSIONS = ("1.32", "1.33", "1.34", "1.35", "1.36", "1.37")


@pytest.fixture(scope="module")
def kubernetes_validate():
    """The package of that name. Its import takes seconds, which only one process spends."""
    return import_module("kubernetes_validate")


def selects(selector, labels):
    return selector["matchLabels"].items() <= labels.items()


def megabytes(quantity):
    assert re.fullmatch(r"\d+[MG]i", quantity), quantity
    return parse_bytes(f"{quantity}B") // 2**20


def cpus(quantity):
    assert re.fullmatch(r"\d+", quantity), quantity
    return int(quantity)


def option(arguments, name):
    (found,) = [a.partition("=")[2] for a in arguments if a.startswith(f"{name}=")]
    return found


def parsed(arguments):
    """Return the command line as its program parses it."""
    program, *rest = arguments
    if program == "dkmeans":
        return parse(rest)
    main = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[rest[0]]
    return main.make_context(rest[0], rest[1:]).params


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_rendered_overlay_is_up_to_date(overlay):
    if not shutil.which("kubectl"):
        pytest.skip("kubectl, which renders overlays, is not installed")
    assert render(DEPLOY / "k8s" / "overlays" / overlay) == manifest(overlay)


def test_each_overlay_has_been_rendered():
    assert sorted(path.stem for path in GOLDEN.iterdir()) == OVERLAYS


def resources():
    """Return the resources of all overlays, and the operator's pods, each of them once."""
    every = []
    for overlay in OVERLAYS:
        every += [each for each in manifest(overlay) if each["kind"] not in OF_OPERATORS]
        for pod in pods(overlay):
            meta = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}}
            every.append({**meta, "spec": pod.spec})
    return {json.dumps(each, sort_keys=True): each for each in every}.values()


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_in_the_schema_of_kubernetes(version, kubernetes_validate):
    for resource in resources():
        kubernetes_validate.validate(resource, version, strict=True)


def test_the_documented_versions_of_kubernetes_are_the_tested_ones():
    assert f"{VERSIONS[0]} to {VERSIONS[-1]}" in (ROOT / "docs" / "operations.md").read_text()


def test_a_misspelt_field_is_found(kubernetes_validate):
    (job,) = of_kind("plain", "Job")
    job["spec"]["backofLimit"] = job["spec"].pop("backoffLimit")
    with pytest.raises(kubernetes_validate.ValidationError, match="backofLimit"):
        kubernetes_validate.validate(job, VERSIONS[0], strict=True)


@pytest.mark.parametrize("overlay", [name for name in OVERLAYS if of_kind(name, "DaskJob")])
def test_every_field_is_in_the_schema_of_the_operator(overlay):
    (job,) = of_kind(overlay, "DaskJob")
    assert complaints(job) == []


@pytest.mark.parametrize(
    ("path", "name"),
    [((), "clusters"), (("cluster", "spec", "worker"), "replica"), (("job", "spec"), "restart")],
)
def test_a_field_that_is_not_in_the_schema_of_the_operator_is_found(path, name):
    (job,) = of_kind("train-cpu", "DaskJob")
    job = deepcopy(job)
    place = job["spec"]
    for key in path:
        place = place[key]
    place[name] = 1
    assert name in "".join(complaints(job))


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_command_line_can_be_parsed(overlay):
    for pod in pods(overlay):
        parsed(pod.arguments)
        assert "command" not in pod.container, "the image's entrypoint must stay"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_input_of_every_driver_has_a_known_ending(overlay, tmp_path):
    for pod in pods(overlay, DRIVER):
        (address,) = parsed(pod.arguments).input
        local = address.replace("s3://bucket", str(tmp_path))
        with pytest.raises(dkmeans.InvalidData, match=re.escape(local)):  # nothing is there
            open_input([local], None)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_all_containers_run_one_image_of_this_version(overlay):
    target = "gpu" if overlay.endswith("gpu") else "cpu"
    images = {pod.container["image"] for pod in pods(overlay)}
    assert images == {f"registry.example.com/dkmeans:{dkmeans.__version__}-{target}"}
    assert f" AS {target}\n" in (DEPLOY / "Dockerfile").read_text()


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_memory_limits_of_containers_and_processes_are_equal(overlay):
    for pod in pods(overlay):
        resources = pod.container["resources"]
        limit = megabytes(resources["limits"]["memory"])
        assert megabytes(resources["requests"]["memory"]) == limit
        if pod.component == WORKER:
            assert parse_bytes(option(pod.arguments, "--memory-limit")) // 2**20 == limit
            threads = int(option(pod.arguments, "--nthreads"))
            assert threads == cpus(resources["requests"]["cpu"])


@pytest.mark.parametrize("overlay", ["plain", "retrain"])
def test_a_pod_with_its_own_workers_has_memory_for_them_and_the_driver(overlay):
    (pod,) = pods(overlay)
    asked = parsed(pod.arguments)
    limit = megabytes(pod.container["resources"]["limits"]["memory"])
    assert asked.workers * parse_bytes(asked.memory_limit) // 2**20 + 4096 == limit
    cores = cpus(pod.container["resources"]["requests"]["cpu"])
    assert asked.workers * asked.threads_per_worker == cores


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_containers_declare_the_ports_that_their_processes_listen_at(overlay):
    listening = {SCHEDULER: ("--port", "--dashboard-address")}
    listening[WORKER] = ("--worker-port", "--nanny-port", "--dashboard-address")
    listening[DRIVER] = ("--metrics-port",)
    for pod in pods(overlay):
        if pod.component == DRIVER and pod.arguments[1] != "train":
            assert not pod.ports
            continue
        ports = {int(option(pod.arguments, n).lstrip(":")) for n in listening[pod.component]}
        assert ports == set(pod.ports.values())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_probes_and_services_use_declared_ports(overlay):
    for pod in pods(overlay):
        probes = [value for key, value in pod.container.items() if key.endswith("Probe")]
        assert bool(probes) == (pod.component != DRIVER)
        assert {probe["httpGet"]["port"] for probe in probes} <= {"http-dashboard"} & {*pod.ports}
    for pod in pods(overlay, SCHEDULER):
        service = pod.owner["spec"]["cluster"]["spec"]["scheduler"]["service"]
        assert service["selector"].items() <= pod.labels.items()
        offered = {port["targetPort"]: port["port"] for port in service["ports"]}
        assert offered == pod.ports
        assert service["type"] == "ClusterIP"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_network_policy_admits_dask_and_nothing_else(overlay):
    policies = {each["metadata"]["name"]: each for each in of_kind(overlay, "NetworkPolicy")}
    everyone, operator = policies["dkmeans"], policies["dkmeans-operator"]
    (inward,) = everyone["spec"]["ingress"]
    assert inward["from"] == [{"podSelector": {"matchLabels": NAME}}]
    needed = {
        port
        for pod in pods(overlay)
        for name, port in pod.ports.items()
        if name not in ("http-dashboard", "http-metrics")
    }
    assert needed <= {port["port"] for port in inward["ports"]} == {8786, 9000, 9001}
    assert inward["ports"] == everyone["spec"]["egress"][0]["ports"]
    for pod in pods(overlay):
        assert selects(everyone["spec"]["podSelector"], pod.labels)
        assert selects(operator["spec"]["podSelector"], pod.labels) == (pod.component == SCHEDULER)


def test_prometheus_reads_the_metrics_of_each_pod_that_has_some():
    (monitor,) = of_kind("example", "PodMonitor")
    endpoints = {each["port"] for each in monitor["spec"]["podMetricsEndpoints"]}
    (policy,) = [
        each
        for each in of_kind("example", "NetworkPolicy")
        if each["metadata"]["name"] == "dkmeans-metrics"
    ]
    admitted = {each["port"] for each in policy["spec"]["ingress"][0]["ports"]}
    watched = [pod for pod in pods("example") if selects(monitor["spec"]["selector"], pod.labels)]
    assert {pod.component for pod in watched} == {DRIVER, SCHEDULER, WORKER}
    read = [{pod.ports[name] for name in endpoints & pod.ports.keys()} for pod in watched]
    assert [len(each) for each in read] == [1] * len(watched)
    assert set.union(*read) == admitted
    assert all(selects(policy["spec"]["podSelector"], pod.labels) for pod in watched)


def test_alerts_ask_for_metrics_of_dask_that_exist():
    scheduler = Scheduler(dashboard=False)
    exported = {
        f"{metric.name}_total" if metric.type == "counter" else metric.name
        for metric in SchedulerMetricCollector(scheduler).collect()
    }
    (rules,) = of_kind("example", "PrometheusRule")
    asked = set(re.findall(r"dask_\w+", " ".join(r["expr"] for r in rules_of(rules))))
    assert asked
    assert asked <= exported


def rules_of(resource):
    return [rule for group in resource["spec"]["groups"] for rule in group["rules"]]


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_pod_of_the_operator_has_one_disruption_budget(overlay):
    for pod in pods(overlay):
        budgets = [
            each
            for each in of_kind(overlay, "PodDisruptionBudget")
            if selects(each["spec"]["selector"], pod.labels)
        ]
        assert len(budgets) == (pod.owner["kind"] == "DaskJob")


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_pods_meet_the_restricted_standard_of_kubernetes(overlay):
    user = int(re.search(r"^USER (\d+):", (DEPLOY / "Dockerfile").read_text(), re.M)[1])
    for pod in pods(overlay):
        assert pod.spec["automountServiceAccountToken"] is False
        assert pod.spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "seccompProfile": {"type": "RuntimeDefault"},
        }
        assert pod.container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_volumes_accounts_and_namespaces_that_are_named_exist(overlay):
    (account,) = of_kind(overlay, "ServiceAccount")
    (namespace,) = of_kind(overlay, "Namespace")
    for resource in manifest(overlay):
        if resource["kind"] != "Namespace":
            assert resource["metadata"]["namespace"] == namespace["metadata"]["name"]
        assert resource["metadata"]["labels"].items() >= NAME.items()
    for pod in pods(overlay):
        assert pod.spec["serviceAccountName"] == account["metadata"]["name"]
        mounted = {mount["name"] for mount in pod.container["volumeMounts"]}
        assert mounted == {volume["name"] for volume in pod.spec["volumes"]}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_only_driver_and_workers_have_credentials(overlay):
    for pod in pods(overlay):
        secrets = [each["secretRef"]["name"] for each in pod.container.get("envFrom", ())]
        assert secrets == ([] if pod.component == SCHEDULER else ["dkmeans-s3"])


@pytest.mark.parametrize("overlay", ["plain", "retrain"])
def test_a_job_is_repeated_after_an_outage_and_not_after_a_mistake(overlay):
    (pod,) = pods(overlay)
    job = pod.owner["spec"].get("jobTemplate", {}).get("spec", pod.owner["spec"])
    rules = job["podFailurePolicy"]["rules"]
    actions = {
        code: rule["action"]
        for rule in rules
        for code in rule.get("onExitCodes", {}).get("values", ())
    }
    assert actions == {2: "FailJob", 75: "Ignore", 143: "Ignore"}
    assert pod.spec["restartPolicy"] == "Never"


def test_only_workers_run_on_spot_nodes():
    for pod in pods("train-spot"):
        node = pod.spec["affinity"]["nodeAffinity"]
        terms = node["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        operators = {e["operator"] for term in terms for e in term["matchExpressions"]}
        assert operators == ({"In"} if pod.component == WORKER else {"NotIn"})
        assert ("tolerations" in pod.spec) == (pod.component == WORKER)


def test_only_workers_have_gpus():
    for pod in pods("train-gpu"):
        limits = pod.container["resources"]["limits"]
        assert ("nvidia.com/gpu" in limits) == (pod.component == WORKER)


def test_with_tls_every_process_uses_nothing_else():
    (settings,) = of_kind("train-tls", "ConfigMap")
    comm = yaml.safe_load(settings["data"]["tls.yaml"])["distributed"]["comm"]
    assert comm["require-encryption"] is True
    assert set(comm["tls"]) == {"ca-file", "scheduler", "worker", "client"}
    for pod in pods("train-tls"):
        assert {"name": "tls", "mountPath": "/etc/dask", "readOnly": True} in pod.container[
            "volumeMounts"
        ]
        line = " ".join(pod.arguments)
        assert "tcp://" not in line
        assert "--protocol=tls" in line or "tls://dkmeans-train-scheduler:8786" in line


def pins(name):
    found = re.findall(r"^([\w.-]+)==(\S+)", (DEPLOY / "locks" / f"{name}.txt").read_text(), re.M)
    assert len(dict(found)) == len(found) > 0
    return dict(found)


def test_the_image_installs_locked_packages_that_meet_the_requirements():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {"cpu": project["dependencies"] + extras["prometheus"] + extras["sklearn"]}
    extra = (DEPLOY / "locks/gpu.in").read_text().splitlines()
    wanted["gpu"] = wanted["cpu"] + [line for line in extra if not line.startswith("#")]
    for target, requirements in wanted.items():
        for requirement in map(Requirement, requirements):
            assert requirement.specifier.contains(pins(target)[requirement.name])
    assert pins("cpu").items() <= pins("gpu").items()


def compose():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


@pytest.mark.parametrize("service", compose())
def test_a_service_of_the_compose_file_is_restricted_and_its_command_line_can_be_parsed(service):
    about = compose()[service]
    asked = parsed(about["command"])
    assert about["image"] == f"dkmeans:{dkmeans.__version__}-cpu"
    assert (about["read_only"], about["cap_drop"]) == (True, ["ALL"])
    assert "ports" not in about
    assert set(about.get("depends_on", ())) <= set(compose())
    if service == "worker":
        assert parse_bytes(asked["memory_limit"]) == parse_bytes(about["mem_limit"] + "iB")
