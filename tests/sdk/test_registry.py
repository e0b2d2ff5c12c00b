"""Registries: assets that workspaces share."""

import pytest
from azure.ai.ml import Input, MLClient, command
from azure.ai.ml.entities import Data, Environment, Model, Registry, RegistryRegionDetails
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from conftest import PLAIN


@pytest.fixture(scope="module")
def shared(ml):
    """A client of a registry of the suite's own, and its name."""
    name = "suite-registry"
    ml.registries.begin_create(Registry(name=name, location="local", replication_locations=[RegistryRegionDetails(location="local")])).result()
    return MLClient(DefaultAzureCredential(), registry_name=name), name


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "weights"
    root.mkdir()
    (root / "model.bin").write_bytes(bytes(range(256)) * 100)
    return root


def test_registries_are_listed_and_shown(ml, shared):
    names = [r.name for r in ml.registries.list()]
    assert shared[1] in names and "azureml" in names
    assert ml.registries.get(shared[1]).name == shared[1]


def test_a_model_of_a_registry_comes_back_as_it_was(shared, folder, tmp_path, unique):
    client, _ = shared
    name = unique("model")
    client.models.create_or_update(Model(name=name, version="1", path=str(folder), type="custom_model", tags={"a": "b"}))
    assert client.models.get(name, version="1").tags == {"a": "b"}
    assert name in [m.name for m in client.models.list()]
    client.models.download(name, version="1", download_path=str(tmp_path / "back"))
    assert [p.read_bytes() for p in (tmp_path / "back").rglob("model.bin")] == [(folder / "model.bin").read_bytes()]


def test_what_a_workspace_shares_is_used_by_a_job(ml, shared, folder, printed, cpu, unique):
    _, registry = shared
    name = unique("model")
    ml.models.create_or_update(Model(name=name, version="1", path=str(folder), type="custom_model"))
    ml.models.share(name=name, version="1", registry_name=registry, share_with_name=name, share_with_version="7")
    source = f"azureml://registries/{registry}/models/{name}/versions/7"
    job = ml.jobs.create_or_update(command(
        command="find ${{inputs.m}} -name model.bin | wc -l", environment=Environment(image=PLAIN), compute=cpu,
        inputs={"m": Input(type="custom_model", path=source)},
    ))
    assert "\n1\n" in "\n" + printed(job)


def test_environments_and_data_of_a_registry_are_used_by_a_job(ml, shared, folder, printed, cpu, unique):
    client, registry = shared
    name = unique("asset")
    client.environments.create_or_update(Environment(name=name, version="1", image=PLAIN))
    client.data.create_or_update(Data(name=name, version="1", path=str(folder), type="uri_folder"))
    assert name in [e.name for e in client.environments.list()] and name in [d.name for d in client.data.list()]
    job = ml.jobs.create_or_update(command(
        command="ls ${{inputs.d}}", environment=f"azureml://registries/{registry}/environments/{name}/versions/1", compute=cpu,
        inputs={"d": Input(type="uri_folder", path=f"azureml://registries/{registry}/data/{name}/versions/1")},
    ))
    assert "model.bin" in printed(job)


def test_a_component_of_a_registry_is_registered(shared, unique):
    client, _ = shared
    node = command(name=unique("c").replace("-", "_"), version="1", command="echo hi", environment="azureml://registries/azureml/environments/sklearn-1.5/labels/latest")
    made = client.components.create_or_update(node.component)
    assert client.components.get(made.name, version="1").command == "echo hi"


def test_curated_environments_are_there_from_the_beginning(ml):
    azureml = MLClient(DefaultAzureCredential(), registry_name="azureml")
    assert {"sklearn-1.5", "lightgbm-3.3"} <= {e.name for e in azureml.environments.list()}
    assert azureml.environments.get("sklearn-1.5", label="latest").version
    assert ml.environments.get("AzureML-sklearn-1.5", label="latest").version


def test_curated_environments_are_found_by_their_labels(ml, unique):
    for environment in ("azureml:AzureML-AutoML@prod", "azureml:AzureML-lightgbm-3.3:1", "azureml://registries/azureml/environments/model-evaluation/versions/6"):
        job = ml.jobs.create_or_update(command(name=unique("curated"), command="true", environment=environment))
        assert job.environment == environment
        ml.jobs.begin_cancel(job.name).result()
    with pytest.raises(HttpResponseError, match="no label .nothing.*prod, latest"):
        ml.jobs.create_or_update(command(command="true", environment="azureml:AzureML-AutoML@nothing"))


def test_a_version_that_exists_is_not_uploaded_again(shared, folder, unique):
    client, _ = shared
    name = unique("once")
    kinds = {
        "models": lambda: Model(name=name, version="1", path=str(folder), type="custom_model"),
        "data": lambda: Data(name=name, version="1", path=str(folder), type="uri_folder"),
    }
    for kind, make in kinds.items():
        operations = getattr(client, kind)
        operations.create_or_update(make())
        for content in (b"other", bytes(range(256)) * 100):
            (folder / "model.bin").write_bytes(content)
            with pytest.raises(HttpResponseError, match="exists-in-the-registry--choose-another-version"):
                operations.create_or_update(make())
        found = operations.get(name, version="1")
        found.description = "of the same bytes"
        operations.create_or_update(found)
        assert operations.get(name, version="1").description == "of the same bytes"
    client.environments.create_or_update(Environment(name=name, version="1", image="a:1"))
    with pytest.raises(HttpResponseError, match="create a new version"):
        client.environments.create_or_update(Environment(name=name, version="1", image="a:2"))


def test_a_registry_that_is_missing_is_named(ml):
    with pytest.raises(Exception, match="no-such-registry"):
        ml.registries.get("no-such-registry")


def test_archived_models_of_a_registry_leave_the_list_and_come_back(shared, folder, unique):
    client, _ = shared
    name = unique("model")
    client.models.create_or_update(Model(name=name, version="1", path=str(folder), type="custom_model"))
    client.models.archive(name, version="1")
    assert [m.version for m in client.models.list(name)] == []
    client.models.restore(name, version="1")
    assert [m.version for m in client.models.list(name)] == ["1"]
