"""Metrics: what the file and the port say, and that a real Prometheus reads all of it."""

import json
import logging
import re
import shutil
import socket
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path

import pytest
import yaml

from dkmeans import Invalid
from dkmeans.hooks import HistoryHook, MetricsServerHook, PrometheusHook
from tests.hooks.recorders import BATCHES, EVERY_STEP, StepHook, model, step_of
from tests.s3_server import free_ports

MONITORING = Path(__file__).parents[2] / "deploy" / "k8s" / "components" / "monitoring"


def test_prometheus_gets_a_file_with_the_last_values(tmp_path):
    path = tmp_path / "kmeans.prom"
    hook, history = PrometheusHook(path, every_n_secs=1000), HistoryHook()
    model().train(lambda: iter(BATCHES[:1]), [hook])
    assert "dkmeans_global_step 1.0" in path.read_text()
    model().train(lambda: iter(BATCHES[:5]), [hook, history])
    lines = path.read_text().splitlines()
    assert "dkmeans_global_step 5.0" in lines
    assert f"dkmeans_loss {history.history['loss'][-1]!r}" in lines
    assert "dkmeans_workers 1.0" in lines
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_leaves_the_values_of_the_last_step_and_those_of_a_call_that_took_none(tmp_path):
    def fail():
        raise RuntimeError("no")

    path = tmp_path / "kmeans.prom"
    hook = PrometheusHook(path, every_n_secs=1000)
    with pytest.raises(RuntimeError, match="no"):
        model().train(lambda: iter(BATCHES), [hook, StepHook({4: fail})])
    assert "dkmeans_global_step 4.0" in path.read_text()
    with pytest.raises(Invalid, match="finite"):
        model().train(lambda: iter([BATCHES[0] * float("nan")]), [PrometheusHook(path)])
    assert "dkmeans_global_step 4.0" in path.read_text()


@pytest.mark.parametrize("name", ["missing/a.prom", "folder", "file/a.prom", "a\0.prom", 250 * "a"])
def test_a_metrics_file_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    path, estimator, history = tmp_path / name, model(), HistoryHook()
    with pytest.raises(Invalid, match="the metrics file must be writable, got") as caught:
        estimator.train(lambda: iter(BATCHES), [PrometheusHook(path), history])
    assert repr(str(path)) in str(caught.value)
    assert history.history["global_step"] == []
    assert estimator.latest_checkpoint() is None


def test_a_metrics_file_that_cannot_be_written_later_is_one_warning_and_the_fit_goes_on(
    tmp_path, caplog
):
    path = tmp_path / "folder" / "kmeans.prom"
    path.parent.mkdir()
    hook, estimator = PrometheusHook(path, every_n_secs=1e-9), model()
    remover = StepHook({3: lambda: shutil.rmtree(path.parent)})
    estimator.train(lambda: iter(BATCHES), [remover, hook])
    assert step_of(estimator) == 10
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"going on without the metrics file {path}, which cannot be written: " in line


def test_a_metrics_file_that_can_be_written_again_has_the_last_values(tmp_path):
    path = tmp_path / "folder" / "kmeans.prom"
    path.parent.mkdir()
    actions = {3: lambda: shutil.rmtree(path.parent), 6: lambda: path.parent.mkdir()}
    hook = PrometheusHook(path, every_n_secs=1e-9)
    model().train(lambda: iter(BATCHES), [StepHook(actions), hook])
    assert "dkmeans_global_step 10.0" in path.read_text()


