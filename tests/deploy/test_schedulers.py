"""The recipes for schedulers are valid, and act on the exit codes of the command."""

import argparse
import gzip
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import yaml
from dkmeans_jobs.parser import build_parser, parse

import dkmeans
from tests.deploy.manifests import DEPLOY, ROOT, _closed

DAG = DEPLOY / "schedulers" / "dkmeans_nightly.py"
# Of Argo Workflows 4.1.2: the definitions that a CronWorkflow needs, without their descriptions.
SCHEMA = ROOT / "tests" / "deploy" / "cronworkflow-schema-4.1.2.json.gz"


@pytest.fixture
def resources():
    path = DEPLOY / "schedulers" / "dkmeans-nightly.yaml"
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture
def workflow(resources):
    return resources[0]


def templates(workflow):
    return {each["name"]: each for each in workflow["spec"]["workflowSpec"]["templates"]}


def test_the_workflow_fits_the_schema_of_argo_which_finds_a_misspelt_field(workflow):
    schema = _closed(json.loads(gzip.decompress(SCHEMA.read_bytes())))
    validator = import_module("jsonschema").Draft7Validator(schema)
    assert [error.message for error in validator.iter_errors(workflow)] == []
    train = templates(workflow)["train"]
    train["retryStrategi"] = train.pop("retryStrategy")
    assert "retryStrategi" in "".join(e.message for e in validator.iter_errors(workflow))


def test_the_workflow_has_an_account_that_may_publish(workflow, resources):
    account, role, binding = resources[1:]
    for resource in (account, role, binding):
        import_module("kubernetes_validate").validate(resource, "1.37", strict=True)
    named = workflow["spec"]["workflowSpec"]["serviceAccountName"]
    assert named == account["metadata"]["name"] == binding["subjects"][0]["name"]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    published = yaml.safe_load(templates(workflow)["publish"]["resource"]["manifest"])
    parameters = workflow["spec"]["workflowSpec"]["arguments"]["parameters"]
    (reference,) = [each["valueFrom"] for each in parameters if "valueFrom" in each]
    assert reference["configMapKeyRef"]["name"] == published["metadata"]["name"]
    assert reference["configMapKeyRef"]["key"] in published["data"]


def test_the_jobs_of_the_workflow_can_be_parsed_and_are_tried_again_after_an_outage_alone(workflow):
    for name in ("train", "compare"):
        job = templates(workflow)[name]
        arguments = [re.sub(r"\{\{.*?\}\}", "s3://bucket/a", a) for a in job["container"]["args"]]
        assert arguments[0] == "dkmeans"
        parse(arguments[1:])
        assert job["container"]["image"].endswith(f":{dkmeans.__version__}-cpu")
        codes = re.search(r"in \[(.*)\]", job["retryStrategy"]["expression"])[1]
        assert codes == "75, 137, 143"
    (script,) = [a for a in templates(workflow)["webhook"]["container"]["args"] if "import" in a]
    compile(script, "webhook", "exec")


def test_the_steps_of_the_workflow_name_templates_and_parameters_that_exist(workflow):
    known = templates(workflow)
    for template in known.values():
        for step in chain.from_iterable(template.get("steps", [])):
            wanted = known[step["template"]].get("inputs", {}).get("parameters", [])
            given = step.get("arguments", {}).get("parameters", [])
            assert [each["name"] for each in given] == [each["name"] for each in wanted]
    spec = workflow["spec"]["workflowSpec"]
    assert {spec["entrypoint"], spec["onExit"]} <= known.keys()
    parameters = {each["name"] for each in spec["arguments"]["parameters"]}
    used = re.findall(r"workflow\.parameters(?:\.|\[')([\w-]+)", json.dumps(spec))
    assert set(used) == parameters


def test_the_dag_gives_flags_that_the_command_has():
    known = {
        flag
        for job in ("train", "evaluate")
        for action in job_parser(job)._actions
        for flag in action.option_strings
    }
    used = set(re.findall(r"--[a-z][a-z-]+", DAG.read_text()))
    assert {"--model-dir", "--against"} < used <= known


def job_parser(name):
    (jobs,) = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return jobs.choices[name]


@pytest.fixture
def pager():
    """A server that collects the JSON messages that it gets."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            self.server.messages.append(json.loads(body))
            self.send_response(204)
            self.end_headers()

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.messages, server.url = [], f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.long
def test_airflow_runs_the_dag_which_publishes_a_model_and_pages_after_a_mistake(tmp_path, pager):
    program = shutil.which("airflow")
    if program is None:
        pytest.skip("airflow, which has an environment of its own, is not on the PATH")
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(500, 3)))
    text = DAG.read_text().replace('CLUSTER = "local"', 'CLUSTER = "threads"')
    text = text.replace("s3://bucket/rows.zarr", str(tmp_path / "rows.npy"))
    text = text.replace("s3://bucket/models", str(tmp_path / "models"))
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags" / DAG.name).write_text(text)
    variables = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "PATH": str(Path(sys.executable).parent),
    }

    def airflow(*arguments):
        command, pipe = [program, *arguments], subprocess.PIPE
        return subprocess.run(command, env=variables, stdout=pipe, stderr=subprocess.STDOUT)

    for arguments in (
        ("db", "migrate"),
        ("dags", "reserialize"),
        ("variables", "set", "dkmeans_pager", pager.url),
        ("dags", "test", "dkmeans_nightly"),  # the first night
        ("dags", "test", "dkmeans_nightly"),  # another one, with a published model
    ):
        done = airflow(*arguments)
        assert done.returncode == 0, done.stdout
    (model,) = (tmp_path / "models").iterdir()
    published = airflow("variables", "get", "dkmeans_published").stdout.splitlines()
    assert str(model).encode() in published
    assert list((model / "eval").iterdir())
    (tmp_path / "rows.npy").unlink()
    assert airflow("dags", "test", "dkmeans_nightly").returncode == 1
    (message,) = pager.messages
    assert message["text"].startswith("train of manual__")
    assert "exit code 2 of dkmeans train" in message["text"]
