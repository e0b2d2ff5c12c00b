"""`lapis import mlflow`: stores that the unmodified client has made come in
whole, from a database, a folder of files and a running server, and the client
then reads the same from both sides."""

import contextlib
import json
import math
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests

from conftest import Server

# Fills a store: in a process of its own, as the client keeps much in globals.
FILL = '''
import sys
import mlflow
from mlflow import MlflowClient
from mlflow.entities import Metric

uri, many = sys.argv[1], int(sys.argv[2])
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
c = MlflowClient()
e = mlflow.set_experiment("vision")
c.set_experiment_tag(e.experiment_id, "team", "eyes")

class Same(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input

with mlflow.start_run(run_name="first", tags={"a": "ü 1"}, description="a note") as r:
    mlflow.log_params({"lr": 0.1, "long": "x" * 5000})
    for start in (0, 1000):
        c.log_batch(r.info.run_id, metrics=[Metric("loss", 1 / (i + 1), 1700000000000 + i, i) for i in range(start, start + 1000)])
    for step, value in enumerate((float("nan"), float("inf"), -float("inf"))):
        c.log_metric(r.info.run_id, "odd", value, timestamp=1700000000000 + step, step=step)
    mlflow.log_text("hello", "a/b/hello.txt")
    mlflow.log_text("", "empty.txt")
    mlflow.log_text("spaces", "a/some text.txt")
    import pandas as pd
    data = mlflow.data.from_pandas(pd.DataFrame({"x": [1.0, 2.0]}), name="train")
    mlflow.log_input(data, context="training")
    with mlflow.start_run(nested=True, run_name="child"):
        mlflow.log_metric("m", 1)
    info = mlflow.pyfunc.log_model(name="model", python_model=Same(), pip_requirements=["mlflow"], params={"k": "v"}, registered_model_name="reg")
    mlflow.log_metric("acc", 0.5, model_id=info.model_id, dataset=data)

second = c.create_model_version("reg", info.model_uri, r.info.run_id, description="the second", tags={"t": "1"})
c.set_registered_model_alias("reg", "champion", second.version)
c.update_registered_model("reg", "a model")
c.set_registered_model_tag("reg", "k", "v")
third = c.create_model_version("reg", info.model_uri, r.info.run_id)
c.delete_model_version("reg", third.version)
c.create_registered_model("older")
c.create_model_version("older", r.info.artifact_uri + "/a", r.info.run_id)

with mlflow.start_run(run_name="gone") as g:
    mlflow.log_metric("m", 2)
c.delete_run(g.info.run_id)
with mlflow.start_run(run_name="failed") as f:
    pass
c.set_terminated(f.info.run_id, "FAILED")
old = c.create_experiment("old", tags={"x": "y"})
with mlflow.start_run(experiment_id=old, run_name="in the old one"):
    mlflow.log_param("p", "q")
c.delete_experiment(old)
with mlflow.start_run(experiment_id="0", run_name="in the default one"):
    mlflow.log_metric("z", 3)

@mlflow.trace(name="outer")
def outer(x):
    with mlflow.start_span("inner") as s:
        s.set_inputs({"x": x, "list": [1, 2.5, None, True]})
        s.set_outputs("déjà vu")
        s.set_attribute("mlflow.chat.tokenUsage", {"input_tokens": 3, "output_tokens": 4, "total_tokens": 7})
        mlflow.update_current_trace(metadata={"mlflow.trace.session": "s1"}, tags={"mood": "good"})
        s.add_event(mlflow.entities.SpanEvent("tick", attributes={"n": 1}))
    return x + 1

outer(1)
trace = mlflow.get_last_active_trace_id()
mlflow.flush_trace_async_logging()
mlflow.log_feedback(trace_id=trace, name="good", value=True, rationale="it is")
mlflow.log_expectation(trace_id=trace, name="answer", value={"n": 2})
mlflow.genai.register_prompt(name="greeting", template="Hi {{name}}", commit_message="the first")

big = c.create_experiment("many")
for n in range(many):
    run = c.create_run(big, run_name=f"run {n}")
    c.log_batch(run.info.run_id, metrics=[Metric("v", n + i, 1700000000000, i) for i in range(20)])
    c.set_terminated(run.info.run_id)
'''

