"""Online endpoints as resources, through the unmodified SDK: what is sent comes
back, and what is wrong is refused with words that name it."""

import pytest
from azure.ai.ml.entities import IdentityConfiguration, KubernetesOnlineEndpoint, ManagedIdentityConfiguration, ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError


@pytest.fixture
def endpoint(ml, unique):
    """A function that makes an endpoint, which is gone after the test."""
    made = []

    def make(**settings):
        name = unique("ep")
        made.append(name)
        return ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, **{"auth_mode": "key", **settings})).result()

    yield make
    for name in made:
        ml.online_endpoints.begin_delete(name).result()


def test_all_that_is_said_of_an_endpoint_comes_back(ml, endpoint):
    made = endpoint(description="for a test", tags={"team": "a"}, properties={"serving.sticky_header": "x-user"}, public_network_access="disabled")
    for e in (made, ml.online_endpoints.get(made.name), next(e for e in ml.online_endpoints.list() if e.name == made.name)):
        assert (e.auth_mode, e.description, e.tags["team"], e.public_network_access) == ("key", "for a test", "a", "Disabled")
        assert e.provisioning_state == "Succeeded" and e.traffic == {} and e.mirror_traffic == {}
        assert e.scoring_uri.endswith(f"/endpoints/{made.name}/score") and e.openapi_uri.endswith(f"/endpoints/{made.name}/swagger.json")
        assert e.properties["serving.sticky_header"] == "x-user" and e.properties["azureml.onlineendpointid"].endswith(f"/onlineEndpoints/{made.name}")
        assert e.identity.type == "system_assigned" and e.identity.principal_id and e.identity.tenant_id


def test_an_update_changes_what_it_names_and_keeps_identity_and_keys(ml, endpoint):
    made = endpoint(tags={"a": "1"})
    keys = ml.online_endpoints.get_keys(made.name)
    made.tags = {"b": "2"}
    made.description = "changed"
    again = ml.online_endpoints.begin_create_or_update(made).result()
    assert again.tags == {"b": "2"} and again.description == "changed"
    assert again.identity.principal_id == made.identity.principal_id
    assert ml.online_endpoints.get_keys(made.name).primary_key == keys.primary_key


def test_keys_are_two_and_change_one_at_a_time(ml, endpoint):
    made = endpoint()
    first = ml.online_endpoints.get_keys(made.name)
    assert first.primary_key != first.secondary_key and min(len(first.primary_key), len(first.secondary_key)) >= 40
    ml.online_endpoints.begin_regenerate_keys(made.name, key_type="primary").result()
    second = ml.online_endpoints.get_keys(made.name)
    assert second.primary_key != first.primary_key and second.secondary_key == first.secondary_key
    ml.online_endpoints.begin_regenerate_keys(made.name, key_type="secondary").result()
    third = ml.online_endpoints.get_keys(made.name)
    assert third.primary_key == second.primary_key and third.secondary_key != second.secondary_key


def test_an_endpoint_with_tokens_gives_tokens_and_no_others(ml, endpoint):
    made = endpoint(auth_mode="aml_token")
    token = ml.online_endpoints.get_keys(made.name)
    assert token.access_token.count(".") == 2 and token.token_type == "Bearer"
    assert token.expiry_time_utc > token.refresh_after_time_utc > 1_000_000_000


def test_a_name_is_an_address_and_there_is_one_of_it(ml, rest, endpoint, unique):
    made = endpoint()
    other = f"{rest.scope.rpartition('/')[0]}/{unique('ws')}"
    rest("PUT", other, json={"location": "local", "properties": {}}).raise_for_status()
    try:
        reply = rest("PUT", f"{other}/onlineEndpoints/{made.name.upper()}", json={"location": "local", "properties": {"authMode": "Key"}})
        assert reply.status_code == 409 and "unique" in reply.json()["error"]["message"]
    finally:
        rest("DELETE", other, params={"forceToPurge": "true"}).raise_for_status()


@pytest.mark.parametrize("name", ["ab", "1abc", "a_b", "abc-", "a" * 33, "äöü"])
def test_names_that_are_none_are_refused(rest, name):
    reply = rest("PUT", f"onlineEndpoints/{name}", json={"location": "local", "properties": {"authMode": "Key"}})
    assert reply.status_code == 400 and "3 to 32" in reply.json()["error"]["message"]


def test_a_kubernetes_endpoint_needs_a_kubernetes_compute(ml, rest, cpu, unique):
    name, compute = unique("ep"), unique("k8s")
    for wrong, says in ((cpu, "AmlCompute"), (unique("none"), "attached Kubernetes compute")):
        with pytest.raises(HttpResponseError, match=says):
            ml.online_endpoints.begin_create_or_update(KubernetesOnlineEndpoint(name=name, compute=wrong, auth_mode="key")).result()
    rest("PUT", f"computes/{compute}", json={"location": "local", "properties": {"computeType": "Kubernetes", "properties": {}}}).raise_for_status()
    with pytest.raises(HttpResponseError, match="AADToken"):
        ml.online_endpoints.begin_create_or_update(KubernetesOnlineEndpoint(name=name, compute=compute, auth_mode="aad_token")).result()
    made = ml.online_endpoints.begin_create_or_update(KubernetesOnlineEndpoint(name=name, compute=compute, auth_mode="key")).result()
    try:
        assert isinstance(made, KubernetesOnlineEndpoint) and made.compute.endswith(f"/computes/{compute}") and made.provisioning_state == "Succeeded"
        assert rest("GET", f"onlineEndpoints/{name}").json()["kind"] == "K8S"
    finally:
        ml.online_endpoints.begin_delete(name).result()


def test_user_assigned_identities_get_ids(ml, endpoint):
    user = "/subscriptions/s/resourceGroups/g/providers/Microsoft.ManagedIdentity/userAssignedIdentities/u"
    made = endpoint(identity=IdentityConfiguration(type="user_assigned", user_assigned_identities=[ManagedIdentityConfiguration(resource_id=user)]))
    (one,) = made.identity.user_assigned_identities
    assert made.identity.type == "user_assigned" and one.resource_id == user and "clientid" in (said := str(one).lower().replace("_", "")) and "principalid" in said


def test_rolling_back_is_one_call(rest, endpoint):
    reply = rest("POST", f"onlineEndpoints/{endpoint().name}/rollback")
    assert reply.status_code == 409 and "no other split" in reply.json()["error"]["message"]
