"""MLflow's searches with every comparator, by the unmodified client."""

import math
import uuid

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

client = MlflowClient()


@pytest.fixture(scope="module")
def runs():
    """An experiment with the runs a, b and c."""
    id = mlflow.create_experiment("search-" + uuid.uuid4().hex[:8])
    data = mlflow.data.from_numpy(__import__("numpy").zeros(2), name="zeros")
    made = {}
    for n, name in enumerate("abc"):
        with mlflow.start_run(experiment_id=id, run_name=name) as run:
            mlflow.log_metrics({"n": n, "odd": math.nan if n == 1 else n})
            mlflow.log_param("lr", ["0.1", "0.2", "Big"][n])
            if n < 2:
                mlflow.set_tag("colour of it", ["red", "Red"][n])
            if n == 2:
                mlflow.log_input(data, context="training")
        made[name] = run.info.run_id
    client.set_terminated(made["c"], "FAILED")
    return id, made


RUNS = {
    "metrics.n = 1": "b", "metrics.n != 1": "ac", "metrics.n > 0": "bc", "metrics.n >= 1": "bc", "metrics.n < 1": "a", "metric.n <= 1": "ab",
    "metrics.odd = 0": "a", "metrics.odd != 0": "bc", "metrics.odd >= 0": "ac", "metrics.none != 0": "",
    "params.lr = '0.1'": "a", "params.lr != '0.1'": "bc", "params.lr LIKE '0.%'": "ab", "params.lr ILIKE 'BIG'": "c", "param.lr LIKE 'big'": "",
    "params.none IS NULL": "abc", "params.lr IS NOT NULL": "abc", "tags.`colour of it` IS NULL": "c", "tags.`colour of it` IS NOT NULL": "ab",
    'tags."colour of it" = "red"': "a", "tag.`colour of it` != 'red'": "b", "tags.`colour of it` LIKE 'r_d'": "a", "tags.`colour of it` ILIKE 'RED'": "ab",
    "attributes.status = 'FAILED'": "c", "status != 'FAILED'": "ab", "attributes.run_name LIKE 'a'": "a", "run_name ILIKE 'B'": "b",
    "attributes.run_name = 'a' AND metrics.n = 0": "a", "run_name = 'a' and metrics.n = 1": "",
    "dataset.name = 'zeros'": "c", "datasets.context IN ('training', 'x')": "c", "dataset.name NOT IN ('zeros')": "", "dataset.digest LIKE '%'": "c",
    "start_time > 0": "abc", "attributes.end_time < 5": "", "created != 5": "abc", "artifact_uri LIKE '%artifacts'": "abc",
}  # fmt: skip


@pytest.mark.parametrize("text", RUNS)
def test_runs(runs, text):
    found = client.search_runs([runs[0]], text)
    assert "".join(sorted(r.info.run_name for r in found)) == RUNS[text]


def test_runs_by_their_ids(runs):
    id, made = runs
    names = lambda text: "".join(sorted(r.info.run_name for r in client.search_runs([id], text)))  # noqa: E731
    assert names(f"run_id = '{made['a']}'") == "a" and names(f"attributes.run_id != '{made['a']}'") == "bc"
    assert names(f"run_id IN ('{made['a']}', '{made['b']}')") == "ab" and names(f"run_id NOT IN ('{made['a']}')") == "bc"


@pytest.mark.parametrize(
    "order, names",
    {
        "metrics.n DESC": "cba", "metrics.odd ASC": "acb", "metrics.odd DESC": "cab", "params.lr": "abc", "tags.`colour of it` DESC": "abc",
        "attributes.run_name DESC": "cba", "status ASC": "cba", "start_time": "abc",
    }.items(),
)  # fmt: skip
def test_runs_are_ordered(runs, order, names):
    if order == "status ASC":
        names = "c" + "".join(r.info.run_name for r in client.search_runs([runs[0]], "status = 'FINISHED'"))
    assert "".join(r.info.run_name for r in client.search_runs([runs[0]], order_by=[order])) == names


