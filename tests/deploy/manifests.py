"""The rendered manifests, and the pods that Kubernetes and the Dask operator create from them.

`make manifests` renders the overlays into `tests/deploy/rendered`.
"""

import gzip
import re
import subprocess
from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import yaml
from dask.utils import parse_bytes

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GOLDEN = ROOT / "tests" / "deploy" / "rendered"
OVERLAYS = sorted(path.name for path in (DEPLOY / "k8s" / "overlays").iterdir())

# A parser in C, where PyYAML has one: the other one takes seconds for what is read here.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# Values of the label dask.org/component that the operator gives to the pods of a job.
DRIVER, SCHEDULER, WORKER = "job-runner", "scheduler", "worker"
NAME = {"app.kubernetes.io/name": "dkmeans"}


@dataclass(frozen=True)
class Pod:
    """Pod that is created from a resource.

    Attributes:
        owner: Resource of the manifest that the pod is created from.
        component: Value of the label dask.org/component.
        labels: Labels of the pod.
        spec: Specification of the pod.
        worker: Part of the name that the operator adds for a worker.
    """

    owner: dict[str, Any]
    component: str
    labels: dict[str, str]
    spec: dict[str, Any]
    worker: str = "worker-1"

    @property
    def container(self):
        (container,) = self.spec["containers"]
        return container

    @property
    def ports(self):
        return {port["name"]: port["containerPort"] for port in self.container.get("ports", ())}

    @property
    def variables(self):
        """Environment of the container: the operator's variables and those of the manifest."""
        name = self.owner["metadata"]["name"]
        variables = {
            "DASK_SCHEDULER_ADDRESS": f"tcp://{name}-scheduler.dkmeans.svc.cluster.local:8786",
            "DASK_WORKER_NAME": f"{name}-default-{self.worker}",
        }
        for each in self.container.get("env", ()):
            value = value_of(each, self.container["resources"], name)
            variables[each["name"]] = substitute(value, variables)
        return variables

    @property
    def arguments(self):
        """Command line of the container, with its variables substituted as Kubernetes does."""
        return [substitute(argument, self.variables) for argument in self.container["args"]]


def value_of(variable, resources, cluster):
    """Return a variable's value: its text, the name of the cluster, or one of the resources."""
    source = variable.get("valueFrom", {})
    if "resourceFieldRef" in source:
        kind, _, resource = source["resourceFieldRef"]["resource"].partition(".")
        quantity = resources[kind][resource]
        return str(parse_bytes(f"{quantity}B")) if resource == "memory" else quantity
    return variable.get("value", cluster)


def substitute(text, values):
    """Return the text with each $(NAME) replaced by its value; fail for an unknown name."""
    return re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], text)


@cache
def _parsed(overlay):
    return list(yaml.load_all((GOLDEN / f"{overlay}.yaml").read_text(), LOADER))


def manifest(overlay):
    """Return the resources of an overlay, which the caller may change."""
    return deepcopy(_parsed(overlay))


def complaints(resource):
    """Return what the schema of the Dask operator says against a resource of a kind of its own."""
    return [error.message for error in _validator(resource["kind"]).iter_errors(resource)]


@cache
def _validator(kind):
    file = ROOT / "tests" / "deploy" / f"{kind.lower()}-crd-2026.3.0.yaml.gz"
    crd = yaml.load(gzip.decompress(file.read_bytes()), LOADER)
    schema = _closed(crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"])
    schema["properties"] |= {key: {} for key in ("apiVersion", "kind", "metadata")}
    return import_module("jsonschema").Draft7Validator(schema)  # an import of some seconds


def _closed(schema):
    """Return the schema with unknown fields forbidden."""
    if isinstance(schema, list):
        return [_closed(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: _closed(value) for key, value in schema.items()}
    if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def render(folder):
    """Return the resources that a kustomization comes to, by kubectl."""
    command = ["kubectl", "kustomize", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return list(yaml.safe_load_all(done.stdout))


def of_kind(overlay, *kinds):
    return [each for each in manifest(overlay) if each["kind"] in kinds]


def pods_of(resource):
    labels = resource["metadata"].get("labels", {})
    if resource["kind"] == "DaskJob":
        cluster = resource["spec"]["cluster"]["spec"]
        parts = {DRIVER: resource["spec"]["job"], **{p: cluster[p] for p in (SCHEDULER, WORKER)}}
        for component, part in parts.items():  # with the labels that the operator's controller adds
            added = {
                "dask.org/cluster-name": resource["metadata"]["name"],
                "dask.org/component": component,
            }
            yield Pod(resource, component, labels | added, part["spec"])
    if resource["kind"] in ("Job", "CronJob"):
        job = resource["spec"]
        template = job.get("jobTemplate", {}).get("spec", job)["template"]
        yield Pod(resource, DRIVER, template["metadata"]["labels"], template["spec"])


def pods(overlay, *components):
    found = [pod for each in manifest(overlay) for pod in pods_of(each)]
    return [pod for pod in found if not components or pod.component in components]
