"""What is collected of online deployments, and rollouts that take themselves
back, through the unmodified SDK."""

import json
import os
import re
import subprocess
import time

import pytest
import requests
from azure.ai.ml._artifacts._artifact_utilities import download_artifact_from_aml_uri
from azure.ai.ml.entities import CodeConfiguration, DataCollector, DeploymentCollection, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
from conftest import PLAIN

# What Azure Monitor has of endpoints and deployments.
FIGURES = {
    *("ConnectionsActive", "NewConnectionsPerSecond", "NetworkBytes", "RequestsPerMinute", "DataCollectionEventsPerMinute", "DataCollectionErrorsPerMinute"),
    *("RequestLatency", "RequestLatency_P50", "RequestLatency_P90", "RequestLatency_P95", "RequestLatency_P99"),
    *("CpuUtilizationPercentage", "CpuMemoryUtilizationPercentage", "GpuUtilizationPercentage", "GpuMemoryUtilizationPercentage"),
    *("GpuEnergyJoules", "DiskUtilization", "DeploymentCapacity"),
}

ECHO = """
import json

def init():
    pass

def run(data):
    return {"got": json.loads(data)}
"""

SOMETIMES = """
import itertools, json

count = itertools.count()

def init():
    pass

def run(data):
    if next(count) % 3 == 0:
        raise ValueError("not this time")
    return {"got": json.loads(data)}
"""


@pytest.fixture
def house(ml, unique, tmp_path):
    """An endpoint, and a function that deploys a script to it."""
    name = unique("watch")
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()

    def deploy(deployment, script, **more):
        code = tmp_path / deployment
        code.mkdir()
        (code / "score.py").write_text(script)
        ml.online_deployments.begin_create_or_update(
            ManagedOnlineDeployment(
                name=deployment,
                endpoint_name=name,
                code_configuration=CodeConfiguration(code=str(code), scoring_script="score.py"),
                environment=Environment(image=PLAIN),
                instance_type="Standard_DS3_v2",
                instance_count=1,
                **more,
            )
        ).result()

    yield name, deploy
    ml.online_endpoints.begin_delete(name).result()


def changed(ml, name, traffic=None, properties=None):
    endpoint = ml.online_endpoints.get(name)
    if traffic:
        endpoint.traffic = traffic
    endpoint.properties = {**(endpoint.properties or {}), **(properties or {})}
    return ml.online_endpoints.begin_create_or_update(endpoint).result()


def caller(ml, name):
    """A function that sends a body and returns the reply."""
    uri, key = ml.online_endpoints.get(name).scoring_uri, ml.online_endpoints.get_keys(name).primary_key
    session = requests.Session()
    session.trust_env = False
    return lambda body: session.post(uri, json=body, headers={"Authorization": "Bearer " + key})


def until(look, within=120):
    deadline = time.monotonic() + within
    while True:
        if found := look():
            return found
        assert time.monotonic() < deadline, "waited for too long"
        time.sleep(0.3)


def test_payloads_arrive_once_each_and_can_be_sent_again(ml, house, tmp_path):
    name, deploy = house
    collect = DataCollector(collections={"request": DeploymentCollection(enabled="true"), "response": DeploymentCollection(enabled="true")})
    deploy("blue", ECHO, data_collector=collect)
    deploy("green", ECHO.replace('"got"', '"seen"'))
    changed(ml, name, traffic={"blue": 100})
    ask = caller(ml, name)
    ids = [ask({"n": n}).headers["x-request-id"] for n in range(60)]

    def events(collection, attempt=iter(range(1000))):
        folder = tmp_path / f"{collection}-{next(attempt)}"
        asset = ml.data.get(f"{name}-blue-{collection}", "1")
        download_artifact_from_aml_uri(asset.path, str(folder), ml.datastores)
        return [json.loads(line) for file in sorted(folder.rglob("*.jsonl")) for line in file.read_text().splitlines()]

    for collection in ("request", "response"):
        found = until(lambda: (lambda list: len(list) >= 60 and list)(events(collection)))
        assert sorted(e["xrequestid"] for e in found) == sorted(ids)
        assert len({e["id"] for e in found}) == 60
        for e in found:
            assert e["specversion"] == "1.0" and e["type"] == f"azureml.inference.{collection}" and e["datacontenttype"] == "application/json"
            assert e["source"].endswith(f"/onlineEndpoints/{name}/deployments/blue") and e["path"] == "/score" and e["method"] == "POST"
        sent = sorted((e["data"] if collection == "request" else e["data"]["got"])["n"] for e in found)
        assert sent == list(range(60))

    def replayed(*to):
        done = subprocess.run(["lapis", "online-endpoint", "replay", "--name", name, "--from", "blue", *to], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    same = replayed("--deployment-name", "blue")
    assert (same["requests"], same["pairs"], same["equal"], same["failures"]) == (60, 60, 60, [0, 0])
    other = replayed("--deployment-name", "green", "--limit", "20")
    assert (other["pairs"], other["equal"]) == (20, 0) and other["fields"] == {"$.got": 20, "$.seen": 20}


def test_a_canary_that_fails_is_taken_back(ml, house):
    name, deploy = house
    deploy("blue", ECHO)
    deploy("green", SOMETIMES)
    changed(ml, name, traffic={"blue": 100})
    ask = caller(ml, name)
    changed(ml, name, properties={"canary.deployment": "green", "canary.steps": "20,50,100", "canary.step_seconds": "3600", "slo.error_rate": "0.02"})
    until(lambda: ml.online_endpoints.get(name).traffic == {"blue": 80, "green": 20})
    statuses = []

    def taken_back():
        statuses.extend(ask({"n": n}).status_code for n in range(50))
        return ml.online_endpoints.get(name).traffic.get("green", 0) == 0

    until(taken_back)
    assert set(statuses) == {200, 424}
    told = subprocess.run(["lapis", "online-endpoint", "canary", "--name", name], capture_output=True, text=True, timeout=60)
    assert told.returncode == 0, told.stderr
    run = json.loads(told.stdout)["canary"]
    assert run["state"] == "RolledBack" and "above the objective of 2 %" in run["reason"] and run["deployment"] == "green"
    assert {ask({"n": n}).status_code for n in range(30)} == {200}


def test_the_figures_of_the_server_are_read_without_a_token_on_this_machine(ml, house):
    name, deploy = house
    deploy("blue", ECHO)
    changed(ml, name, traffic={"blue": 100})
    ask = caller(ml, name)
    for n in range(5):
        assert ask(n).status_code == 200
    session = requests.Session()
    session.trust_env = False
    session.verify = os.environ["REQUESTS_CA_BUNDLE"]
    base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata/")[0]

    def figures():
        reply = session.get(base + "/metrics")
        assert reply.status_code == 200 and reply.headers["Content-Type"].startswith("text/plain")
        lines = [line for line in reply.text.splitlines() if f'endpoint="{name}"' in line and not line.startswith("#")]
        families = [line.split()[2] for line in reply.text.splitlines() if line.startswith("# TYPE ")]
        assert len(families) == len(set(families)) and FIGURES <= set(families)
        series = [(line.split("{")[0], *sorted(re.findall(r'\w+="[^"]*"', line))) for line in lines]
        assert len(series) == len(set(series))
        wanted = ("RequestsPerMinute", "RequestLatency_P99", "DeploymentCapacity", "CpuUtilizationPercentage")
        return all(any(line.startswith(metric + "{") for line in lines) for metric in wanted) and "lapis_requests_total" in reply.text

    until(figures)