@pytest.mark.parametrize(
    "text, error",
    {
        "metrics.n > '1'": "Expected numeric value type for metric", "params.lr = 1": "Expected a quoted string value for parameter",
        "params.lr > '1'": "Invalid comparator '>' not one of", "nonsense.a = 1": "Invalid entity type 'nonsense'", "attributes.nope = 'x'": "Invalid attribute key 'nope'",
        "status IN ('FAILED')": r"Only \['run_id'\] attributes support comparison", "tags.a": "Invalid clause", "tags.a = b": "either not quoted or unidentified quote",
        "metrics.n = 1 OR metrics.n = 2": "Invalid clause",
    }.items(),
)  # fmt: skip
def test_wrong_filters_are_refused_with_mlflows_words(runs, text, error):
    with pytest.raises(MlflowException, match=error) as caught:
        client.search_runs([runs[0]], text)
    assert caught.value.error_code == "INVALID_PARAMETER_VALUE"


def test_experiments():
    mark = uuid.uuid4().hex[:8]
    ids = {n: client.create_experiment(f"{n}-{mark}", tags={"team": n, "mark": mark} if n != "c" else {"mark": mark}) for n in "abc"}
    client.delete_experiment(ids["c"])

    def names(text, view=mlflow.entities.ViewType.ALL, **settings):
        found = client.search_experiments(filter_string=f"tags.mark = '{mark}'" + text, view_type=view, **settings)
        return "".join(e.name[0] for e in found)

    for text, wanted in {
        "": "cba", f" AND name = 'a-{mark}'": "a", f" AND name != 'a-{mark}'": "cb", " AND name LIKE 'a%'": "a", " AND attribute.name ILIKE 'A%'": "a", " AND tags.team = 'a'": "a",
        " AND tags.team != 'a'": "b", " AND tag.team LIKE '_'": "ba", " AND tags.team ILIKE 'B'": "b", " AND tags.team IS NULL": "c", " AND tags.team IS NOT NULL": "ba",
        f" AND experiment_id = '{ids['a']}'": "a", f" AND experiment_id IN ('{ids['a']}', '{ids['b']}')": "ba", f" AND experiment_id NOT IN ('{ids['a']}')": "cb",
        " AND creation_time > 0": "cba", " AND last_update_time < 5": "",
    }.items():  # fmt: skip
        assert sorted(names(text)) == sorted(wanted), text
    assert names("", mlflow.entities.ViewType.DELETED_ONLY) == "c" and sorted(names("", mlflow.entities.ViewType.ACTIVE_ONLY)) == ["a", "b"]
    assert names("", order_by=["name"]) == "abc" and names("", order_by=["experiment_id DESC"]) == "cba"


