"""The unmodified az command line, set up by `eval "$(lapis connect)"` alone.

LAPIS_AZ is the program.
"""

import json
import os
import shutil
import subprocess
import time
import uuid

import pytest
import requests
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


@pytest.fixture(scope="session")
def deployment(workspace, tmp_path_factory):
    """The id of a deployment that answers what it is sent, and a function that
    sends it requests."""
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
    from azure.identity import DefaultAzureCredential

    e = os.environ
    ml = MLClient(DefaultAzureCredential(), e["AZUREML_ARM_SUBSCRIPTION"], e["AZUREML_ARM_RESOURCEGROUP"], e["AZUREML_ARM_WORKSPACE_NAME"])
    code = tmp_path_factory.mktemp("code")
    (code / "score.py").write_text("import json\ndef init():\n    pass\ndef run(data):\n    return json.loads(data)\n")
    name = "az-" + uuid.uuid4().hex[:8]
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name)).result()
    ml.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="blue",
            endpoint_name=name,
            code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
            environment=Environment(image="library/python:latest"),
            instance_type="Standard_DS2_v2",
            instance_count=1,
        )
    ).result()
    endpoint = ml.online_endpoints.get(name)
    endpoint.traffic = {"blue": 100}
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    uri, key = ml.online_endpoints.get(name).scoring_uri, ml.online_endpoints.get_keys(name).primary_key

    def ask(times):
        session = requests.Session()
        session.trust_env = False
        for _ in range(times):
            session.post(uri, json={"x": 1}, headers={"Authorization": "Bearer " + key}).raise_for_status()

    yield f"{workspace}/onlineEndpoints/{name}/deployments/blue", ask
    ml.online_endpoints.begin_delete(name).result()


def until(look, within=60):
    """Wait until look gives something, and return that."""
    deadline = time.monotonic() + within
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.5)


def test_metrics_of_an_endpoint_are_those_of_its_requests(az, deployment):
    blue, ask = deployment
    endpoint = blue.rsplit("/deployments/", 1)[0]
    ask(20)

    def total(resource, metric, *more):
        found = az("monitor", "metrics", "list", "--resource", resource, "--metric", metric, "--interval", "PT1M", "--offset", "1h", *more)["value"][0]
        return sum(p.get("total") or 0 for line in found["timeseries"] for p in line["data"])

    until(lambda: total(endpoint, "RequestsPerMinute", "--aggregation", "Total") >= 20)
    answered = total(endpoint, "RequestsPerMinute", "--aggregation", "Total", "--filter", "deployment eq 'blue' and statusCodeClass eq '2xx'")
    assert answered == total(blue, "RequestsPerMinute", "--aggregation", "Total") == 20
    assert total(endpoint, "RequestsPerMinute", "--aggregation", "Total", "--filter", "statusCode eq '500'") == 0
    found = az("monitor", "metrics", "list", "--resource", endpoint, "--metric", "RequestLatency_P50", "RequestLatency_P99", "--offset", "1h")["value"]
    p50, p99 = (max(p.get("average") or 0 for p in metric["timeseries"][0]["data"]) for metric in found)
    assert 0 < p50 <= p99 < 60_000

    names = {d["name"]["value"] for d in az("monitor", "metrics", "list-definitions", "--resource", endpoint)}
    assert {"RequestsPerMinute", "RequestLatency", "RequestLatency_P90", "ConnectionsActive", "NewConnectionsPerSecond", "NetworkBytes", "DataCollectionEventsPerMinute"} <= names
    names = {d["name"]["value"] for d in az("monitor", "metrics", "list-definitions", "--resource", blue)}
    assert {"CpuUtilizationPercentage", "CpuMemoryUtilizationPercentage", "GpuUtilizationPercentage", "DiskUtilization", "DeploymentCapacity"} <= names
    with pytest.raises(Refused, match="Valid metrics"):
        az("monitor", "metrics", "list", "--resource", endpoint, "--metric", "Happiness")


def test_the_autoscale_walk_of_the_documentation(az, group, deployment):
    blue, _ = deployment
    endpoint = blue.rsplit("/deployments/", 1)[0]

    def instances():
        return az("rest", "--method", "get", "--url", blue + "?api-version=2023-04-01")["sku"]["capacity"]

    setting = "scale-" + group
    made = az("monitor", "autoscale", "create", "--name", setting, "-g", group, "--resource", blue, "--min-count", "2", "--max-count", "5", "--count", "2")
    assert made["profiles"][0]["capacity"] == {"minimum": "2", "maximum": "5", "default": "2"}
    until(lambda: instances() == 2)  # the least that the profile allows
    rule = ("monitor", "autoscale", "rule", "create", "-g", group, "--autoscale-name", setting)
    az(*rule, "--condition", "CpuUtilizationPercentage > 70 avg 5m", "--scale", "out", "2")
    az(*rule, "--condition", "CpuUtilizationPercentage < 25 avg 5m", "--scale", "in", "1")
    az(*rule, "--condition", "RequestLatency > 100000 avg 5m", "--resource", endpoint, "--scale", "out", "1")
    az(*rule, "--condition", "DeploymentCapacity > 0 avg 5m", "--scale", "out", "2", "--cooldown", "1")
    until(lambda: instances() >= 4, within=120)  # a rule that always holds
    az("monitor", "autoscale", "profile", "create", "--autoscale-name", setting, "-g", group, "-n", "weekend", "--count", "2",
       "--recurrence", "week", "sat", "sun", "--timezone", "Pacific Standard Time")
    shown = az("monitor", "autoscale", "show", "-g", group, "-n", setting)
    assert {p["name"] for p in shown["profiles"]} >= {"weekend", '{"name": "default", "for": "weekend"}'}
    assert shown["targetResourceUri"].lower() == blue.lower()

    reasons = [e["properties"].get("reason", "") for e in az("monitor", "activity-log", "list", "-g", group, "--offset", "1h")]
    assert any("DeploymentCapacity is" in reason and "raises" in reason for reason in reasons), reasons

    assert az("monitor", "autoscale", "update", "-g", group, "-n", setting, "--enabled", "false")["enabled"] is False
    with pytest.raises(Refused, match="is scaled by the autoscale setting"):
        az("monitor", "autoscale", "create", "--name", "another", "-g", group, "--resource", blue, "--min-count", "1", "--max-count", "5", "--count", "1")
    assert [s["name"] for s in az("monitor", "autoscale", "list", "-g", group)] == [setting]
    az("monitor", "autoscale", "delete", "-g", group, "-n", setting)
    assert az("monitor", "autoscale", "list", "-g", group) == []
