"""Runs in MLflow: parameters, the numbers of each iteration, the report and the model.

    model = dkmeans.KMeans(20, "model", seed=1, use_mini_batch=False)
    model.train(input_fn, hooks=[MLflowHook(model, "customers")], max_steps=100)

MLflow's own settings, such as MLFLOW_TRACKING_URI, say where the server is. A thread sends, so that
a server that is slow or away does not delay the steps (docs/decisions/031).
"""

from __future__ import annotations

import json
import logging
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dkmeans import __version__, storage
from dkmeans.checkpoints import Checkpoint
from dkmeans.distance import Distance
from dkmeans.errors import Invalid, InvalidType, expected
from dkmeans.estimator import KMeans
from dkmeans.extras import needs
from dkmeans.hooks import (
    Coordinator,
    Session,
    SessionRunArgs,
    SessionRunContext,
    SessionRunHook,
    SessionRunValues,
)
from dkmeans.report import Progress
from dkmeans.report_page import write_report
from dkmeans.retry import first_line
from dkmeans.scaling import Scaling

logger = logging.getLogger("dkmeans")

# File in the directory of a model: the run that a call which goes on after a failure continues.
_RUN_FILE = "mlflow.json"
# Largest number of metrics that MLflow takes in one request.
_MOST_METRICS = 1000
# Largest time that the end of a call waits for the first answer of a server, and that a call which
# ended with an error waits for everything to be sent.
_FIRST_ANSWER_SECONDS, _LAST_WORDS_SECONDS = 60.0, 10.0
_CODE = Path(__file__).with_name("exports") / "pyfunc_code.py"


class MLflowHook(SessionRunHook):
    """A hook that records a call of `train` as a run of MLflow.

    The run has the parameters of the model, the numbers of each iteration (those of
    `model.history`) as metrics at its step, and at the end the report (`report.html`) and the
    model, as a pyfunc named `model` that returns cluster indices with NumPy alone. A call that goes
    on after an error or an interrupt continues the run of that call, in the experiment of that run,
    if the model is still in the same directory.

    A server that does not answer, or an address that MLflow cannot use, never ends a call: the run
    stays incomplete, with one warning. The hook needs the extra `mlflow`.

    Args:
        model: The model that the hook is passed to `train` of.
        experiment: Name of the experiment, which is created if there is none.

    Raises:
        ValueError: MLflow is not installed, or the name is empty.
        TypeError: an argument has the wrong type.
    """

    def __init__(self, model: KMeans, experiment: str) -> None:
        if not isinstance(model, KMeans):
            raise InvalidType(expected("model", "a KMeans", model))
        if not isinstance(experiment, str):
            raise InvalidType(expected("experiment", "a name", experiment))
        if not experiment.strip():
            raise Invalid(expected("experiment", "a name that is not empty", experiment))
        with needs("MLflowHook", "mlflow"):
            import mlflow.pyfunc  # noqa: F401, PLC0415 an extra, whose import takes two seconds
        # MLflow would import it in the thread of the run, while matplotlib, which draws the report,
        # looks at what is there of it.
        with suppress(ImportError):
            import IPython  # noqa: F401, PLC0415
        self._model, self._experiment = model, experiment
        self._run: _Run | None = None
        self._last: Progress | None = None

    def begin(self) -> None:
        """Forget the run of an earlier call."""
        self._run, self._last = None, None

    def after_create_session(self, session: Session, coord: Coordinator) -> None:
        """Begin a run, or continue that of a call which failed."""
        continued = None
        if session.run("global_step"):
            found = storage.read_json(storage.join(self._model.model_dir, _RUN_FILE))
            continued = found.get("run_id") if isinstance(found, dict) else None
        parameters = _parameters(self._model)
        self._run = _Run(self._experiment, self._model.model_dir, parameters, continued)

    def before_run(self, run_context: SessionRunContext) -> SessionRunArgs:
        """Request the numbers of the iteration."""
        return SessionRunArgs("progress")

    def after_run(self, run_context: SessionRunContext, run_values: SessionRunValues) -> None:
        """Send the numbers of an iteration after its last step."""
        progress = run_values.results
        if self._run is not None and progress is not None and progress is not self._last:
            self._run.add(progress)
            self._last = progress

    def end(self, session: Session) -> None:
        """Send the report and the model, and wait until the run is complete."""
        if self._run is None:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                report = Path(folder, "report.html")
                write_report(self._model, report)
                self._run.add_file(report)
                self._run.add_model(self._model.checkpoint(), Path(folder))
            except Exception as error:  # whatever it is, it must not end a fit
                logger.warning("the run in MLflow gets no report or model: %s", first_line(error))
            self._run.finish("FINISHED")

    def abort(self, error: BaseException) -> None:
        """Mark the run as ended by an error or an interrupt."""
        if self._run is not None:
            self._run.finish("FAILED" if isinstance(error, Exception) else "KILLED")


