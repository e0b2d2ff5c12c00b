"""The calls of MLflow's client that no other story makes, one after the other.

Where each group of MLflow's endpoints is driven by its own client:

    experiments                    test_mlflow, test_mlflow_search, here
    runs, params, tags, batches    test_mlflow, test_mlflow_training, here
    metrics: histories, charts     test_mlflow, test_mlflow_training, here
    artefacts, also of models      test_mlflow, here
    datasets as inputs, outputs    test_mlflow, test_mlflow_training, here
    logged models                  test_mlflow_training, test_mlflow_search, here
    registered models, versions    test_mlflow, test_mlflow_search, here
    prompts                        test_mlflow, test_mlflow_genai
    webhooks                       test_webhooks
    traces, OTLP, assessments      test_mlflow, test_mlflow_genai
    evaluation datasets, scorers   test_mlflow, test_mlflow_genai, here
    workspaces                     test_mlflow_workspaces
"""

import io
import time
import uuid

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from matplotlib.figure import Figure
from mlflow import MlflowClient
from mlflow.entities import LoggedModelOutput, Metric, Param, RunTag, ViewType
from mlflow.exceptions import MlflowException

client = MlflowClient()


@pytest.fixture
def experiment():
    return client.create_experiment("calls-" + uuid.uuid4().hex[:8], tags={"a": "b"})


def test_experiment_tags_are_deleted_and_one_is_found_again(experiment):
    client.set_experiment_tag(experiment, "c", "d")
    client.delete_experiment_tag(experiment, "a")
    assert client.get_experiment(experiment).tags == {"c": "d"}
    with pytest.raises(MlflowException, match="No tag with name: a"):
        client.delete_experiment_tag(experiment, "a")
    assert client.get_experiment_by_name("none-" + uuid.uuid4().hex) is None
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(client.get_experiment(experiment).name)


def test_runs_are_changed_ended_deleted_and_restored(experiment):
    run = client.create_run(experiment, start_time=5, tags={"k": "v"}, run_name="first").info.run_id
    client.update_run(run, name="second")
    client.log_batch(run, metrics=[Metric("m", n, n, n) for n in range(1000)])
    client.log_batch(run, params=[Param(f"p{n}", "v") for n in range(100)], tags=[RunTag(f"t{n}", "v") for n in range(100)])
    client.delete_tag(run, "k")
    client.set_terminated(run, "KILLED", end_time=9)
    info = client.get_run(run).info
    assert (info.run_name, info.status, info.start_time, info.end_time) == ("second", "KILLED", 5, 9)
    assert "k" not in client.get_run(run).data.tags and len(client.get_run(run).data.params) == 100
    child = client.create_run(experiment, tags={"mlflow.parentRunId": run}).info.run_id
    assert client.get_parent_run(child).info.run_id == run
    client.delete_run(run)
    with pytest.raises(MlflowException, match="must be in the 'active' state"):
        client.log_metric(run, "m", 1)
    assert [r.info.run_id for r in client.search_runs([experiment], run_view_type=ViewType.DELETED_ONLY)] == [run]
    client.restore_run(run)
    assert client.get_run(run).info.lifecycle_stage == "active"
    with pytest.raises(MlflowException, match="not found"):
        client.get_run("0" * 32)


def test_histories_come_in_pages(experiment):
    run = client.create_run(experiment).info.run_id
    for at in range(0, 3000, 1000):
        client.log_batch(run, metrics=[Metric("m", n / 2, n, n) for n in range(at, at + 1000)])
    store = client._tracking_client.store
    assert len(client.get_metric_history(run, "m")) == 3000
    page = store.get_metric_history(run, "m", max_results=1000)
    assert len(page) == 1000 and page.token


def test_artefacts_of_every_kind(experiment, tmp_path):
    run = client.create_run(experiment).info.run_id
    client.log_text(run, "text", "a/t.txt")
    client.log_dict(run, {"a": [1]}, "a/d.yaml")
    client.log_table(run, {"q": ["x", "y"], "n": [1, 2]}, "table.json")
    client.log_table(run, {"q": ["z"], "n": [3]}, "table.json")
    client.log_image(run, np.zeros((4, 4, 3), dtype=np.uint8), "image.png")
    client.log_image(run, np.zeros((4, 4, 3), dtype=np.uint8), key="dog", step=2)
    client.log_stream(run, io.BytesIO(b"streamed"), "s.bin")
    client.log_figure(run, Figure(), "f.png")
    assert [f.path for f in client.list_artifacts(run)] == ["a", "f.png", "image.png", "images", "s.bin", "table.json"]
    assert [(f.path, f.file_size) for f in client.list_artifacts(run, "a")] == [("a/d.yaml", 7), ("a/t.txt", 4)]
    assert client.load_table(experiment, "table.json", [run])["n"].tolist() == [1, 2, 3]
    with open(client.download_artifacts(run, "s.bin", str(tmp_path)), "rb") as f:
        assert f.read() == b"streamed"
    repository = mlflow.store.artifact.artifact_repository_registry.get_artifact_repository(client.get_run(run).info.artifact_uri)
    repository.delete_artifacts("a")
    assert "a" not in [f.path for f in client.list_artifacts(run)]
    with pytest.raises(Exception):
        mlflow.artifacts.load_text(f"runs:/{run}/a/t.txt")


