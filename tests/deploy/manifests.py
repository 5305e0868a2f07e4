"""The manifests as they are applied, and the pods that they lead to.

`tests/deploy/rendered` is what the overlays come to, written by `make manifests`.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
GOLDEN = ROOT / "tests" / "deploy" / "rendered"
OVERLAYS = sorted(path.name for path in (DEPLOY / "k8s" / "overlays").iterdir())

# What the operator calls the parts of a job, in the label dask.org/component.
DRIVER, SCHEDULER, WORKER = "job-runner", "scheduler", "worker"
NAME = {"app.kubernetes.io/name": "dkmeans"}


@dataclass(frozen=True)
class Pod:
    """A pod that a manifest leads to, with the labels that it will bear."""

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
        """The environment, the operator's part of it and the manifest's."""
        name = self.owner["metadata"]["name"]
        found = {
            "DASK_SCHEDULER_ADDRESS": f"tcp://{name}-scheduler.dkmeans.svc.cluster.local:8786",
            "DASK_WORKER_NAME": f"{name}-default-{self.worker}",
        }
        for each in self.container.get("env", ()):
            value = each.get("value", name)  # what else may stand there is the cluster's name
            found[each["name"]] = substituted(value, found)
        return found

    @property
    def arguments(self):
        """The command line, with the variables that Kubernetes puts in."""
        return [substituted(argument, self.variables) for argument in self.container["args"]]


def substituted(text, values):
    """The text with its $(NAMES) replaced; one that is not known is an error."""
    return re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], text)


def manifest(overlay):
    return list(yaml.safe_load_all((GOLDEN / f"{overlay}.yaml").read_text()))


def of_kind(overlay, *kinds):
    return [each for each in manifest(overlay) if each["kind"] in kinds]


def pods_of(resource):
    labels = resource["metadata"].get("labels", {})
    if resource["kind"] == "DaskJob":
        cluster = resource["spec"]["cluster"]["spec"]
        parts = {DRIVER: resource["spec"]["job"], **{p: cluster[p] for p in (SCHEDULER, WORKER)}}
        for component, part in parts.items():  # as the operator's controller labels them
            own = {
                "dask.org/cluster-name": resource["metadata"]["name"],
                "dask.org/component": component,
            }
            yield Pod(resource, component, labels | own, part["spec"])
    if resource["kind"] in ("Job", "CronJob"):
        job = resource["spec"]
        template = job.get("jobTemplate", {}).get("spec", job)["template"]
        yield Pod(resource, DRIVER, template["metadata"]["labels"], template["spec"])


def pods(overlay, *components):
    found = [pod for each in manifest(overlay) for pod in pods_of(each)]
    return [pod for pod in found if not components or pod.component in components]
