"""Online deployments as resources, through the unmodified SDK: all fields come
back, and what is wrong is refused with words that name it."""

import pytest
from azure.ai.ml.entities import (
    CodeConfiguration, DataCollector, DefaultScaleSettings, DeploymentCollection, Environment, ManagedOnlineDeployment,
    ManagedOnlineEndpoint, Model, OnlineRequestSettings, ProbeSettings,
)
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError
from conftest import PLAIN

SCORE = """
import json, os

def init():
    global model
    with open(os.path.join(os.environ["AZUREML_MODEL_DIR"], "model", "model.txt")) as f:
        model = f.read().strip()

def run(data):
    return {"model": model, "got": json.loads(data), "who": os.environ.get("WHO")}
"""


@pytest.fixture(scope="module")
def content(tmp_path_factory):
    """A folder with a scoring script and one with a model."""
    root = tmp_path_factory.mktemp("online")
    for name in ("code", "model"):
        (root / name).mkdir()
    (root / "code" / "score.py").write_text(SCORE)
    (root / "model" / "model.txt").write_text("a model")
    return root


@pytest.fixture
def endpoint(ml, unique):
    name = unique("ep")
    made = ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    yield made
    ml.online_endpoints.begin_delete(name).result()


def deployment(content, endpoint, **change):
    return ManagedOnlineDeployment(
        **{
            "name": "blue",
            "endpoint_name": endpoint.name,
            "model": Model(path=str(content / "model")),
            "code_configuration": CodeConfiguration(code=str(content / "code"), scoring_script="score.py"),
            "environment": Environment(image=PLAIN),
            "instance_type": "Standard_DS3_v2",
            "instance_count": 1,
            **change,
        }
    )


def test_all_fields_of_a_deployment_come_back(ml, content, endpoint):
    sent = deployment(
        content,
        endpoint,
        description="for a test",
        tags={"team": "a"},
        properties={"note": "kept"},
        environment_variables={"WHO": "me"},
        app_insights_enabled=True,
        egress_public_network_access="disabled",
        request_settings=OnlineRequestSettings(request_timeout_ms=7000, max_concurrent_requests_per_instance=2, max_queue_wait_ms=2000),
        liveness_probe=ProbeSettings(initial_delay=11, period=12, timeout=3, success_threshold=1, failure_threshold=29),
        readiness_probe=ProbeSettings(initial_delay=5, period=6, timeout=4, success_threshold=2, failure_threshold=28),
        scale_settings=DefaultScaleSettings(),
        data_collector=DataCollector(collections={"request": DeploymentCollection(enabled="true")}, rolling_rate="day", sampling_rate=0.5),
    )
    ml.online_deployments.begin_create_or_update(sent).result()
    for d in (ml.online_deployments.get("blue", endpoint.name), next(iter(ml.online_deployments.list(endpoint.name)))):
        assert (d.name, d.endpoint_name, d.description, d.tags["team"], d.instance_type, d.instance_count) == ("blue", endpoint.name, "for a test", "a", "Standard_DS3_v2", 1)
        assert d.provisioning_state == "Succeeded" and d.app_insights_enabled and d.environment_variables["WHO"] == "me"
        assert d.properties["note"] == "kept" and d.properties["azureml.modelVersion"] == "1"
        assert d.egress_public_network_access.lower() == "disabled"
        r, live, ready = d.request_settings, d.liveness_probe, d.readiness_probe
        assert (r.request_timeout_ms, r.max_concurrent_requests_per_instance, r.max_queue_wait_ms) == (7000, 2, 2000)
        assert (live.initial_delay, live.period, live.timeout, live.success_threshold, live.failure_threshold) == (11, 12, 3, 1, 29)
        assert (ready.initial_delay, ready.period, ready.timeout, ready.success_threshold, ready.failure_threshold) == (5, 6, 4, 2, 28)
        assert d.scale_settings.type == "default" and "/models/" in d.model and "/environments/" in d.environment and d.code_configuration.scoring_script == "score.py"
        assert d.data_collector.rolling_rate.lower() == "day" and d.data_collector.sampling_rate == 0.5
        assert d.data_collector.collections["request"].enabled.lower() == "true"


def test_what_is_not_said_has_the_documented_value(ml, content, endpoint):
    ml.online_deployments.begin_create_or_update(deployment(content, endpoint)).result()
    d = ml.online_deployments.get("blue", endpoint.name)
    r, live = d.request_settings, d.liveness_probe
    assert (r.request_timeout_ms, r.max_concurrent_requests_per_instance, r.max_queue_wait_ms) == (5000, 1, 0)  # the SDK drops what is less than a second
    assert (live.initial_delay, live.period, live.timeout, live.success_threshold, live.failure_threshold) == (10, 10, 2, 1, 30)
    assert d.scale_settings.type == "default" and d.instance_count == 1 and d.egress_public_network_access.lower() == "enabled"


