"""The unmodified MLflow client: tracking, artefacts, autologging and the model
registry, against the server that `lapis connect` names."""

import math
import uuid
import warnings

import mlflow
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

warnings.filterwarnings("ignore")


@pytest.fixture
def client():
    return MlflowClient()


@pytest.fixture
def experiment():
    return mlflow.set_experiment("mlflow-" + uuid.uuid4().hex[:8])


def test_a_run_comes_back_as_it_was_logged(client, experiment):
    with mlflow.start_run(run_name="first") as active:
        mlflow.log_param("alpha", 0.5)
        mlflow.log_params({"depth": 3, "name": "x" * 6000})
        mlflow.log_metrics({"one": 1, "nan": math.nan, "inf": math.inf}, step=2)
        for step in range(120):
            mlflow.log_metric("loss", 1 / (step + 1), step=step)
        mlflow.set_tags({"color": "red"})
    run = client.get_run(active.info.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "first"
    assert run.info.experiment_id == experiment.experiment_id
    assert run.data.params == {"alpha": "0.5", "depth": "3", "name": "x" * 6000}
    assert run.data.metrics["loss"] == 1 / 120 and run.data.metrics["one"] == 1
    assert math.isnan(run.data.metrics["nan"]) and run.data.metrics["inf"] > 1e308
    assert run.data.tags["color"] == "red" and run.data.tags["mlflow.runName"] == "first"
    history = client.get_metric_history(active.info.run_id, "loss")
    assert [m.step for m in history] == list(range(120))


def test_a_param_cannot_be_changed(client, experiment):
    with mlflow.start_run() as active:
        mlflow.log_param("p", 1)
        with pytest.raises(MlflowException, match="Changing param values is not allowed"):
            mlflow.log_param("p", 2)
        with pytest.raises(MlflowException, match="old_value"):
            mlflow.log_params({"p": 3, "q": 4})
    assert client.get_run(active.info.run_id).data.params == {"p": "1"}


def test_artefacts_go_up_and_come_down(client, experiment, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "ä b.bin").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "empty.txt").write_text("")
    with mlflow.start_run() as active:
        mlflow.log_artifacts(str(tmp_path), "up")
        mlflow.log_text("hello", "d/a.txt")
        mlflow.log_dict({"a": 1}, "b.json")
    run = active.info.run_id
    assert [(f.path, f.is_dir) for f in client.list_artifacts(run)] == [("b.json", False), ("d", True), ("up", True)]
    assert mlflow.artifacts.load_text(f"runs:/{run}/d/a.txt") == "hello"
    assert mlflow.artifacts.load_dict(active.info.artifact_uri + "/b.json") == {"a": 1}
    down = mlflow.artifacts.download_artifacts(run_id=run, artifact_path="up", dst_path=str(tmp_path / "down"))
    assert (tmp_path / "down" / "up" / "sub" / "ä b.bin").read_bytes() == bytes(range(256)) * 4096, down


def test_search_finds_what_the_filter_says(client, experiment):
    for i in range(12):
        with mlflow.start_run(run_name=f"run-{i:02}"):
            mlflow.log_metric("score", i)
            mlflow.log_param("parity", "even" if i % 2 == 0 else "odd")
            with mlflow.start_run(nested=True) as child:
                mlflow.set_tag("of", i)
    frame = mlflow.search_runs(filter_string="metrics.score > 3 and params.parity = 'even'", order_by=["metrics.score DESC"])
    assert frame["metrics.score"].tolist() == [10, 8, 6, 4]
    assert client.get_run(child.info.run_id).data.tags["mlflow.parentRunId"]
    ids = [experiment.experiment_id]
    page = client.search_runs(ids, "tags.of IS NULL", max_results=5, order_by=["attributes.run_name"])
    names = [r.info.run_name for r in page]
    while page.token:
        page = client.search_runs(ids, "tags.of IS NULL", max_results=5, order_by=["attributes.run_name"], page_token=page.token)
        names += [r.info.run_name for r in page]
    assert names == [f"run-{i:02}" for i in range(12)]
    with pytest.raises(MlflowException, match="Invalid entity type"):
        client.search_runs(ids, "nonsense.a = 1")


