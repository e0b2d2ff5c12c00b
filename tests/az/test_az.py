"""The unmodified az command line, set up by `eval "$(lapis connect)"` alone.

LAPIS_AZ is the program.
"""

import json
import os
import shutil
import subprocess
import time

import pytest
from azure.identity import AzureCliCredential

AZ = os.environ.get("LAPIS_AZ") or shutil.which("az")
pytestmark = pytest.mark.skipif(not AZ, reason="az is not installed; name it in LAPIS_AZ")


class Refused(Exception):
    pass


@pytest.fixture(scope="session")
def bare(tmp_path_factory):
    """az with a configuration of its own, not signed in."""
    folder = tmp_path_factory.mktemp("az")
    environ = {**os.environ, "AZURE_CONFIG_DIR": str(folder), "AZURE_CORE_COLLECT_TELEMETRY": "no", "AZURE_CORE_ONLY_SHOW_ERRORS": "yes"}

    def run(*args):
        """Run a command; returns the value that it printed, or raises Refused
        with what it said."""
        done = subprocess.run([AZ, *args, "-o", "json"], env=environ, capture_output=True, text=True, timeout=240)
        assert "Traceback" not in done.stderr, done.stderr
        if done.returncode:
            raise Refused(done.stderr)
        return json.loads(done.stdout) if done.stdout.strip() else None

    run.folder = str(folder)
    return run


def sign_in(az, secret=None):
    who = os.environ
    return az("login", "--service-principal", "-u", who["AZURE_CLIENT_ID"], "-p", secret or who["AZURE_CLIENT_SECRET"], "--tenant", who["AZURE_TENANT_ID"])


@pytest.fixture(scope="session")
def az(bare):
    sign_in(bare)
    return bare


@pytest.fixture
def group(az, unique):
    name = unique("group")
    az("group", "create", "-n", name, "-l", "local", "--tags", "a=b")
    return name


@pytest.fixture(scope="session")
def workspace():
    """The id of the workspace of this shell."""
    e = os.environ
    return "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}".format(
        e["AZUREML_ARM_SUBSCRIPTION"], e["AZUREML_ARM_RESOURCEGROUP"], e["AZUREML_ARM_WORKSPACE_NAME"]
    )


def test_a_wrong_secret_is_refused(bare):
    with pytest.raises(Refused, match="AADSTS7000215"):
        sign_in(bare, secret="not-the-secret")


def test_the_cloud_is_the_server_and_signing_in_shows_its_subscription(az):
    assert az("cloud", "show")["endpoints"]["resourceManager"].rstrip("/") == os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata")[0]
    accounts = az("account", "list")
    assert [a["id"] for a in accounts] == [os.environ["AZUREML_ARM_SUBSCRIPTION"]]
    shown = az("account", "show")
    assert shown["state"] == "Enabled" and shown["user"]["type"] == "servicePrincipal"
    assert az("account", "list-locations")[0]["name"] == "local"


def test_a_token_of_az_opens_the_server(az, rest, workspace):
    token = az("account", "get-access-token")
    assert token["tokenType"] == "Bearer"
    assert rest("GET", workspace, token=token["accessToken"]).status_code == 200
    assert az("account", "get-access-token", "--resource", "https://ml.azure.com")["accessToken"]


def test_python_signs_in_through_az(az, monkeypatch, workspace, rest):
    monkeypatch.setenv("PATH", os.path.dirname(AZ) + os.pathsep + os.environ["PATH"])
    monkeypatch.setenv("AZURE_CONFIG_DIR", az.folder)
    token = AzureCliCredential(process_timeout=120).get_token(f"{rest.base}/.default").token
    assert rest("GET", workspace, token=token).status_code == 200


def test_groups_from_creation_to_deletion(az, unique):
    name = unique("group")
    assert az("group", "exists", "-n", name) is False
    made = az("group", "create", "-n", name, "-l", "local", "--tags", "a=b")
    assert made["name"] == name and made["tags"] == {"a": "b"} and made["properties"]["provisioningState"] == "Succeeded"
    assert az("group", "exists", "-n", name) is True
    assert az("group", "show", "-n", name)["id"] == made["id"]
    assert name in [g["name"] for g in az("group", "list")]
    assert [g["name"] for g in az("group", "list", "--tag", "a=b") if g["name"] == name] == [name]
    assert az("group", "update", "-n", name, "--set", "tags.c=d")["tags"] == {"a": "b", "c": "d"}
    az("group", "delete", "-n", name, "-y")
    assert az("group", "exists", "-n", name) is False
    with pytest.raises(Refused, match="ResourceGroupNotFound"):
        az("group", "show", "-n", name)


def test_resources_are_listed_and_shown(az, workspace):
    group = workspace.split("/")[4]
    assert workspace.lower() in [r["id"].lower() for r in az("resource", "list", "-g", group)]
    kind = "Microsoft.MachineLearningServices/workspaces"
    assert workspace.lower() in [r["id"].lower() for r in az("resource", "list", "--resource-type", kind)]
    assert [r["id"].lower() for r in az("resource", "list", "-g", group, "-n", workspace.split("/")[-1])] == [workspace.lower()]
    assert az("resource", "show", "--ids", workspace)["type"].lower() == kind.lower()
    assert az("resource", "show", "--ids", workspace, "--api-version", "2024-10-01")["name"] == workspace.split("/")[-1]
    with pytest.raises(Refused, match="ResourceNotFound|could not be found"):
        az("resource", "show", "--ids", workspace + "-that-is-not", "--api-version", "2024-10-01")


