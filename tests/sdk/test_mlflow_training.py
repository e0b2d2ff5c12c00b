"""Training as people write it, with the unmodified MLflow client: autologging,
loops that log while they run, models from logging to predicting, evaluation."""

import math
import uuid

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.datasets import load_breast_cancer, load_iris


@pytest.fixture
def client():
    return MlflowClient()


@pytest.fixture(autouse=True)
def experiment(monkeypatch):
    # The client starts a Python to find out what a model imports: it need not wait for it.
    monkeypatch.setenv("MLFLOW_REQUIREMENTS_INFERENCE_TIMEOUT", "1")
    found = mlflow.set_experiment("training-" + uuid.uuid4().hex[:8])
    yield found
    mlflow.autolog(disable=True, silent=True)


def test_sklearn_logs_by_itself_with_its_model_and_its_data(client, experiment):
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.model_selection import GridSearchCV

    mlflow.sklearn.autolog(silent=True)
    x, y = load_iris(return_X_y=True, as_frame=True)
    with mlflow.start_run() as active:
        forest = RandomForestClassifier(n_estimators=5, random_state=1).fit(x, y)
        forest.score(x, y)
    run = client.get_run(active.info.run_id)
    assert run.data.params["n_estimators"] == "5"
    assert run.data.metrics["training_accuracy_score"] > 0.9
    assert run.inputs.dataset_inputs[0].dataset.source_type == "code"
    assert {"estimator.html", "training_confusion_matrix.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    [model] = mlflow.search_logged_models(experiment_ids=[experiment.experiment_id], output_format="list")
    assert model.source_run_id == run.info.run_id and run.outputs.model_outputs[0].model_id == model.model_id
    loaded = mlflow.sklearn.load_model(f"models:/{model.model_id}")
    assert (loaded.predict(x) == forest.predict(x)).all()

    mlflow.sklearn.autolog(silent=True, log_models=False)
    with mlflow.start_run() as active:
        GridSearchCV(RandomForestClassifier(random_state=1), {"n_estimators": [2, 3]}, cv=2).fit(x, y)
    children = client.search_runs([experiment.experiment_id], f"tags.mlflow.parentRunId = '{active.info.run_id}'")
    assert {c.data.params["n_estimators"] for c in children} == {"2", "3"}
    assert client.get_run(active.info.run_id).data.params["best_n_estimators"] in ("2", "3")


def test_lightgbm_logs_each_round_by_itself(client, experiment):
    import lightgbm

    mlflow.lightgbm.autolog(silent=True)
    x, y = load_breast_cancer(return_X_y=True)
    data = lightgbm.Dataset(x, y)
    with mlflow.start_run() as active:
        booster = lightgbm.train(
            {"objective": "binary", "metric": "binary_logloss", "num_threads": 1, "verbose": -1, "num_leaves": 7},
            data, num_boost_round=12, valid_sets=[data], valid_names=["train"],
        )  # fmt: skip
    run = client.get_run(active.info.run_id)
    assert run.data.params["num_leaves"] == "7"
    history = client.get_metric_history(run.info.run_id, "train-binary_logloss")
    assert [m.step for m in history] == list(range(12))
    assert history[-1].value < history[0].value
    assert {"feature_importance_gain.json", "feature_importance_split.png"} <= {f.path for f in client.list_artifacts(run.info.run_id)}
    [model] = mlflow.search_logged_models(experiment_ids=[experiment.experiment_id], output_format="list")
    loaded = mlflow.pyfunc.load_model(f"models:/{model.model_id}")
    assert np.allclose(loaded.predict(x), booster.predict(x))


def test_a_loop_of_gradient_descent_logs_while_it_runs(client, experiment):
    """A loop as one writes it for PyTorch, over NumPy: the CPU build of PyTorch
    is not on the ordinary registry, and the other one is 2 GB."""
    x, y = load_breast_cancer(return_X_y=True)
    x = (x - x.mean(0)) / x.std(0)
    w = np.zeros(x.shape[1])
    mlflow.config.enable_async_logging()
    try:
        with mlflow.start_run(log_system_metrics=False) as active:
            mlflow.log_params({"lr": 0.5, "epochs": 60})
            for epoch in range(60):
                p = 1 / (1 + np.exp(-x @ w))
                loss = -np.mean(y * np.log(p + 1e-9) + (1 - y) * np.log(1 - p + 1e-9))
                mlflow.log_metrics({"loss": loss, "accuracy": np.mean((p > 0.5) == y)}, step=epoch)
                w -= 0.5 * x.T @ (p - y) / len(y)
                if epoch % 20 == 19:
                    mlflow.log_dict({"w": w.tolist()}, f"checkpoints/{epoch}.json")
            mlflow.log_metric("lr", math.nan, step=60)
            mlflow.flush_async_logging()
    finally:
        mlflow.config.enable_async_logging(False)
    run = active.info.run_id
    assert [m.step for m in client.get_metric_history(run, "loss")] == list(range(60))
    assert client.get_run(run).data.metrics["accuracy"] > 0.95
    assert [f.path for f in client.list_artifacts(run, "checkpoints")] == [f"checkpoints/{e}.json" for e in (19, 39, 59)]
    assert len(mlflow.artifacts.load_dict(f"runs:/{run}/checkpoints/59.json")["w"]) == 30
    frame = mlflow.search_runs(filter_string="metrics.loss < 0.2 AND metrics.lr != 1")
    assert frame.run_id.tolist() == [run]


class Doubler(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input * (params or {}).get("by", 2)


def test_a_model_goes_from_logging_to_an_alias_and_predicts_the_same(client, experiment):
    from sklearn.linear_model import Ridge

    x, y = load_iris(return_X_y=True, as_frame=True)
    model, name = Ridge().fit(x, y), "chain-" + uuid.uuid4().hex[:8]
    with mlflow.start_run() as active:
        logged = mlflow.sklearn.log_model(
            model, name="ridge", params={"alpha": 1.0}, tags={"stage": "candidate"},
            signature=mlflow.models.infer_signature(x, model.predict(x)), pip_requirements=["scikit-learn"], step=3,
        )  # fmt: skip
        mlflow.log_metric("r2", model.score(x, y), step=3, model_id=logged.model_id, dataset=mlflow.data.from_pandas(x, name="iris"))
    version = mlflow.register_model(logged.model_uri, name, tags={"from": "test"}, await_registration_for=5)
    client.set_registered_model_alias(name, "champion", version.version)
    for uri in (logged.model_uri, f"models:/{name}/1", f"models:/{name}@champion", f"models:/{name}/latest", f"runs:/{active.info.run_id}/ridge"):
        loaded = mlflow.pyfunc.load_model(uri)
        assert np.allclose(loaded.predict(x), model.predict(x), rtol=1e-12), uri
    assert loaded.metadata.signature.inputs.input_names() == list(x.columns)
    kept = mlflow.get_logged_model(logged.model_id)
    assert kept.params == {"alpha": "1.0"} and kept.tags["stage"] == "candidate" and kept.status.value == "READY"
    assert [(m.key, m.dataset_name, m.step) for m in kept.metrics] == [("r2", "iris", 3)]
    assert client.get_run(active.info.run_id).outputs.model_outputs[0].step == 3
    assert mlflow.models.get_model_info(f"models:/{name}@champion").flavors.keys() >= {"sklearn", "python_function"}
    client.delete_registered_model_alias(name, "champion")
    with pytest.raises(mlflow.MlflowException, match="alias champion not found"):
        client.get_model_version_by_alias(name, "champion")


def test_a_model_of_ones_own_class_predicts_after_loading(client):
    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="doubler", python_model=Doubler(), pip_requirements=[])
    loaded = mlflow.pyfunc.load_model(logged.model_uri)
    assert loaded.predict(pd.DataFrame({"a": [1, 2]}))["a"].tolist() == [2, 4]


def test_evaluate_measures_a_classifier_and_keeps_tables_and_plots(client, experiment):
    from sklearn.linear_model import LogisticRegression

    x, y = load_iris(return_X_y=True, as_frame=True)
    with mlflow.start_run() as active:
        logged = mlflow.sklearn.log_model(LogisticRegression(max_iter=300).fit(x, y), name="model", pip_requirements=["scikit-learn"])
        result = mlflow.models.evaluate(
            logged.model_uri, x.assign(label=y), targets="label", model_type="classifier",
            evaluator_config={"log_explainer": False, "log_model_explainability": False},
        )  # fmt: skip
    run = client.get_run(active.info.run_id)
    assert run.data.metrics["accuracy_score"] == result.metrics["accuracy_score"] > 0.9
    assert "per_class_metrics.csv" in {f.path for f in client.list_artifacts(run.info.run_id)}
    assert run.inputs.dataset_inputs and "accuracy_score" in {m.key for m in mlflow.get_logged_model(logged.model_id).metrics}
