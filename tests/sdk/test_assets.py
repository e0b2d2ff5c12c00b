"""What data, models, environments, datastores and instances have beyond
their making: labels, archives, addresses of every kind."""

import pytest
from azure.ai.ml import Input, command
from azure.ai.ml.entities import (
    AccountKeyConfiguration, AzureBlobDatastore, AzureDataLakeGen1Datastore, AzureDataLakeGen2Datastore, AzureFileDatastore,
    ComputeInstance, Data, Environment, Model, SasTokenConfiguration, ServicePrincipalConfiguration,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from conftest import PLAIN

ADDRESSES = [
    ("uri_file", "https://example.com/iris.csv"),
    ("uri_folder", "wasbs://pictures@elsewhere.blob.core.windows.net/cats/"),
    ("uri_folder", "abfss://lake@elsewhere.dfs.core.windows.net/fish/"),
    ("uri_folder", "azureml://datastores/workspaceblobstore/paths/some/where/"),
    ("mltable", "azureml://datastores/workspaceblobstore/paths/some/table/"),
]


@pytest.mark.parametrize("kind, address", ADDRESSES, ids=[f"{kind}-{address.split(':')[0]}" for kind, address in ADDRESSES])
def test_data_is_where_its_address_says(ml, unique, kind, address):
    name = unique("data")
    ml.data.create_or_update(Data(name=name, version="1", type=kind, path=address, skip_validation=True))
    found = ml.data.get(name, version="1")
    assert found.type == kind
    assert found.path.endswith(address.removeprefix("azureml://"))


def test_an_mltable_is_stored_and_read_by_a_job(ml, unique, printed, cpu, tmp_path):
    table = tmp_path / "table"
    table.mkdir()
    (table / "MLTable").write_text("paths:\n  - file: ./a.csv\ntransformations:\n  - read_delimited:\n      delimiter: ','\n")
    (table / "a.csv").write_text("x\n1\n")
    name = unique("table")
    ml.data.create_or_update(Data(name=name, version="1", type="mltable", path=str(table)))
    job = ml.jobs.create_or_update(command(
        command="cat ${{inputs.t}}/MLTable ${{inputs.t}}/a.csv", environment=Environment(image=PLAIN), compute=cpu,
        inputs={"t": Input(type="mltable", path=f"azureml:{name}:1")},
    ))
    assert "read_delimited" in printed(job)


def nouns(ml, folder):
    return {
        "data": (ml.data, lambda **k: Data(path="https://example.com/a.csv", type="uri_file", **k)),
        "model": (ml.models, lambda **k: Model(path=str(folder), type="custom_model", **k)),
        "environment": (ml.environments, lambda **k: Environment(image="python:3.11-slim", **k)),
    }


@pytest.fixture(params=["data", "model", "environment"])
def noun(request, ml, tmp_path):
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "w.bin").write_bytes(b"w")
    return nouns(ml, tmp_path / "m")[request.param]


def test_an_archived_version_leaves_the_list_and_is_still_there(noun, unique):
    operations, make = noun
    name = unique("versions")
    operations.create_or_update(make(name=name, version="1"))
    operations.create_or_update(make(name=name, version="2"))
    operations.archive(name, version="2")
    assert [x.version for x in operations.list(name)] == ["1"]
    assert operations.get(name, version="2").version == "2"
    assert operations.get(name, label="latest").version == "1"
    operations.restore(name, version="2")
    assert {x.version for x in operations.list(name)} == {"1", "2"}
    assert operations.get(name, label="latest").version == "2"
    operations.archive(name, version="1")
    operations.restore(name, version="1")
    assert operations.get(name, label="latest").version == "2"


def test_the_latest_version_is_one_that_is_there(ml, rest, unique):
    name = unique("counted")
    for version in ("1", "2", "3"):
        ml.environments.create_or_update(Environment(name=name, version=version, image=PLAIN))
    counts = lambda: tuple(rest("GET", f"environments/{name}").json()["properties"][k] for k in ("latestVersion", "nextVersion"))
    assert counts() == ("3", "4")
    assert rest("DELETE", f"environments/{name}/versions/3").status_code == 200
    assert counts() == ("2", "4")
    ml.environments.archive(name, version="2")
    assert counts() == ("1", "4")
    ml.environments.archive(name, version="1")
    assert counts() == ("2", "4")  # all are archived
    ml.environments.restore(name, version="2")
    assert counts() == ("2", "4")
    job = ml.jobs.create_or_update(command(command="true", environment=f"azureml:{name}@latest"))
    assert job.environment.endswith(f"{name}:2"), job.environment


def test_an_archived_name_leaves_the_list_and_comes_back(noun, unique):
    operations, make = noun
    name = unique("names")
    operations.create_or_update(make(name=name, version="1"))
    operations.archive(name)
    assert name not in [x.name for x in operations.list()]
    operations.restore(name)
    assert name in [x.name for x in operations.list()]


def test_the_latest_label_is_the_last_made(noun, unique):
    operations, make = noun
    name = unique("labels")
    for version in ("3", "1", "10"):
        operations.create_or_update(make(name=name, version=version))
    assert operations.get(name, label="latest").version == "10"
    with pytest.raises(Exception, match="no-such-label|[Ll]abel"):
        operations.get(name, label="no-such-label")


