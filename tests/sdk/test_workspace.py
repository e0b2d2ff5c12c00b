"""Workspaces: made, changed, used and deleted, as the SDK does it."""

import os

import pytest
from azure.ai.ml import MLClient, command
from azure.ai.ml.entities import Environment, Workspace
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from azure.identity import DefaultAzureCredential
from conftest import ENDED, PLAIN, SDK

hubs = pytest.mark.skipif(SDK < (1, 20), reason="this SDK has no hubs and projects")


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


@hubs
def test_hubs_have_projects(ml, unique):
    from azure.ai.ml.entities import Hub, Project

    name, child = unique("hub"), unique("project")
    hub = ml.workspaces.begin_create(Hub(name=name, location="local", description="of the suite", tags={"a": "b"})).result()
    assert isinstance(hub, Hub) and hub.associated_workspaces == [] and hub.tags["a"] == "b"
    project = ml.workspaces.begin_create(Project(name=child, hub_id=hub.id, location="local", display_name="A project")).result()
    assert isinstance(project, Project) and project.hub_id == hub.id and project.display_name == "A project"
    assert ml.workspaces.get(name).associated_workspaces == [project.id]
    changed = ml.workspaces.begin_update(Project(name=child, hub_id=hub.id, description="changed")).result()
    assert changed.description == "changed" and ml.workspaces.get(child).hub_id == hub.id

    def listed(kinds):
        return {w.name for w in ml.workspaces.list(filtered_kinds=kinds)} & {name, child, ml.workspace_name}

    assert listed(None) == {name, child, ml.workspace_name}
    assert listed("hub") == {name} and listed("project") == {child} and listed(["default"]) == {ml.workspace_name}
    assert listed(["hub", "project"]) == {name, child}
    with pytest.raises(HttpResponseError, match=child):
        ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True).result()
    ml.workspaces.begin_delete(child, delete_dependent_resources=True, permanently_delete=True).result()
    ml.workspaces.begin_delete(name, delete_dependent_resources=True, permanently_delete=True).result()
    assert listed(None) == {ml.workspace_name}


@hubs
def test_a_project_needs_a_hub_that_is_one(ml, unique):
    from azure.ai.ml.entities import Project

    here = ml.workspaces.get(ml.workspace_name).id
    for hub, words in ((here, "no hub"), (here + "-nowhere", "nowhere")):
        with pytest.raises(HttpResponseError, match=words):
            ml.workspaces.begin_create(Project(name=unique("project"), hub_id=hub, location="local")).result()


def test_a_feature_store_is_kept_and_listed_as_such(ml, rest, unique):
    from azure.ai.ml.entities import ComputeRuntime, FeatureStore, MaterializationStore

    name = unique("store")
    made = ml.feature_stores.begin_create(FeatureStore(name=name, location="local", description="of the suite", compute_runtime=ComputeRuntime(spark_runtime_version="3.4"))).result()
    assert isinstance(made, FeatureStore)
    assert rest("GET", made.id).json()["properties"]["featureStoreSettings"]["computeRuntime"]["sparkRuntimeVersion"] == "3.4"
    assert [s.name for s in ml.feature_stores.list()] == [name]
    assert ml.feature_stores.get(name).description == "of the suite"
    changed = ml.feature_stores.begin_update(FeatureStore(name=name, description="changed")).result()
    assert changed.description == "changed" and rest("GET", made.id).json()["kind"] == "FeatureStore"
    container = f"/subscriptions/{ml.subscription_id}/resourceGroups/rg/providers/Microsoft.Storage/storageAccounts/acct/blobServices/default/containers/c"
    with pytest.raises(HttpResponseError, match="offline stores"):
        ml.feature_stores.begin_create(FeatureStore(name=unique("store"), location="local", offline_store=MaterializationStore(type="azure_data_lake_gen2", target=container))).result()
    ml.feature_stores.begin_delete(name, delete_dependent_resources=True).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.workspaces.get(name)
    ml.workspaces.begin_create(Workspace(name=unique("after"), location="local")).result()


def test_the_kind_of_a_workspace_does_not_change(rest, unique):
    name = unique("kind")
    group = rest.scope.rsplit("/", 1)[0]
    ask = lambda kind, **properties: rest("PUT", f"{group}/{name}", json={"location": "local", "kind": kind, "properties": properties})
    assert ask("hub").status_code == 202
    assert rest("GET", f"{group}/{name}").json()["kind"] == "Hub"
    assert ask("Default").status_code == 400 and ask("palace").status_code == 400
    assert ask(None, description="still a hub").json()["kind"] == "Hub"
    assert ask("hub", hubResourceId=f"{group}/{name}").status_code == 400
    refused = rest("PUT", f"{group}/{name}-p", json={"location": "local", "kind": "project", "properties": {}})
    assert refused.status_code == 400 and refused.json()["error"]["target"] == "properties.hubResourceId"
    assert rest("DELETE", f"{group}/{name}", params={"forceToPurge": "true"}).status_code == 202


def test_a_workspace_goes_with_all_it_depends_on(ml, rest, unique):
    name = unique("ws")
    made = ml.workspaces.begin_create(Workspace(name=name, location="local")).result()
    for part in (made.application_insights, made.storage_account, made.key_vault):
        assert rest("GET", part).json()["managedBy"] == made.id
    assert rest("GET", made.key_vault + "x").status_code == 404
    # Parts go with their workspace: alone, there is nothing to delete.
    assert rest("DELETE", made.storage_account).status_code == 204
    ml.workspaces.begin_delete(name, delete_dependent_resources=True, permanently_delete=True).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.workspaces.get(name)
    assert rest("GET", made.storage_account).status_code == 404


def test_a_purged_workspace_leaves_nothing_behind(ml, rest, tmp_path, unique):
    import sqlite3
    import pathlib

    name = unique("ws")
    made = ml.workspaces.begin_create(Workspace(name=name, location="local")).result()
    guid = rest("GET", made.id).json()["properties"]["workspaceId"]
    second = MLClient(DefaultAzureCredential(), os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"], name)
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(f"print('{name}')")
    job = second.jobs.create_or_update(command(command="python main.py", code=str(tmp_path / "src"), environment=Environment(image=PLAIN)))
    second.jobs.stream(job.name)
    data = pathlib.Path(os.environ["LAPIS_DATA"])
    blobs = data / "blobs" / made.storage_account.rsplit("/", 1)[1]
    runs = lambda: sqlite3.connect(f"file:{data}/lapis.db?mode=ro", uri=True).execute("SELECT count(*) FROM runs WHERE workspace = ?", (guid,)).fetchone()[0]
    assert runs() == 1 and any(p.is_file() for p in blobs.rglob("*"))
    ml.workspaces.begin_delete(name, delete_dependent_resources=False, permanently_delete=True).result()
    assert runs() == 0 and not any(p.is_file() for p in blobs.rglob("*"))


def test_keys_are_synced_and_the_workspace_is_diagnosed(ml):
    ml.workspaces.begin_sync_keys(ml.workspace_name).result()
    assert ml.workspaces.begin_diagnose(ml.workspace_name).result() is not None


def test_a_name_that_is_none_is_refused(ml):
    with pytest.raises(HttpResponseError) as refused:
        ml.workspaces.begin_create(Workspace(name="no name", location="local")).result()
    assert 400 <= refused.value.status_code < 500
