"""Nightly clustering for Airflow 3: train, compare with the published model, publish.

Copy this file to the folder of DAGs and change its constants. The tasks run the command `dkmeans`,
which must be on the PATH of Airflow's workers. docs/guide/schedulers.md explains each step.
"""

import json
import subprocess
import urllib.request
from datetime import UTC, datetime, timedelta

from airflow.sdk import Variable, dag, task
from airflow.sdk.exceptions import AirflowFailException

ROWS = "s3://bucket/rows.zarr"
MODELS = "s3://bucket/models"  # each night has a directory there
CLUSTER = "local"  # or the address of a scheduler of Dask
# A model that moves a larger share of the rows to other clusters is not published.
MOST_CHANGED = 0.2

# Exit codes after which the same command goes on where it stopped: an outage, and a kill.
TRY_AGAIN = (75, 137, 143, -9, -15)
# Variables of Airflow: directory of the published model, and URL that gets a JSON message.
PUBLISHED, PAGER = "dkmeans_published", "dkmeans_pager"


def run(*arguments):
    """Run a job of dkmeans and return its result.

    Raises:
        RuntimeError: the job can be run again, so Airflow does that after a pause.
        AirflowFailException: another attempt would fail too, so Airflow pages somebody at once.
    """
    command = ["dkmeans", *arguments, "--json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return json.loads(done.stdout)
    failure = RuntimeError if done.returncode in TRY_AGAIN else AirflowFailException
    raise failure(f"exit code {done.returncode} of {' '.join(command)}; the log says why")


def page(context):
    """Tell somebody of a task that has failed for good."""
    text = f"{context['task_instance'].task_id} of {context['run_id']}: {context['exception']}"
    request = urllib.request.Request(Variable.get(PAGER), json.dumps({"text": text}).encode())
    request.add_header("Content-Type", "application/json")
    urllib.request.urlopen(request, timeout=60)


@dag(
    schedule="0 2 * * *",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    max_active_runs=1,  # two drivers must never train one model at the same time
    default_args={
        "retries": 5,
        "retry_delay": timedelta(minutes=5),
        "retry_exponential_backoff": True,
        "on_failure_callback": page,
    },
)
def dkmeans_nightly():
    """Publish a model of the rows every night, if it resembles the published one."""

    @task
    def train(night):
        model = f"{MODELS}/{night}"
        options = ["--num-clusters=20", "--init=k-means||", "--seed=1", f"--cluster={CLUSTER}"]
        run("train", ROWS, f"--model-dir={model}", *options)
        return model

    @task
    def compare(model):
        published = Variable.get(PUBLISHED, default=None)
        if published is None:  # in the first night
            return 0.0
        options = [f"--against={published}", f"--cluster={CLUSTER}"]
        return run("evaluate", ROWS, f"--model-dir={model}", *options)["changed_share"]

    @task
    def publish(model, changed):
        if changed > MOST_CHANGED:
            raise AirflowFailException(f"{changed:.0%} of the rows change their cluster in {model}")
        Variable.set(PUBLISHED, model)

    model = train("{{ dag_run.run_after.strftime('%Y-%m-%d') }}")
    publish(model, compare(model))


dkmeans_nightly()