def test_logged_models_are_made_by_hand(experiment, tmp_path):
    run = client.create_run(experiment).info.run_id
    model = client.create_logged_model(experiment, name="net", source_run_id=run, params={"a": "1"}, tags={"t": "v"})
    assert model.status.value == "PENDING"
    client.log_model_params(model.model_id, {"b": "2"})
    (tmp_path / "w.bin").write_bytes(b"weights")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "x.txt").write_text("x")
    client.log_model_artifacts(model.model_id, str(tmp_path))
    client.log_model_artifact(model.model_id, str(tmp_path / "w.bin"))
    assert [f.path for f in client.list_logged_model_artifacts(model.model_id)] == ["sub", "w.bin"]
    assert client.finalize_logged_model(model.model_id, "READY").status.value == "READY"
    client.set_logged_model_tags(model.model_id, {"t": "w", "u": "x"})
    client.delete_logged_model_tag(model.model_id, "u")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=7)])
    kept = client.get_logged_model(model.model_id)
    assert kept.params == {"a": "1", "b": "2"} and kept.tags == {"t": "w"}
    assert [(o.model_id, o.step) for o in client.get_run(run).outputs.model_outputs] == [(model.model_id, 7)]
    client.delete_logged_model(model.model_id)
    with pytest.raises(MlflowException, match="not found"):
        client.get_logged_model(model.model_id)


def test_versions_go_through_stages_and_tags_come_and_go():
    name = "stages-" + uuid.uuid4().hex[:8]
    client.create_registered_model(name, tags={"a": "b"}, description="what it is")
    client.update_registered_model(name, "what it was")
    client.set_registered_model_tag(name, "c", "d")
    client.delete_registered_model_tag(name, "a")
    for n in "123":
        assert str(client.create_model_version(name, "s3://bucket/m" + n).version) == n
    client.transition_model_version_stage(name, "1", "Production")
    client.transition_model_version_stage(name, "2", "Production", archive_existing_versions=True)
    client.set_model_version_tag(name, "3", "k", "v")
    client.delete_model_version_tag(name, "3", "k")
    client.set_model_version_tag(name, "3", "k2", "v")
    stages = {v.current_stage: int(v.version) for v in client.get_latest_versions(name)}
    assert stages == {"Archived": 1, "Production": 2, "None": 3}
    assert client.get_model_version(name, "3").tags == {"k2": "v"}
    assert client.get_model_version_download_uri(name, "3") == "s3://bucket/m3"
    assert client.get_model_version_stages(name, "3") == ["None", "Staging", "Production", "Archived"]
    model = client.get_registered_model(name)
    assert model.description == "what it was" and model.tags == {"c": "d"}
    with pytest.raises(MlflowException, match="Invalid Model Version stage"):
        client.transition_model_version_stage(name, "3", "Nope")


def test_evaluation_datasets_belong_to_several_experiments_and_scorers_have_versions(experiment):
    from mlflow.genai import datasets, scorers

    other = client.create_experiment("calls-" + uuid.uuid4().hex[:8])
    data = datasets.create_dataset(name="shared", experiment_id=[experiment])
    client.add_dataset_to_experiments(data.dataset_id, [other])
    assert set(client.get_dataset(data.dataset_id).experiment_ids) == {experiment, other}
    client.remove_dataset_from_experiments(data.dataset_id, [experiment])
    assert client.get_dataset(data.dataset_id).experiment_ids == [other]
    data.merge_records(pd.DataFrame({"inputs": [{"q": "a"}, {"q": "b"}]}))
    ids = data.to_df()["dataset_record_id"].tolist()
    assert data.delete_records([ids[0]]) == 1 and data.to_df()["dataset_record_id"].tolist() == [ids[1]]

    for text in ("be polite", "be brief"):
        scorers.Guidelines(name="tone", guidelines=text).register(experiment_id=experiment)
    assert len(scorers.list_scorers(experiment_id=experiment)) == 1
    assert scorers.get_scorer(name="tone", experiment_id=experiment, version=1).guidelines in ("be polite", ["be polite"])
    scorers.delete_scorer(name="tone", experiment_id=experiment, version=2)
    assert scorers.get_scorer(name="tone", experiment_id=experiment).guidelines in ("be polite", ["be polite"])


def test_what_is_left_out_says_so():
    before = time.monotonic()
    with pytest.raises(MlflowException, match="not offered|NOT_IMPLEMENTED"):
        client.create_mcp_server(name="io.test/x")
    assert time.monotonic() - before < 60, "the client tried again and again"


def test_a_server_tells_its_version_and_that_it_is_well():
    import os

    base, ca = os.environ["MLFLOW_TRACKING_URI"].rstrip("/"), os.environ.get("REQUESTS_CA_BUNDLE", True)
    assert requests.get(base + "/version", verify=ca).text == mlflow.__version__
    assert requests.get(base + "/health", verify=ca).text == "OK"
    assert requests.get(base + "/api/3.0/mlflow/server-info", verify=ca).json()["store_type"] == "SqlStore"