def test_a_label_on_nothing_says_what_labels_there_are(ml, rest, unique):
    name = unique("labelled")
    ml.environments.create_or_update(Environment(name=name, version="1", image=PLAIN))
    ml.environments.create_or_update(Environment(name=name, version="2", image=PLAIN))
    assert rest("PUT", f"environments/{name}", json={"properties": {"labels": {"prod": "1"}}}).ok
    job = {"properties": {"jobType": "Command", "command": "true", "environmentId": f"azureml:{name}@prod"}}
    assert rest("PUT", f"jobs/{unique('j')}", json=job).status_code == 201
    job["properties"]["environmentId"] = f"azureml:{name}@staging"
    refused = rest("PUT", f"jobs/{unique('j')}", json=job)
    assert refused.status_code == 404 and refused.json()["error"]["code"] == "LabelNotFound"
    assert "prod, latest" in refused.json()["error"]["message"]
    # The SDK's PUT of a container it archives does not know labels: they stay.
    ml.environments.archive(name)
    ml.environments.restore(name)
    assert rest("GET", f"environments/{name}").json()["properties"]["labels"] == {"prod": "1"}
    assert rest("PUT", f"environments/{name}", json={"properties": {"labels": {"latest": "1"}}}).status_code == 400


def test_what_is_archived_must_be_there(noun, unique):
    operations, make = noun
    name = unique("absent")
    for absent in ({}, {"version": "9"}, {"label": "none"}):
        with pytest.raises(Exception, match=f"{name}|9|none"):
            operations.archive(name, **absent)
    operations.create_or_update(make(name=name, version="1"))
    operations.archive(name, label="latest")
    assert [x.version for x in operations.list(name)] == []


def test_an_alias_of_a_model_is_a_label(ml, printed, unique, tmp_path):
    import mlflow

    name = unique("aliased")
    for n in ("1", "2"):
        (tmp_path / n).mkdir()
        (tmp_path / n / "w.txt").write_text(f"weights {n}\n")
        ml.models.create_or_update(Model(name=name, version=n, path=str(tmp_path / n), type="custom_model"))
    mlflow.MlflowClient().set_registered_model_alias(name, "champion", "1")
    path = f"/subscriptions/{ml.subscription_id}/resourceGroups/{ml.resource_group_name}/providers/Microsoft.MachineLearningServices/workspaces/{ml.workspace_name}/models/{name}/labels/champion"
    job = ml.jobs.create_or_update(command(command="cat ${{inputs.m}}/w.txt", environment=Environment(image=PLAIN), inputs={"m": Input(type="custom_model", path=path)}))
    assert printed(job).endswith("weights 1\n")


def test_another_image_under_the_same_version_is_refused(ml, unique):
    name = unique("fixed")
    ml.environments.create_or_update(Environment(name=name, version="1", image="python:3.11-slim"))
    with pytest.raises(HttpResponseError) as refused:
        ml.environments.create_or_update(Environment(name=name, version="1", image="another:1"))
    assert refused.value.status_code == 409
    assert ml.environments.get(name, version="1").image == "python:3.11-slim"


STORES = {
    "files": lambda name: AzureFileDatastore(name=name, account_name="elsewhere", file_share_name="share", credentials=AccountKeyConfiguration(account_key="c2VjcmV0")),
    "gen2": lambda name: AzureDataLakeGen2Datastore(name=name, account_name="elsewhere", filesystem="lake", credentials=ServicePrincipalConfiguration(
        tenant_id="00000000-0000-0000-0000-00000000000a", client_id="00000000-0000-0000-0000-00000000000b", client_secret="s3cr3t-word",
        resource_url="https://storage.azure.com", authority_url="https://login.example.com")),
    "gen1": lambda name: AzureDataLakeGen1Datastore(name=name, store_name="old", credentials=ServicePrincipalConfiguration(
        tenant_id="00000000-0000-0000-0000-00000000000a", client_id="00000000-0000-0000-0000-00000000000b", client_secret="s3cr3t-word",
        resource_url="https://storage.azure.com", authority_url="https://login.example.com")),
    "sas": lambda name: AzureBlobDatastore(name=name, account_name="elsewhere", container_name="pictures", credentials=SasTokenConfiguration(sas_token="sv=1&sig=s3cr3t-word")),
    "none": lambda name: AzureBlobDatastore(name=name, account_name="elsewhere", container_name="pictures"),
}


@pytest.mark.parametrize("kind", STORES)
def test_stores_of_every_kind_are_kept_and_their_secrets_sealed(ml, rest, unique, kind):
    name = unique(kind).replace("-", "_")
    ml.datastores.create_or_update(STORES[kind](name))
    found = ml.datastores.get(name)
    assert found.name == name and type(found) is type(STORES[kind](name))
    assert "s3cr3t-word" not in rest("GET", f"datastores/{name}").text
    assert name in [d.name for d in ml.datastores.list()]
    ml.datastores.delete(name)


def test_an_instance_stops_starts_and_restarts(ml, unique):
    name = unique("ci")
    made = ml.compute.begin_create_or_update(ComputeInstance(name=name, size="STANDARD_DS3_V2")).result()
    assert made.state == "Running"
    ml.compute.begin_stop(name).result()
    assert ml.compute.get(name).state == "Stopped"
    ml.compute.begin_start(name).result()
    assert ml.compute.get(name).state == "Running"
    ml.compute.begin_restart(name).result()
    assert ml.compute.get(name).state == "Running"
    ml.compute.begin_delete(name).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.compute.get(name)


def test_the_nodes_of_a_cluster_are_listed(ml, cpu):
    assert list(ml.compute.list_nodes(cpu)) is not None
