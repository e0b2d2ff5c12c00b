"""Connections to other services: made, shown, listed and deleted, with their
secrets told only to who asks for them."""

import pytest
from azure.ai.ml.entities import (
    AccessKeyConfiguration, PatTokenConfiguration, UsernamePasswordConfiguration, WorkspaceConnection,
)
from azure.core.exceptions import ResourceNotFoundError
from conftest import SDK

SECRET = "s3cr3t-word-of-the-suite"

KINDS = {
    "git": ("git", "https://git.example.com/team", lambda: PatTokenConfiguration(pat=SECRET)),
    "python-feed": ("python_feed", "https://feed.example.com/simple", lambda: UsernamePasswordConfiguration(username="me", password=SECRET)),
    "container-registry": ("container_registry", "https://images.example.com", lambda: UsernamePasswordConfiguration(username="me", password=SECRET)),
    "s3": ("s3", "https://bucket.example.com", lambda: AccessKeyConfiguration(access_key_id="me", secret_access_key=SECRET)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_connection_is_kept_and_its_secret_told_only_on_request(ml, rest, unique, kind):
    sort, target, credentials = KINDS[kind]
    name = unique(kind)
    made = ml.connections.create_or_update(WorkspaceConnection(name=name, type=sort, target=target, credentials=credentials(), tags={"a": "b"}))
    assert (made.name, made.target.rstrip("/")) == (name, target)
    found = ml.connections.get(name)
    assert (found.type, found.target.rstrip("/"), found.tags["a"]) == (sort, target, "b")
    assert name in [c.name for c in ml.connections.list()]
    assert SECRET not in rest("GET", f"connections/{name}", version="2024-04-01").text
    assert SECRET not in rest("GET", "connections", version="2024-04-01").text
    assert SECRET in rest("POST", f"connections/{name}/listsecrets", version="2024-04-01", json={}).text
    ml.connections.delete(name)
    with pytest.raises(ResourceNotFoundError, match=name):
        ml.connections.get(name)


@pytest.mark.skipif(SDK < (1, 20), reason="the SDK cannot do it yet")
def test_the_api_key_is_filled_in_on_request(ml, unique):
    from azure.ai.ml.entities import AzureAISearchConnection

    name = unique("search")
    ml.connections.create_or_update(AzureAISearchConnection(name=name, endpoint="https://search.example.com", api_key=SECRET))
    assert SECRET not in str(ml.connections.get(name).credentials.__dict__)
    assert ml.connections.get(name, populate_secrets=True).credentials.key == SECRET


def test_only_connections_of_the_type_are_listed(ml, unique):
    name = unique("feed")
    ml.connections.create_or_update(WorkspaceConnection(name=name, type="python_feed", target="https://feed.example.com", credentials=None))
    assert name in [c.name for c in ml.connections.list(connection_type="python_feed")]
    assert name not in [c.name for c in ml.connections.list(connection_type="git")]