def _parameters(model: KMeans) -> dict[str, Any]:
    """Return the parameters of a model by the names of its constructor."""
    initialization, settings = model._initialization, model._settings
    source = initialization.source
    return {
        "num_clusters": initialization.num_clusters,
        "model_dir": model.model_dir,
        "initial_clusters": source if isinstance(source, str) else type(source).__name__,
        "distance_metric": str(settings.distance_metric),
        "seed": initialization.seed,
        "use_mini_batch": settings.use_mini_batch,
        "mini_batch_steps_per_iteration": settings.mini_batch_steps_per_iteration,
        "relative_tolerance": model._relative_tolerance,
        "num_restarts": model._num_restarts,
        "empty_clusters": str(model._empty_clusters),
        "dkmeans": __version__,
    }


class _Run:
    """A run of MLflow, and the thread that sends what belongs to it.

    After the first failure nothing more is sent: each request to a server that is away would take
    minutes.

    Args:
        experiment: Name of the experiment.
        model_dir: Path or URL of the model's directory.
        parameters: Parameters of the model, by name.
        continued: Id of the run to continue, if it did not finish; None begins a new one.
    """

    def __init__(
        self, experiment: str, model_dir: str, parameters: dict[str, Any], continued: str | None
    ) -> None:
        self._client: Any = None
        self._run_id = ""
        self._has_begun, self._has_failed = threading.Event(), False
        self._progress: queue.SimpleQueue[tuple[int, Progress]] = queue.SimpleQueue()
        self._tasks: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._tasks.put(partial(self._begin, experiment, model_dir, parameters, continued))
        self._thread = threading.Thread(target=self._send, name="mlflow", daemon=True)
        self._thread.start()

    def add(self, progress: Progress) -> None:
        """Send the numbers of an iteration."""
        self._progress.put((int(time.time() * 1000), progress))
        self._tasks.put(self._send_progress)

    def add_file(self, path: Path) -> None:
        """Send a file, which must stay until the run is finished."""
        self._tasks.put(lambda: self._client.log_artifact(self._run_id, str(path)))

    def add_model(self, checkpoint: Checkpoint, folder: Path) -> None:
        """Send the model of a checkpoint, with files in a folder that stays until the end."""
        self._tasks.put(partial(self._send_model, checkpoint, folder))

    def finish(self, status: str) -> None:
        """Set the status of the run, and wait until everything is sent or given up."""
        self._tasks.put(lambda: self._client.set_terminated(self._run_id, status))
        self._tasks.put(None)
        if status == "FINISHED":
            if self._has_begun.wait(_FIRST_ANSWER_SECONDS):
                self._thread.join()
            elif not self._has_failed:
                self.give_up(TimeoutError(f"no answer for {_FIRST_ANSWER_SECONDS:g} s"))
        else:
            self._thread.join(_LAST_WORDS_SECONDS)

    def give_up(self, error: Exception) -> None:
        """Send nothing more; warn of the first error."""
        if not self._has_failed:
            logger.warning("going on without MLflow: %s", first_line(error))
        self._has_failed = True

    def _send(self) -> None:
        """Run the tasks in their order until the last one."""
        while (task := self._tasks.get()) is not None:
            try:
                if not self._has_failed:
                    task()
            except Exception as error:  # whatever it is, it must not end a fit
                self.give_up(error)
            # Also after a failure: nobody should wait for a run that will never begin.
            self._has_begun.set()

    def _begin(
        self, experiment: str, model_dir: str, parameters: dict[str, Any], continued: str | None
    ) -> None:
        from mlflow import MlflowClient  # noqa: PLC0415 an extra

        self._client = MlflowClient()  # refuses addresses that MLflow cannot use
        if continued is not None and self._continues(continued, model_dir):
            return
        from mlflow.entities import Param  # noqa: PLC0415 an extra

        found = self._client.get_experiment_by_name(experiment)
        number = found.experiment_id if found else self._client.create_experiment(experiment)
        self._run_id = self._client.create_run(number).info.run_id
        logger.info("recorded in MLflow's experiment %s as run %s", experiment, self._run_id)
        params = [Param(name, str(value)) for name, value in parameters.items()]
        self._client.log_batch(self._run_id, params=params)
        content = json.dumps({"run_id": self._run_id}).encode()
        storage.write_or_log(storage.join(model_dir, _RUN_FILE), content)

    def _continues(self, run_id: str, model_dir: str) -> bool:
        """Continue a run of this model.

        Return False if it has finished, is of another model, or the server does not know it.
        """
        from mlflow import MlflowException  # noqa: PLC0415 an extra

        try:
            run = self._client.get_run(run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        if run.info.status == "FINISHED" or run.data.params.get("model_dir") != model_dir:
            return False
        self._client.update_run(run_id, status="RUNNING")
        self._run_id = run_id
        return True

    def _send_progress(self) -> None:
        """Send the numbers of all iterations that wait."""
        from mlflow.entities import Metric  # noqa: PLC0415 an extra

        metrics = []
        while not self._progress.empty():
            milliseconds, progress = self._progress.get()
            for name, value in progress.numbers().items():
                if value is not None and name not in ("step", "last_step"):
                    metrics.append(Metric(name, float(value), milliseconds, progress.step))
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self._run_id, metrics=metrics[start : start + _MOST_METRICS])

    def _send_model(self, checkpoint: Checkpoint, folder: Path) -> None:
        import mlflow.pyfunc  # noqa: PLC0415 an extra
        import pandas as pd  # noqa: PLC0415 comes with the extra
        from mlflow.models import ModelSignature  # noqa: PLC0415
        from mlflow.types import ColSpec, Schema, TensorSpec  # noqa: PLC0415
        from mlflow.types.schema import AnyType  # noqa: PLC0415

        write_centers(checkpoint, folder / "centers.npz")
        # A column of several values has one name for all of them.
        names, width = checkpoint.settings.columns, checkpoint.state.centers.shape[1]
        has_names = names is not None and len(names) == width
        # Any type of numbers: MLflow takes no integers for float64.
        columns = [ColSpec(AnyType(), name) for name in names or ()]
        example = checkpoint.original_centers[:1].astype(np.float64)
        try:
            mlflow.pyfunc.save_model(
                str(folder / "model"),
                python_model=str(_CODE),
                artifacts={"centers": str(folder / "centers.npz")},
                signature=ModelSignature(
                    Schema(columns if has_names else [ColSpec(AnyType())] * width),
                    Schema([TensorSpec(np.dtype(np.int64), (-1,))]),
                ),
                input_example=pd.DataFrame(example, columns=names) if has_names else example,
                pip_requirements=[f"numpy=={np.__version__}"],
            )
        except Exception as error:  # MLflow refuses some names of columns; the server answers
            logger.warning("the run in MLflow gets no model: %s", first_line(error))
            return
        self._client.log_artifacts(self._run_id, str(folder / "model"), "model")


def write_centers(checkpoint: Checkpoint, path: Path) -> None:
    """Write what `exports/pyfunc_code.py` loads, as `.npz`."""
    settings, centers = checkpoint.settings, checkpoint.state.centers
    width = centers.shape[1]
    # Of a model that does not standardize rows, these change nothing.
    scaling = settings.scaling or Scaling.of(np.zeros(width), np.ones(width))
    np.savez(
        path,
        centers=centers,
        cosine=settings.distance_metric is Distance.COSINE,
        means=scaling.means,
        deviations=scaling.deviations,
    )
