"""Datastores: those that a workspace begins with, and ones that are added."""

import pytest
from azure.ai.ml import Input, command
from azure.ai.ml.entities import AccountKeyConfiguration, AzureBlobDatastore, Data, Environment
from azure.core.exceptions import ResourceNotFoundError
from conftest import PLAIN


def test_a_workspace_begins_with_its_stores(ml):
    names = [d.name for d in ml.datastores.list()]
    assert "workspaceblobstore" in names and "workspaceartifactstore" in names
    default = ml.datastores.get_default()
    assert default.name == "workspaceblobstore"
    assert default.type.lower().replace("_", "") == "azureblob"
    assert default.container_name.startswith("azureml-blobstore-")


def test_a_store_is_made_shown_and_deleted_and_its_key_stays_sealed(ml, unique):
    name = unique("ds").replace("-", "_")
    store = AzureBlobDatastore(
        name=name, account_name="elsewhere", container_name="pictures", description="of cats",
        credentials=AccountKeyConfiguration(account_key="c2VjcmV0LWtleQ=="),
    )
    ml.datastores.create_or_update(store)
    found = ml.datastores.get(name)
    assert (found.account_name, found.container_name, found.description) == ("elsewhere", "pictures", "of cats")
    assert "c2VjcmV0LWtleQ" not in str(found._to_dict())
    assert ml.datastores.get(name, include_secrets=True).credentials
    assert name in [d.name for d in ml.datastores.list()]
    ml.datastores.delete(name)
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.datastores.get(name)


def test_a_store_with_a_key_takes_uploads_that_jobs_read(ml, unique, printed, cpu, tmp_path):
    name = unique("keyed").replace("-", "_")
    ml.datastores.create_or_update(AzureBlobDatastore(
        name=name, account_name="elsewhere", container_name=unique("box"), credentials=AccountKeyConfiguration(account_key="c2VjcmV0LWtleQ==")))
    (tmp_path / "a.txt").write_text("in the box\n")
    data = Data(name=unique("data"), version="1", type="uri_file", path=str(tmp_path / "a.txt"), datastore=name)
    made = ml.data.create_or_update(data)
    assert f"/datastores/{name}/" in made.path
    job = ml.jobs.create_or_update(command(
        command="cat ${{inputs.a}}", environment=Environment(image=PLAIN), compute=cpu, inputs={"a": Input(type="uri_file", path=f"azureml:{made.name}:1")}))
    assert "in the box" in printed(job)
