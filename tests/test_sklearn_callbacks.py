"""scikit-learn's callbacks: they see the fit and its steps, and may stop it."""

import numpy as np
import pytest
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from dkmeans.sklearn import KMeans, MiniBatchKMeans

callback = pytest.importorskip("sklearn.callback", reason="scikit-learn 1.9 has callbacks")

ROWS = np.random.default_rng(4).normal(size=(600, 3))


class Recorder:
    """Callback that records the tasks, and stops after some steps."""

    def __init__(self, most=None):
        self.events, self.scores, self.most = [], [], most

    def setup(self, estimator, context):
        self.events.append("setup")

    def teardown(self, estimator, context):
        self.events.append("teardown")

    def on_fit_task_begin(self, estimator, context):
        self.events.append(("begin", context.task_name, context.task_id))

    def on_fit_task_end(self, estimator, context, *, X, fitted_estimator):
        self.events.append(("end", context.task_name, context.task_id))
        if context.task_name == "step":
            self.scores.append(fitted_estimator.score(X))
            return len(self.scores) == self.most
        return None


@pytest.mark.parametrize("steps", [2, 5])
def test_a_callback_sees_each_step_with_its_centers_and_may_stop(steps):
    recorder = Recorder(steps)
    model = KMeans(5, random_state=0, tol=0).set_callbacks(recorder)
    model.fit(ROWS)
    tasks = [(when, "step", step) for step in range(steps) for when in ("begin", "end")]
    assert recorder.events == [
        "setup", ("begin", "fit", 0), *tasks, ("end", "fit", 0), "teardown"
    ]  # fmt: skip
    assert model.n_iter_ == steps
    assert recorder.scores == sorted(recorder.scores)
    assert recorder.scores[-1] == -model.inertia_
    assert not {name for name in vars(model) if "callback_fit" in name}


def test_callbacks_are_torn_down_after_an_error():
    recorder = Recorder()
    with pytest.raises(ValueError, match="n_samples = 3"):
        KMeans(5).set_callbacks(recorder).fit(ROWS[:3])
    recorder.events.clear()
    bad = np.where(np.arange(1800).reshape(600, 3) == 7, 1e200, ROWS)
    with pytest.raises(ValueError, match="values of the array are up to 1e"):
        KMeans(5).set_callbacks(recorder).fit(bad)
    assert (recorder.events[0], recorder.events[-1]) == ("setup", "teardown")


def test_scikit_learns_own_callbacks_work_through_a_pipeline_and_on_batches():
    monitor = callback.ScoringMonitor(scoring=lambda model, rows, y=None: model.score(rows))
    model = MiniBatchKMeans(4, batch_size=100, max_iter=2, tol=0, random_state=0)
    Pipeline([("scale", StandardScaler()), ("cluster", model)]).fit(ROWS)
    assert model.set_callbacks(monitor).fit(ROWS).n_iter_ == 2
    assert len(monitor.get_logs().data) >= 2 * 6