# Reads a store as clients see it.
READ = '''
import json, sys
import mlflow
from mlflow import MlflowClient
from mlflow.entities import ViewType

uri = sys.argv[1]
mlflow.set_tracking_uri(uri)
mlflow.set_registry_uri(uri)
c = MlflowClient()

def number(v):
    """A store of files keeps infinities; databases and servers have the largest number for them, and each point
    once. Of models they keep what is no number as zero."""
    return str(max(min(v, sys.float_info.max), -sys.float_info.max)) if v == v else "nan"

def folder(list_at, path=None):
    found = {}
    for f in list_at(path):
        if f.is_dir:
            found.update(folder(list_at, f.path))
        else:
            found[f.path] = f.file_size
    return found

seen = {"experiments": {}, "runs": {}, "models": {}, "registered": {}, "versions": {}, "traces": {}}
experiments = c.search_experiments(view_type=ViewType.ALL)
for e in experiments:
    seen["experiments"][e.name] = [e.experiment_id, e.lifecycle_stage, e.creation_time if e.name != "Default" else 0, e.tags]
ids = {e.experiment_id: e.name for e in experiments}
for r in c.search_runs(list(ids), run_view_type=ViewType.ALL, max_results=5000):
    i = r.info
    seen["runs"][i.run_id] = {
        "info": [i.run_name, ids[i.experiment_id], i.status, i.start_time, i.end_time, i.lifecycle_stage, i.user_id],
        "params": r.data.params, "tags": r.data.tags, "metrics": {k: number(v) for k, v in r.data.metrics.items()},
        "history": {k: sorted({(m.step, m.timestamp, number(m.value)) for m in c.get_metric_history(i.run_id, k)}) for k in r.data.metrics},
        "datasets": [[d.dataset.to_dictionary(), sorted((t.key, t.value) for t in d.tags)] for d in r.inputs.dataset_inputs],
        "models in": [m.model_id for m in r.inputs.model_inputs or []], "models out": [m.model_id for m in r.outputs.model_outputs or []] if r.outputs else [],
        "files": folder(lambda p: c.list_artifacts(i.run_id, p)) if i.lifecycle_stage == "active" else None,
    }
for e in experiments:
    if e.lifecycle_stage != "active":
        continue
    for m in mlflow.search_logged_models(experiment_ids=[e.experiment_id], output_format="list"):
        seen["models"][m.model_id] = [m.name, m.status, m.source_run_id, m.params, m.tags, m.creation_timestamp,
            sorted([x.key, x.value if x.value == x.value else 0.0, x.step, x.timestamp, x.run_id, x.dataset_name, x.dataset_digest] for x in m.metrics or [])]
    for t in mlflow.search_traces(locations=[e.experiment_id], return_type="list"):
        own = {k: v for k, v in t.info.tags.items() if k not in ("mlflow.artifactLocation", "mlflow.trace.spansLocation")}
        spans = [[s.name, s.span_id, s.parent_id, s.start_time_ns, s.end_time_ns, s.inputs, s.outputs, str(s.status.status_code), s.attributes,
                  [[x.name, x.timestamp, x.attributes] for x in s.events]] for s in t.data.spans]
        marks = sorted([a.name, a.value, a.rationale, a.source.source_type] for a in t.info.assessments)
        seen["traces"][t.info.trace_id] = [str(t.info.state), t.info.request_time, t.info.execution_duration, t.info.request_preview, t.info.response_preview,
            own, {k: v for k, v in t.info.trace_metadata.items() if k != "mlflow.trace.infoFinalized"}, sorted(spans), marks]
for filter in ("", "tags.`mlflow.prompt.is_prompt` = 'true'"):
    for m in c.search_registered_models(filter):
        seen["registered"][m.name] = [m.description or "", m.tags, {a: str(v) for a, v in m.aliases.items()}, m.creation_timestamp, m.last_updated_timestamp]
        for v in c.search_model_versions(f"name = '{m.name}'" + (filter and " AND " + filter)):
            source = v.source.rsplit("/", 1)[-1]  # where a run's files are differs
            seen["versions"][f"{v.name}/{v.version}"] = [v.description or "", v.tags, v.current_stage, v.run_id or "", source, v.creation_timestamp, v.last_updated_timestamp]
json.dump(seen, sys.stdout, sort_keys=True)
'''


