"""The unmodified MLflow client inside of jobs, and the models it shares with
the SDK."""

import os

import mlflow
import pytest
from azure.ai.ml import command, load_job
from azure.ai.ml.entities import Environment
from conftest import EXAMPLES, PLAIN
from mlflow import MlflowClient

CONDA = """\
name: trained
channels: [conda-forge]
dependencies:
- python=3.11
- pip
- pip:
  - mlflow-skinny==3.17.2
  - scikit-learn==1.9.1
  - pandas==3.1.1
  - skops==0.16.0
"""


@pytest.fixture
def conda(tmp_path):
    path = tmp_path / "conda.yml"
    path.write_text(CONDA)
    return str(path)


@pytest.fixture
def experiment(unique):
    name = unique("experiment")
    mlflow.set_experiment(name)
    return name


def test_a_model_registered_with_mlflow_is_an_asset_of_the_workspace(experiment, unique, ml):
    from sklearn.linear_model import LogisticRegression

    name = unique("both")
    with mlflow.start_run():
        logged = mlflow.sklearn.log_model(LogisticRegression().fit([[0], [1]], [0, 1]), name="model")
    version = mlflow.register_model(logged.model_uri, name)
    assert version.version == 1 or version.version == "1"
    asset = ml.models.get(name, version="1")
    assert "python_function" in asset.flavors
    assert (mlflow.pyfunc.load_model(f"models:/{name}/1").predict([[0], [1]]) == [0, 1]).all()


def test_a_job_logs_to_its_own_run(ml, finish, printed, tmp_path):
    job = ml.jobs.create_or_update(load_job(EXAMPLES / "mlflow-basics" / "job.yml"))
    assert f"run {job.name}" in printed(job)
    run = MlflowClient().get_run(job.name)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"learning_rate": "0.1", "steps": "50"}
    assert run.data.tags["purpose"] == "example"
    history = MlflowClient().get_metric_history(job.name, "loss")
    assert [m.step for m in history] == list(range(50))
    assert {"labels.json", "notes"} <= {a.path for a in MlflowClient().list_artifacts(job.name)}


def test_the_iris_job_trains_tracks_and_its_model_is_loaded(ml, finish, printed, unique):
    import pandas as pd

    job = ml.jobs.create_or_update(load_job(EXAMPLES / "iris" / "job.yml"))
    assert "accuracy" in printed(job)
    run = MlflowClient().get_run(job.name)
    assert run.data.metrics["test_accuracy"] > 0.9
    assert len(MlflowClient().get_metric_history(job.name, "test_loss")) == 15

    from azure.ai.ml.constants import AssetTypes
    from azure.ai.ml.entities import Model

    name = unique("iris")
    ml.models.create_or_update(Model(name=name, path=f"azureml://jobs/{job.name}/outputs/model", type=AssetTypes.MLFLOW_MODEL))
    flowers = pd.read_csv(EXAMPLES / "iris" / "data" / "iris.csv")
    os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "true"
    model = mlflow.pyfunc.load_model(f"models:/{name}/1")
    found = model.predict(flowers.drop(columns="species"))
    assert (found == flowers["species"]).mean() > 0.9


def test_autolog_inside_a_job(ml, finish, printed, conda, tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(
        "import mlflow\n"
        "from sklearn.datasets import load_iris\n"
        "from sklearn.linear_model import LogisticRegression\n"
        "mlflow.sklearn.autolog()\n"
        "x, y = load_iris(return_X_y=True, as_frame=True)\n"
        "LogisticRegression(max_iter=200).fit(x, y)\n"
        "print('trained', mlflow.last_active_run().info.run_id)\n"
    )
    job = ml.jobs.create_or_update(
        command(command="python main.py", code=str(tmp_path / "src"), environment=Environment(image=PLAIN, conda_file=conda))
    )
    assert f"trained {job.name}" in printed(job)
    run = MlflowClient().get_run(job.name)
    assert run.data.params["max_iter"] == "200"
    assert run.data.metrics["training_accuracy_score"] > 0.9