def test_traffic_is_given_and_held_to_its_rules(ml, content, endpoint):
    for name in ("blue", "green"):
        ml.online_deployments.begin_create_or_update(deployment(content, endpoint, name=name)).result()

    def give(traffic, mirror=None):
        e = ml.online_endpoints.get(endpoint.name)
        e.traffic, e.mirror_traffic = traffic, mirror or {}
        return ml.online_endpoints.begin_create_or_update(e).result()

    for wrong, says in (({"blue": 99}, "99"), ({"red": 100}, "red"), ({"blue": 60, "green": 60}, "120"), ({"blue": 110, "green": -10}, "0 to 100")):
        with pytest.raises(HttpResponseError, match=says) as refused:
            give(wrong)
        assert refused.value.status_code == 400
    assert give({"blue": 100}, {"green": 10}).mirror_traffic == {"green": 10}
    with pytest.raises(HttpResponseError, match="50"):
        give({"blue": 100}, {"green": 60})
    assert give({"blue": 90, "green": 10}).traffic == {"blue": 90, "green": 10}
    with pytest.raises(HttpResponseError, match="90 %"):
        ml.online_deployments.begin_delete("blue", endpoint.name).result()
    assert give({"blue": 0, "green": 100}).traffic["green"] == 100
    ml.online_deployments.begin_delete("blue", endpoint.name).result()
    assert [d.name for d in ml.online_deployments.list(endpoint.name)] == ["green"]
    assert give({"green": 0}).traffic.get("green", 0) == 0
    ml.online_deployments.begin_delete("green", endpoint.name).result()


@pytest.mark.parametrize(
    "change, says",
    [
        ({"instance_type": "Standard_DS3_v22x!"}, "near ones are Standard_DS3_v2"),
        ({"instance_count": 51}, "from 1 to 50"),
        ({"request_settings": OnlineRequestSettings(request_timeout_ms=181_000)}, "requestTimeout"),
        ({"liveness_probe": ProbeSettings(success_threshold=2)}, "livenessProbe"),
        ({"environment_variables": {"A": "${{azureml://connections/nope/credentials/key}}"}}, "nope"),
        ({"model": None, "code_configuration": None}, "name a model"),
        ({"environment": None}, "environment"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_what_is_wrong_is_refused_before_anything_starts(ml, content, endpoint, change, says):
    with pytest.raises(HttpResponseError, match=says) as refused:
        ml.online_deployments.begin_create_or_update(deployment(content, endpoint, **change), skip_script_validation=True).result()
    assert refused.value.status_code == 400
    with pytest.raises(ResourceNotFoundError):
        ml.online_deployments.get("blue", endpoint.name)


def test_a_patch_and_the_operations_that_scripts_poll(rest, ml, content, endpoint):
    ml.online_deployments.begin_create_or_update(deployment(content, endpoint)).result()
    path = f"onlineEndpoints/{endpoint.name}/deployments/blue"

    def ended(reply):
        while True:
            status = rest.session.get(reply.headers["Azure-AsyncOperation"], headers={"Authorization": f"Bearer {rest.token}"}).json()
            if status["status"] != "InProgress":
                return status["status"]

    reply = rest("PATCH", path, json={"tags": {"a": "b"}, "sku": {"capacity": 2}})
    assert reply.status_code == 202 and reply.headers["Location"] and ended(reply) == "Succeeded"
    now = rest("GET", path).json()
    assert now["sku"] == {"name": "Default", "capacity": 2} and now["tags"] == {"a": "b"} and now["properties"]["properties"]["azureml.modelVersion"] == "1"
    reply = rest("PUT", path, json=now)
    assert reply.status_code == 201 and reply.json()["properties"]["properties"]["AzureAsyncOperationUri"] == reply.headers["Azure-AsyncOperation"]
    assert ended(reply) == "Succeeded"
    capacity = rest("GET", path + "/skus").json()["value"][0]["capacity"]
    assert (capacity["minimum"], capacity["maximum"]) == (1, 50)
    for body, status in (({"tail": 10}, 200), ({"tail": 10, "containerType": "StorageInitializer"}, 200), ({"tail": 5001}, 400), ({"containerType": "x"}, 400)):
        assert rest("POST", path + "/getLogs", json=body).status_code == status
    reply = rest("DELETE", path)
    assert reply.status_code == 202 and reply.headers["Location"] and ended(reply) == "Succeeded"
    assert rest("GET", path).status_code == 404 and rest("DELETE", path).status_code == 204