def run_python(code, *args, cwd, environ=None):
    environ = dict(environ or os.environ)
    environ |= {"MLFLOW_ALLOW_FILE_STORE": "true", "GIT_PYTHON_REFRESH": "quiet", "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false"}
    done = subprocess.run([sys.executable, "-c", code, *map(str, args)], cwd=cwd, env=environ, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def without_ours():
    """The environment of a shell that is not connected."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "LAPIS_OLD_"))}


@contextlib.contextmanager
def lapis_server(folder):
    server = Server(folder / "data")
    try:
        yield server
    finally:
        server.stop()


def bring(server, store, *options, check=True):
    done = subprocess.run(
        ["lapis", "import", "mlflow", str(store), "-o", "json", *options], env=server.environ(), capture_output=True, text=True, timeout=300
    )
    if check:
        assert done.returncode == 0, done.stdout + done.stderr
        return json.loads(done.stdout)
    return done


def read(uri, cwd, environ=None):
    return json.loads(run_python(READ, uri, cwd=cwd, environ=environ))


def assert_same(there, here):
    """Compares what a client reads on both sides."""
    for kind in there:
        assert sorted(here[kind]) == sorted(there[kind]), kind
        for name, want in there[kind].items():
            got = here[kind][name]
            if kind == "runs":
                for of, value in want.items():
                    assert got[of] == value, (kind, name, of)
            else:
                assert got == want, (kind, name)


# To import MLflow and its pages takes a busy machine minutes.
pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database, what a client reads from it, and its folder."""
    folder = tmp_path_factory.mktemp("database")
    uri = f"sqlite:///{folder}/mlflow.db"
    run_python(FILL, uri, 40, cwd=folder, environ=without_ours())
    return uri, read(uri, folder, without_ours()), folder


def test_a_database_comes_in_whole_and_once(database, tmp_path):
    uri, there, _ = database
    with lapis_server(tmp_path) as server:
        report = bring(server, uri)
        assert report.get("skipped") is None, report
        assert report["runs"]["imported"] == len(there["runs"]) == 46
        assert_same(there, read(server.environ()["MLFLOW_TRACKING_URI"], tmp_path, server.environ()))
        again = bring(server, uri)
        for kind in ("experiments", "runs", "artifacts", "logged_models", "registered_models", "model_versions", "traces"):
            assert (again[kind]["imported"], again[kind]["skipped"]) == (0, 0), (kind, again)
        assert again["metric_points"] == 0
        assert_same(there, read(server.environ()["MLFLOW_TRACKING_URI"], tmp_path, server.environ()))


def test_an_import_that_was_killed_goes_on(database, tmp_path):
    uri, there, _ = database
    with lapis_server(tmp_path) as server:
        environ = server.environ()
        for after in (1, 10, 30):
            work = subprocess.Popen(["lapis", "import", "mlflow", uri], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while work.poll() is None and runs_of(environ) < after and time.monotonic() < deadline:
                pass
            if work.poll() is None:
                work.send_signal(signal.SIGKILL)
            work.wait()
        report = bring(server, uri)
        assert report.get("skipped") is None, report
        assert_same(there, read(environ["MLFLOW_TRACKING_URI"], tmp_path, environ))


def runs_of(environ):
    """How many runs there are."""
    reply = requests.get(
        environ["MLFLOW_TRACKING_URI"] + "/api/lapis/counts",
        headers={"Authorization": "Bearer " + environ["MLFLOW_TRACKING_TOKEN"]}, timeout=30, proxies={"http": ""},
    )
    return sum(e["active_runs"] + e["deleted_runs"] for e in reply.json().get("experiments", []))


def test_what_was_logged_since_comes_with_the_next_import(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    grow = (
        "import sys, mlflow; mlflow.set_tracking_uri(sys.argv[1]); c = mlflow.MlflowClient()\n"
        "e = c.get_experiment_by_name('e'); e = e.experiment_id if e else c.create_experiment('e')\n"
        "runs = c.search_runs([e]); run = runs[0] if runs else c.create_run(e)\n"
        "c.log_metric(run.info.run_id, 'm', float(sys.argv[2]), step=int(sys.argv[2]))"
    )
    store = f"file://{folder}/mlruns"
    with lapis_server(tmp_path) as server:
        run_python(grow, store, 1, cwd=folder, environ=without_ours())
        assert bring(server, store)["metric_points"] == 1
        run_python(grow, store, 2, cwd=folder, environ=without_ours())
        assert bring(server, store)["runs"]["imported"] == 1
        here = read(server.environ()["MLFLOW_TRACKING_URI"], tmp_path, server.environ())
        assert [[p[0], p[2]] for run in here["runs"].values() for p in run["history"]["m"]] == [[1, "1.0"], [2, "2.0"]]


def test_a_folder_of_files_comes_in_whole(tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    store = f"file://{folder}/mlruns"
    run_python(FILL, store, 2, cwd=folder, environ=without_ours())
    there = read(store, folder, without_ours())
    with lapis_server(tmp_path) as server:
        report = bring(server, folder)
        assert report.get("skipped") is None, report
        assert_same(there, read(server.environ()["MLFLOW_TRACKING_URI"], tmp_path, server.environ()))


def test_a_server_comes_in_whole(database, tmp_path):
    uri, there, folder = database
    with socket.socket() as s:
        s.bind(("localhost", 0))
        port = s.getsockname()[1]
    environ = without_ours() | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.txt", "wb") as said:
        mlflow = subprocess.Popen(
            [pathlib.Path(sys.executable).parent / "mlflow", "server", "--backend-store-uri", uri, "--port", str(port), "--workers", "1"],
            cwd=folder, env=environ, stdout=said, stderr=said, start_new_session=True,
        )
    try:
        address = f"http://localhost:{port}"
        deadline = time.monotonic() + 600
        while True:
            with contextlib.suppress(requests.RequestException):
                if requests.get(address + "/health", timeout=5, proxies={"http": ""}).ok:
                    break
            assert mlflow.poll() is None and time.monotonic() < deadline, (tmp_path / "server.txt").read_text()[-3000:]
            time.sleep(0.5)
        with lapis_server(tmp_path) as server:
            report = bring(server, address)
            assert report.get("skipped") is None, report
            assert_same(there, read(server.environ()["MLFLOW_TRACKING_URI"], tmp_path, server.environ()))
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(mlflow.pid, signal.SIGTERM)
        try:
            mlflow.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(mlflow.pid, signal.SIGKILL)
            mlflow.wait()


def test_what_is_no_store_is_refused_with_what_would_be(tmp_path):
    (tmp_path / "x").write_text("no database")
    with lapis_server(tmp_path) as server:
        for store, why in (
            ("sqlite:////nowhere.db", "There is no MLflow database"),
            (tmp_path / "x", "cannot be read as an MLflow database"),
            (tmp_path, "is not an MLflow store"),
            ("postgresql://u@h/db", "Start its server"),
            ("s3://bucket", "is imported from"),
            (f"http://localhost:{server.port}/nothing", "does not answer as an MLflow server"),
        ):
            done = bring(server, store, check=False)
            assert done.returncode == 1 and why in done.stderr, (store, done.stderr)