def test_datasets_are_inputs_of_runs(client, experiment):
    data = mlflow.data.from_pandas(pd.DataFrame({"a": [1.0, 2.0]}), name="two")
    with mlflow.start_run() as active:
        mlflow.log_input(data, context="training")
    inputs = client.get_run(active.info.run_id).inputs.dataset_inputs
    assert [(i.dataset.name, i.tags[0].value) for i in inputs] == [("two", "training")]
    assert mlflow.search_runs(filter_string="dataset.context = 'training'").run_id.tolist() == [active.info.run_id]


def test_experiments_are_renamed_deleted_and_restored(client, experiment):
    name = experiment.name + "-new"
    client.rename_experiment(experiment.experiment_id, name)
    client.set_experiment_tag(experiment.experiment_id, "team", "blue")
    assert client.get_experiment_by_name(name).tags == {"team": "blue"}
    client.delete_experiment(experiment.experiment_id)
    assert client.get_experiment(experiment.experiment_id).lifecycle_stage == "deleted"
    with pytest.raises(MlflowException, match="active"):
        client.create_run(experiment.experiment_id)
    client.restore_experiment(experiment.experiment_id)
    found = client.search_experiments(filter_string="tags.team = 'blue' and name LIKE 'mlflow-%'")
    assert experiment.experiment_id in [e.experiment_id for e in found]


def test_a_model_is_logged_registered_and_loaded(client, experiment):
    from sklearn.datasets import load_iris
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True)
    name = "iris-" + uuid.uuid4().hex[:8]
    mlflow.sklearn.autolog(log_models=False)
    try:
        with mlflow.start_run() as active:
            model = LogisticRegression(max_iter=200).fit(x, y)
    finally:
        mlflow.sklearn.autolog(disable=True)
    run = client.get_run(active.info.run_id)
    assert "training_accuracy_score" in run.data.metrics and run.data.params["max_iter"] == "200"

    with mlflow.start_run():
        info = mlflow.sklearn.log_model(model, name="model", registered_model_name=name, pip_requirements=["scikit-learn"])

    def same(uri):
        assert (mlflow.sklearn.load_model(uri).predict(x) == model.predict(x)).all()

    same(f"models:/{name}/1")
    same(info.model_uri)
    client.set_registered_model_alias(name, "champion", "1")
    same(f"models:/{name}@champion")
    assert client.get_model_version_by_alias(name, "champion").version in ("1", 1)
    client.copy_model_version(f"models:/{name}/1", name + "-copy")
    client.rename_registered_model(name + "-copy", name + "-renamed")
    same(f"models:/{name}-renamed/1")
    version = client.create_model_version(name, info.model_uri, model_id=info.model_id)
    assert int(version.version) == 2
    client.set_model_version_tag(name, "2", "ok", "yes")
    client.update_model_version(name, "2", "the second")
    version = client.get_model_version(name, "2")
    assert version.tags == {"ok": "yes"} and version.description == "the second"
    client.transition_model_version_stage(name, "2", "Production")
    same(f"models:/{name}/Production")
    client.delete_model_version(name, "2")
    assert [int(v.version) for v in client.search_model_versions(f"name = '{name}'")] == [1]
    assert int(client.create_model_version(name, info.model_uri, model_id=info.model_id).version) == 3
    client.delete_registered_model(name + "-renamed")
    with pytest.raises(MlflowException, match="not found"):
        client.get_registered_model(name + "-renamed")
    found = mlflow.search_logged_models(experiment_ids=[experiment.experiment_id], output_format="list")
    assert [m.model_id for m in found] == [info.model_id]


def test_prompts_are_kept_apart_from_models(client):
    name = "greet-" + uuid.uuid4().hex[:8]
    mlflow.genai.register_prompt(name=name, template="Hello {{name}}")
    assert mlflow.genai.load_prompt(f"prompts:/{name}/1").template == "Hello {{name}}"
    assert name not in [m.name for m in client.search_registered_models(max_results=1000)]
    assert name in [p.name for p in mlflow.genai.search_prompts()]


