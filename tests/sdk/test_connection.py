"""The clients find the server by their environment alone."""

import json
import os
import subprocess

import pytest
from azure.ai.ml import MLClient
from azure.core.exceptions import ClientAuthenticationError, ResourceNotFoundError
from azure.identity import ClientSecretCredential, DefaultAzureCredential


def test_the_workspace_is_found_with_the_default_credential(ml):
    ws = ml.workspaces.get(ml.workspace_name)
    assert ws.name == "main"
    assert ws.location == "local"
    assert ws.discovery_url and ws.mlflow_tracking_uri


def test_from_config_finds_what_connect_wrote(tmp_path, monkeypatch, traffic):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["lapis", "connect", "--config"], check=True, capture_output=True)
    assert json.loads((tmp_path / ".azureml" / "config.json").read_text())["workspace_name"] == "main"
    client = MLClient.from_config(credential=DefaultAzureCredential())
    assert client.workspaces.get("main").name == "main"


def test_every_request_goes_to_the_one_origin(ml, traffic):
    ml.workspaces.get("main")
    list(ml.datastores.list())
    base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata/")[0]
    assert traffic and all(url.startswith(base) for _, url in traffic)


def test_workspaces_are_listed(ml):
    assert "main" in [ws.name for ws in ml.workspaces.list()]


def test_the_keys_of_the_workspace_name_its_store_and_hold_no_key(ml):
    keys = ml.workspaces.get_keys("main")
    assert keys.user_storage_resource_id and not keys.user_storage_key


def test_a_workspace_that_is_missing_is_named(ml):
    with pytest.raises(ResourceNotFoundError, match="nowhere"):
        ml.workspaces.get("nowhere")


def test_a_wrong_secret_is_refused_in_the_authority_s_words():
    credential = ClientSecretCredential(os.environ["AZURE_TENANT_ID"], os.environ["AZURE_CLIENT_ID"], "guess")
    client = MLClient(credential, os.environ["AZUREML_ARM_SUBSCRIPTION"], "lapis", "main")
    with pytest.raises(ClientAuthenticationError, match="AADSTS7000215"):
        client.workspaces.get("main")


def test_connecting_twice_and_undoing_gives_back_the_shell():
    script = """
      export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt NO_PROXY=example.com
      eval "$(lapis connect --unset)" 2>/dev/null
      export REQUESTS_CA_BUNDLE=/etc/ssl/certs/ca-certificates.crt NO_PROXY=example.com
      before=$(env | grep -v '^_=' | sort)
      eval "$(lapis connect)"; once=$(env | grep -v '^_=\\|TOKEN' | sort)
      eval "$(lapis connect)"; twice=$(env | grep -v '^_=\\|TOKEN' | sort)
      [ "$once" = "$twice" ] || { echo "the second time changed something"; diff <(echo "$once") <(echo "$twice"); exit 1; }
      eval "$(lapis connect --unset)"
      diff <(echo "$before") <(env | grep -v '^_=\\|^before=\\|^once=\\|^twice=' | sort)
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_workspace_is_made_changed_and_deleted(ml, unique):
    from azure.ai.ml.entities import Workspace

    name = unique("ws")
    ml.workspaces.begin_create(Workspace(name=name, location="local", display_name="a second", description="d", tags={"t": "1"})).result()
    found = ml.workspaces.get(name)
    assert (found.display_name, found.description, found.tags["t"]) == ("a second", "d", "1")
    found.description, found.tags = "d2", {"t": "2"}
    ml.workspaces.begin_update(found).result()
    assert ml.workspaces.get(name).description == "d2"
    there = MLClient(DefaultAzureCredential(), ml.subscription_id, ml.resource_group_name, name)
    assert there.datastores.get_default().name == "workspaceblobstore"
    assert list(there.jobs.list()) == []
    ml.workspaces.begin_delete(name, delete_dependent_resources=False).result()
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.workspaces.get(name)
