"""Workspaces: made, changed, used and deleted, as the SDK does it."""

import os

import pytest
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import Environment, Workspace
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from conftest import ENDED, PLAIN


def test_a_workspace_from_creation_to_deletion(ml, unique):
    name = unique("ws")
    made = ml.workspaces.begin_create(Workspace(name=name, location="local", display_name="Second", description="one more", tags={"a": "b"})).result()
    assert (made.name, made.display_name, made.tags["a"]) == (name, "Second", "b")
    assert made.mlflow_tracking_uri and made.discovery_url

    changed = ml.workspaces.begin_update(Workspace(name=name, description="changed", tags={"c": "d"})).result()
    assert changed.description == "changed" and changed.tags["c"] == "d"
    assert name in [w.name for w in ml.workspaces.list()]
    assert name in [w.name for w in ml.workspaces.list(scope="subscription")]

    ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.workspaces.get(name)


def test_a_job_runs_in_a_second_workspace_and_is_not_seen_in_the_first(ml, unique):
    name = unique("ws")
    ml.workspaces.begin_create(Workspace(name=name, location="local")).result()
    second = MLClient(DefaultAzureCredential(), os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"], name)
    job = second.jobs.create_or_update(command(command="echo from the second", environment=Environment(image=PLAIN)))
    second.jobs.stream(job.name)
    assert second.jobs.get(job.name).status in ENDED - {"Failed", "Canceled"}
    with pytest.raises(ResourceNotFoundError, match=job.name):
        ml.jobs.get(job.name)
    ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True).result()


def test_keys_are_synced_and_the_workspace_is_diagnosed(ml):
    ml.workspaces.begin_sync_keys(ml.workspace_name).result()
    assert ml.workspaces.begin_diagnose(ml.workspace_name).result() is not None


def test_a_name_that_is_none_is_refused(ml):
    with pytest.raises(HttpResponseError) as refused:
        ml.workspaces.begin_create(Workspace(name="no name", location="local")).result()
    assert 400 <= refused.value.status_code < 500