def test_traces_come_back_with_their_spans(client, experiment):
    @mlflow.trace
    def inner(x):
        return x + 1

    @mlflow.trace(attributes={"k": "v"})
    def outer(x):
        mlflow.update_current_trace(tags={"t": "v"})
        return {"a": inner(x), "list": [1, 2.5, None, "ü"]}

    @mlflow.trace
    def bad():
        raise ValueError("oops")

    outer(3)
    with mlflow.start_run() as active:
        outer(4)
    with pytest.raises(ValueError):
        bad()
    mlflow.flush_trace_async_logging()
    where = {"locations": [experiment.experiment_id], "return_type": "list"}
    traces = mlflow.search_traces(**where)
    assert [len(t.data.spans) for t in traces] == [1, 2, 2]
    assert [t.info.state.value for t in traces] == ["ERROR", "OK", "OK"]
    root = next(s for s in traces[1].data.spans if s.parent_id is None)
    assert root.name == "outer" and root.inputs == {"x": 4} and root.get_attribute("k") == "v"
    assert root.outputs == {"a": 5, "list": [1, 2.5, None, "ü"]}
    assert traces[0].data.spans[0].events[0].attributes["exception.message"] == "oops"

    trace = traces[0].info.trace_id
    good = mlflow.log_feedback(trace_id=trace, name="good", value=0.75, rationale="because")
    mlflow.log_expectation(trace_id=trace, name="want", value="this")
    mlflow.update_assessment(trace, good.assessment_id, mlflow.entities.Feedback(name="good", value=0.25))
    assert mlflow.get_assessment(trace, good.assessment_id).value == 0.25
    mlflow.set_trace_tag(trace, "z", "1")
    client.link_traces_to_run([trace], active.info.run_id)
    for text, found in {
        "tags.t = 'v'": 2, "tags.z IS NULL": 2, "trace.status = 'ERROR'": 1, "trace.name LIKE 'out%'": 2, "feedback.good < 0.5": 1,
        "feedback.good > 0.5": 0, "expectation.want = 'this'": 1, "span.name = 'inner'": 2, "span.attributes.k = 'v'": 2, "timestamp_ms > 0": 3,
        f"run_id = '{active.info.run_id}'": 2, "span.type = 'UNKNOWN' AND trace.name RLIKE '^b'": 1,
    }.items():
        assert len(mlflow.search_traces(filter_string=text, **where)) == found, text
    assert client.delete_traces(experiment.experiment_id, trace_ids=[trace]) == 1
    assert len(mlflow.search_traces(**where)) == 2
    with pytest.raises(MlflowException, match="No trace tag"):
        client.delete_trace_tag(trace, "z")


def test_evaluation_datasets_and_scorers_are_kept(experiment):
    from mlflow.genai import datasets, scorers

    data = datasets.create_dataset(name="asked", experiment_id=experiment.experiment_id, tags={"team": "blue"})
    data.merge_records([{"inputs": {"q": "a"}, "expectations": {"e": "x"}}, {"inputs": {"q": "b"}, "tags": {"k": "v"}}])
    data.merge_records([{"inputs": {"q": "a"}, "expectations": {"f": 2}}])
    frame = datasets.get_dataset(dataset_id=data.dataset_id).to_df()
    assert frame["inputs"].tolist() == [{"q": "a"}, {"q": "b"}]
    assert frame["expectations"][0] == {"e": "x", "f": 2}
    found = datasets.search_datasets(experiment_ids=[experiment.experiment_id], filter_string="name = 'asked' AND tags.team = 'blue'")
    assert [d.dataset_id for d in found] == [data.dataset_id]
    datasets.set_dataset_tags(dataset_id=data.dataset_id, tags={"team": "red", "new": "1"})
    datasets.delete_dataset_tag(dataset_id=data.dataset_id, key="new")
    assert datasets.get_dataset(dataset_id=data.dataset_id).tags["team"] == "red"
    datasets.delete_dataset(dataset_id=data.dataset_id)
    with pytest.raises(MlflowException, match="not found"):
        datasets.get_dataset(dataset_id=data.dataset_id)

    judge = scorers.Guidelines(name="polite", guidelines="be polite")
    judge.register(experiment_id=experiment.experiment_id)
    judge.register(experiment_id=experiment.experiment_id)
    assert [s.name for s in scorers.list_scorers(experiment_id=experiment.experiment_id)] == ["polite"]
    assert scorers.get_scorer(name="polite", experiment_id=experiment.experiment_id).name == "polite"
    scorers.delete_scorer(name="polite", experiment_id=experiment.experiment_id, version="all")
    assert scorers.list_scorers(experiment_id=experiment.experiment_id) == []
