"""Endpoints made by templates of Azure Resource Manager."""

import pytest
import requests
from azure.ai.ml.entities import CodeConfiguration, Environment, ManagedOnlineDeployment, ManagedOnlineEndpoint
from conftest import PLAIN

TYPE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints"
TEMPLATE = {
    "$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#",
    "contentVersion": "1.0.0.0",
    "parameters": {
        "workspace": {"type": "string"},
        "endpoint": {"type": "string"},
        "code": {"type": "string"},
        "environment": {"type": "string"},
        "script": {"type": "string", "defaultValue": "score.py"},
        "mode": {"type": "string", "defaultValue": "Key", "allowedValues": ["Key", "AMLToken", "AADToken"]},
    },
    "variables": {"name": "[concat(parameters('workspace'), '/', parameters('endpoint'))]"},
    "resources": [
        {
            "type": f"{TYPE}/deployments",
            "apiVersion": "2022-05-01",
            "name": "[concat(variables('name'), '/blue')]",
            "location": "[resourceGroup().location]",
            "dependsOn": [f"[resourceId('{TYPE}', parameters('workspace'), parameters('endpoint'))]"],
            "sku": {"name": "Default", "capacity": 1},
            "properties": {
                "endpointComputeType": "Managed",
                "codeConfiguration": {"codeId": "[parameters('code')]", "scoringScript": "[parameters('script')]"},
                "environmentId": "[parameters('environment')]",
            },
        },
        {
            "type": TYPE,
            "apiVersion": "2022-05-01",
            "name": "[variables('name')]",
            "location": "[resourceGroup().location]",
            "identity": {"type": "SystemAssigned"},
            "properties": {"authMode": "[parameters('mode')]", "description": "[format('made for {0}', parameters('workspace'))]"},
        },
    ],
}


@pytest.fixture
def parts(ml, tmp_path, unique):
    """The ids of a code and an environment version, and an endpoint that uses them."""
    (tmp_path / "score.py").write_text("def init():\n    pass\n\n\ndef run(data):\n    return data")
    name = unique("ep")
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    code = CodeConfiguration(code=str(tmp_path), scoring_script="score.py")
    ml.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(name="blue", endpoint_name=name, code_configuration=code, environment=Environment(image=PLAIN), instance_type="Standard_DS3_v2", instance_count=1)
    ).result()
    made = ml.online_deployments.get("blue", name)
    yield made.code_configuration.code, made.environment
    ml.online_endpoints.begin_delete(name).result()


def test_a_template_makes_an_endpoint_that_answers(ml, rest, parts, unique):
    name = unique("ep")
    group, _, workspace = rest.scope.partition("/providers/")
    deployment = f"{group}/providers/Microsoft.Resources/deployments/{unique('d')}"
    given = {"workspace": workspace.rpartition("/")[2], "endpoint": name, "code": parts[0], "environment": parts[1]}

    def body(**more):
        return {"properties": {"mode": "Incremental", "template": TEMPLATE, "parameters": {k: {"value": v} for k, v in {**given, **more}.items()}}}

    wrong = rest("POST", deployment + "/validate", version="2020-06-01", json=body(mode="None"))
    assert wrong.status_code == 400 and "allowed are" in wrong.json()["error"]["message"]
    would = rest("POST", deployment + "/whatIf", version="2020-06-01", json=body()).json()["properties"]["changes"]
    made = [change for change in would if change["changeType"] != "Ignore"]  # what the template does not speak of
    assert [change["changeType"] for change in made] == ["Create", "Create"] and made[0]["resourceId"].endswith(name)
    reply = rest("PUT", deployment, version="2020-06-01", json=body())
    assert reply.status_code == 201 and reply.json()["properties"]["provisioningState"] == "Succeeded", reply.text
    try:
        made = ml.online_endpoints.get(name)
        assert made.description == "made for " + given["workspace"] and made.provisioning_state == "Succeeded"
        made.traffic = {"blue": 100}
        ml.online_endpoints.begin_create_or_update(made).result()
        # Once more, it changes nothing: what it does not speak of stays.
        rest("PUT", deployment, version="2020-06-01", json=body()).raise_for_status()
        assert ml.online_endpoints.get(name).traffic == {"blue": 100}
        key = ml.online_endpoints.get_keys(name).primary_key
        reply = requests.post(made.scoring_uri, json={"a": 1}, headers={"Authorization": f"Bearer {key}"})
        assert reply.status_code == 200 and reply.json() == '{"a": 1}', reply.text
        broken = rest("PUT", deployment, version="2020-06-01", json=body(script="none.py"))
        assert broken.status_code == 409 and "none.py" in broken.json()["error"]["message"]
        assert requests.post(made.scoring_uri, json={"a": 1}, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    finally:
        ml.online_endpoints.begin_delete(name).result()