def test_a_resource_is_tagged(az, workspace, unique):
    tag = unique("tag")
    assert az("resource", "tag", "--ids", workspace, "--tags", f"{tag}=1", "-i", "--api-version", "2024-10-01")["tags"][tag] == "1"


def test_rest_sends_any_request(az, workspace, unique):
    data = f"{workspace}/data/{unique('data')}/versions/1?api-version=2024-10-01"
    body = {"properties": {"dataType": "uri_file", "dataUri": "https://example.com/a.csv"}}
    assert az("rest", "-m", "put", "--url", data, "--body", json.dumps(body))["name"] == "1"
    assert az("rest", "--url", data)["properties"]["dataUri"] == "https://example.com/a.csv"
    with pytest.raises(Refused, match="versions/2|could not be found|NotFound"):
        az("rest", "--url", data.replace("versions/1", "versions/2"))
    with pytest.raises(Refused, match="InvalidApiVersionParameter"):
        az("rest", "--url", f"{workspace}?api-version=yesterday")


def test_a_lock_against_deletion_holds_until_it_is_gone(az, group):
    lock = az("lock", "create", "-n", "keep", "-g", group, "--lock-type", "CanNotDelete", "--notes", "mine")
    assert lock["level"] == "CanNotDelete" and lock["notes"] == "mine"
    assert [x["name"] for x in az("lock", "list", "-g", group)] == ["keep"]
    assert lock["id"] in [x["id"] for x in az("lock", "list")]
    assert az("lock", "show", "-n", "keep", "-g", group)["id"] == lock["id"]
    with pytest.raises(Refused, match="ScopeLocked"):
        az("group", "delete", "-n", group, "-y")
    assert az("group", "update", "-n", group, "--set", "tags.still=writable")["tags"]["still"] == "writable"
    az("lock", "delete", "-n", "keep", "-g", group)
    assert az("lock", "list", "-g", group) == []
    az("group", "delete", "-n", group, "-y")
    assert az("group", "exists", "-n", group) is False


def test_what_is_locked_read_only_is_neither_changed_nor_added_to(az, unique, workspace):
    data = f"{workspace}/data/{unique('data')}/versions/1?api-version=2024-10-01"
    body = json.dumps({"properties": {"dataType": "uri_file", "dataUri": "https://example.com/a.csv"}})
    az("lock", "create", "-n", "still", "--resource", workspace, "--lock-type", "ReadOnly")
    try:
        with pytest.raises(Refused, match="ScopeLocked"):
            az("rest", "-m", "put", "--url", data, "--body", body)
        with pytest.raises(Refused, match="ScopeLocked"):
            az("rest", "-m", "post", "--url", f"{workspace}/listKeys?api-version=2024-10-01")
        assert az("resource", "show", "--ids", workspace, "--api-version", "2024-10-01")["name"]
    finally:
        az("lock", "delete", "-n", "still", "--resource", workspace)
    assert az("rest", "-m", "put", "--url", data, "--body", body)["name"] == "1"


def test_locks_are_changed_and_found_by_id(az, group):
    lock = az("lock", "create", "-n", "turn", "-g", group, "--lock-type", "CanNotDelete")
    assert az("lock", "update", "-n", "turn", "-g", group, "--lock-type", "ReadOnly")["level"] == "ReadOnly"
    with pytest.raises(Refused, match="ScopeLocked"):
        az("group", "update", "-n", group, "--set", "tags.x=y")
    az("lock", "delete", "--ids", lock["id"])
    az("group", "delete", "-n", group, "-y")


def test_providers_are_looked_up(az):
    shown = az("provider", "show", "-n", "Microsoft.MachineLearningServices")
    assert shown["registrationState"] == "Registered"
    assert "workspaces" in [t["resourceType"] for t in shown["resourceTypes"]]
    assert "Microsoft.MachineLearningServices" in [p["namespace"] for p in az("provider", "list")]
    az("provider", "register", "-n", "Microsoft.MachineLearningServices")


def test_a_group_with_things_in_it_is_deleted_with_them(az, group):
    scope = f"/subscriptions/{os.environ['AZUREML_ARM_SUBSCRIPTION']}/resourceGroups/{group}/providers/Microsoft.MachineLearningServices/workspaces/inner"
    az("rest", "-m", "put", "--url", f"{scope}?api-version=2024-10-01", "--body", json.dumps({"location": "local", "properties": {}}))
    deadline = time.monotonic() + 60
    while az("resource", "show", "--ids", scope, "--api-version", "2024-10-01")["properties"]["provisioningState"] != "Succeeded":
        assert time.monotonic() < deadline
    az("group", "delete", "-n", group, "-y")
    with pytest.raises(Refused, match="NotFound|could not be found"):
        az("resource", "show", "--ids", scope, "--api-version", "2024-10-01")


def test_a_second_cloud_can_be_registered_by_its_address(bare):
    base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata")[0]
    for name, address in (("Plain", base), ("Slash", base + "/")):
        bare("cloud", "register", "-n", name, "--endpoint-resource-manager", address)
        assert bare("cloud", "show", "-n", name)["endpoints"]["resourceManager"].rstrip("/") == base
        bare("cloud", "unregister", "-n", name)