def test_registered_models_and_versions():
    mark = uuid.uuid4().hex[:8]
    a, b = f"A{mark}", f"b{mark}"
    client.create_registered_model(a, tags={"team": "blue"})
    client.create_registered_model(b)
    run = client.create_run(client.create_experiment("of-" + mark)).info.run_id
    client.create_model_version(a, "s3://bucket/one", run_id=run, tags={"ok": "yes"})
    client.create_model_version(a, "s3://bucket/two")
    client.create_model_version(b, "s3://bucket/one")

    for text, wanted in {
        f"name = '{a}'": [a], f"name != '{a}' AND name ILIKE '%{mark}'": [b], f"name LIKE '%{mark}'": [a, b], f"name ILIKE 'a{mark}'": [a], f"name LIKE 'a{mark}'": [],
        f"name IN ('{a}', '{b}')": [a, b], f"name NOT IN ('{a}') AND name LIKE '%{mark}'": [b], f"tags.team = 'blue' AND name LIKE '%{mark}'": [a],
        f"tags.team != 'red' AND name LIKE '%{mark}'": [a], f"tag.team LIKE 'b%' AND name LIKE '%{mark}'": [a], f"tags.team ILIKE 'BLUE' AND name LIKE '%{mark}'": [a],
    }.items():  # fmt: skip
        assert [m.name for m in client.search_registered_models(text)] == wanted, text
    assert [m.name for m in client.search_registered_models(f"name LIKE '%{mark}'", order_by=["name DESC"])] == [b, a]
    page = client.search_registered_models(f"name LIKE '%{mark}'", max_results=1)
    assert [m.name for m in client.search_registered_models(f"name LIKE '%{mark}'", max_results=1, page_token=page.token)] == [b]

    for text, wanted in {
        f"name = '{a}'": ["2", "1"], f"name = '{a}' AND version_number > 1": ["2"], f"name = '{a}' AND version_number != 1": ["2"], f"name = '{a}' AND version_number <= 1": ["1"],
        f"run_id = '{run}'": ["1"], f"run_id IN ('{run}', 'x')": ["1"], f"name = '{a}' AND source_path LIKE '%two'": ["2"], f"name = '{a}' AND source_path = 's3://bucket/one'": ["1"],
        f"name = '{a}' AND source_path ILIKE '%TWO'": ["2"], f"name = '{a}' AND tags.ok = 'yes'": ["1"], f"name = '{a}' AND tags.ok != 'no'": ["1"], f"name = '{a}' AND tag.ok LIKE 'y%'": ["1"],
    }.items():  # fmt: skip
        assert [str(v.version) for v in client.search_model_versions(text)] == wanted, text
    assert [str(v.version) for v in client.search_model_versions(f"name = '{a}'", order_by=["version_number ASC"])] == ["1", "2"]
    for text, error in {"name > 'x'": "Invalid comparator for attribute: >", "version_number LIKE 1": "Invalid comparator for attribute version_number", "nope = 'x'": "Invalid attribute key"}.items():
        with pytest.raises(MlflowException, match=error):
            client.search_model_versions(text)


def test_logged_models():
    mark = uuid.uuid4().hex[:8]
    experiment = client.create_experiment("models-" + mark)
    run = client.create_run(experiment).info.run_id
    ids = {}
    for n, name in enumerate("abc"):
        model = client.create_logged_model(experiment, name=name, source_run_id=run, params={"depth": str(n)}, tags={"team": "blue"} if n else None, model_type="tree" if n else "net")
        ids[name] = model.model_id
        client.log_metric(run, "acc", n / 10, model_id=model.model_id, dataset_name="d" + name, dataset_digest="1")
    client.finalize_logged_model(ids["a"], "READY")

    def names(text, **settings):
        return "".join(m.name for m in client.search_logged_models([experiment], text, **settings))

    for text, wanted in {
        None: "cba", "metrics.acc > 0.05": "cb", "metrics.acc <= 0.1": "ba", "metrics.acc = 0.2": "c", "metrics.acc != 0.2": "ba", "params.depth = '1'": "b", "params.depth IN ('1', '2')": "cb",
        "params.depth NOT IN ('1')": "ca", "tags.team LIKE 'b%'": "cb", "tags.team ILIKE 'BLUE'": "cb", "name = 'a'": "a", "name != 'a'": "cb", "attributes.name IN ('a', 'b')": "ba",
        "model_type = 'tree'": "cb", f"model_id = '{ids['b']}'": "b", f"source_run_id = '{run}'": "cba", "creation_timestamp > 0": "cba", "last_updated_timestamp < 5": "", "name LIKE 'a%' AND metrics.acc < 1": "a",
    }.items():  # fmt: skip
        assert sorted(names(text)) == sorted(wanted), text
    assert names(None, order_by=[{"field_name": "metrics.acc", "ascending": True}]) == "abc"
    assert names("metrics.acc >= 0", datasets=[{"dataset_name": "db", "dataset_digest": "1"}]) == "b"
    first = client.search_logged_models([experiment], max_results=2)
    assert len(first) == 2 and len(client.search_logged_models([experiment], max_results=2, page_token=first.token)) == 1
    with pytest.raises(MlflowException, match="page token"):
        client.search_logged_models([experiment], "name = 'a'", page_token=first.token)
    for text, error in {"params.depth > '1'": "Invalid comparison operator for params.depth", "metric.acc > 1": "Invalid entity type", "x": "Invalid filter string"}.items():
        with pytest.raises(MlflowException, match=error):
            client.search_logged_models([experiment], text)