def scraped(port):
    """Return the metrics at a port, by name and labels, in OpenMetrics' format."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/metrics", headers={"Accept": "application/openmetrics-text"}
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.headers["Content-Type"].startswith("application/openmetrics-text")
        *lines, end = answer.read().decode().splitlines()
    assert end == "# EOF"
    pairs = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in pairs}


def test_a_port_serves_the_numbers_of_the_step_and_of_the_iteration_and_is_free_afterwards():
    seen, estimator = [], model(use_mini_batch=False, config=EVERY_STEP)
    progress = HistoryHook(["progress", "loss"])
    with MetricsServerHook(0) as server:
        assert scraped(server.port) == {}
        before = time.time()
        scrape = StepHook({2: lambda: seen.append(scraped(server.port))})
        estimator.train(lambda: BATCHES[0], [progress, server, scrape], steps=3)
        seen.append(scraped(server.port))
    for metrics, step in zip(seen, (2, 3), strict=True):
        numbers = progress.history["progress"][step - 1].numbers()
        assert metrics["dkmeans_global_step"] == step == numbers["step"]
        assert metrics["dkmeans_loss"] == progress.history["loss"][step - 1]
        for name in ("change", "workers", "threads", "rows_per_second", "starts"):
            assert metrics[f"dkmeans_{name}"] == numbers[name]
        parts = [metrics[key] for key in metrics if key.startswith("dkmeans_iteration_seconds{")]
        assert len(parts) == 4
        assert sum(parts) == pytest.approx(numbers["seconds"])
        assert metrics["dkmeans_retries_total"] == 0
        assert before <= metrics["dkmeans_checkpoint_timestamp_seconds"] <= time.time()
    assert (
        seen[1]["dkmeans_checkpoint_timestamp_seconds"]
        > (seen[0]["dkmeans_checkpoint_timestamp_seconds"])
    )
    with MetricsServerHook(server.port) as again:
        assert again.port == server.port


def test_a_port_that_cannot_be_used_is_refused():
    with MetricsServerHook(0) as first:
        with pytest.raises(Invalid, match=f"metrics port must be free to use, got {first.port}: A"):
            MetricsServerHook(first.port)
        with socket.create_connection(("127.0.0.1", first.port)) as broken:
            broken.sendall(b"\x16\x03\x01 no HTTP\r\n\r\n")  # and it still serves
        model().train(lambda: iter(BATCHES), [first], steps=1)
        assert scraped(first.port)["dkmeans_global_step"] == 1
    with pytest.raises(Invalid, match="the metrics port must be at most 65535, got 65536"):
        MetricsServerHook(65536)
    with pytest.raises(TypeError, match="the metrics port must be an integer >= 0, got '80'"):
        MetricsServerHook("80")


def queries():
    """Return the queries of the dashboard and of the alerts that ask for metrics of dkmeans."""
    dashboard = json.loads((MONITORING / "dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel["targets"]]
    (group,) = yaml.safe_load((MONITORING / "rules.yaml").read_text())["spec"]["groups"]
    return [text for text in (*asked, *(r["expr"] for r in group["rules"])) if "dkmeans_" in text]


@pytest.fixture
def prometheus(tmp_path):
    """Function that starts a Prometheus which reads a port, and returns a function that asks it."""
    if shutil.which("prometheus") is None:
        pytest.skip("prometheus, which reads the metrics, is not installed")
    processes = []

    def start(target):
        (port,) = free_ports(1)
        # The label is that of the pods' namespace.
        read = {"targets": [f"127.0.0.1:{target}"], "labels": {"namespace": "dkmeans"}}
        job = {"job_name": "dkmeans", "static_configs": [read]}
        settings = {"global": {"scrape_interval": "200ms"}, "scrape_configs": [job]}
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump(settings))
        command = ["prometheus", f"--config.file={tmp_path / 'prometheus.yml'}"]
        command += [f"--storage.tsdb.path={tmp_path / 'data'}"]
        with (tmp_path / "log").open("wb") as log:
            command.append(f"--web.listen-address=127.0.0.1:{port}")
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))

        def ask(query):
            address = f"http://127.0.0.1:{port}/api/v1/query?"
            address += urllib.parse.urlencode({"query": query})
            try:
                with urllib.request.urlopen(address, timeout=10) as answer:
                    return json.load(answer)["data"]["result"]
            except OSError:
                assert processes[0].poll() is None, (tmp_path / "log").read_text()
                return []

        return ask

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_prometheus_answers_each_query_of_the_dashboard_and_of_the_alerts(prometheus):
    history = HistoryHook(["loss"])
    with MetricsServerHook(0) as server:
        model(use_mini_batch=False).train(lambda: BATCHES[0], [server, history], steps=4)
        ask = prometheus(server.port)
        for _ in range(300):
            found = ask("dkmeans_global_step")
            if found:
                break
            time.sleep(0.1)
        assert float(found[0]["value"][1]) == 4
        (loss,) = ask("dkmeans_loss")
        assert float(loss["value"][1]) == history.history["loss"][-1]
        instance = loss["metric"]["instance"]
        time.sleep(0.5)  # a rate takes two scrapes
        for query in queries():
            plain = re.sub(r"\$(instance|__rate_interval)", _variable(instance), query)
            assert ask(re.sub(r"\s[<>]=?\s\S+$", "", plain)), query


def _variable(instance):
    return lambda match: instance if match[1] == "instance" else "1m"
