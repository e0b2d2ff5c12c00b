"""Templates deployed with the unmodified az command line."""

import json
import time

import pytest
from test_az import Refused, az, bare, deployment, group, workspace  # noqa: F401 - fixtures

ML = "Microsoft.MachineLearningServices/workspaces"
SCHEMA = {"$schema": "https://schema.management.azure.com/schemas/2019-04-01/deploymentTemplate.json#", "contentVersion": "1.0.0.0"}


@pytest.fixture
def write(tmp_path):
    """A function that writes a template to a file and returns its path."""

    def make(name="template.json", **sections):
        path = tmp_path / name
        path.write_text(json.dumps({**SCHEMA, "resources": [], **sections}, indent=2))
        return str(path)

    return make


def workspace_with_what_azure_wants():
    """A workspace as quickstart templates make it: with an account, a vault and insights."""
    others = {
        "storage": ("Microsoft.Storage/storageAccounts", {"sku": {"name": "Standard_LRS"}, "kind": "StorageV2"}),
        "vault": ("Microsoft.KeyVault/vaults", {"properties": {"tenantId": "[subscription().tenantId]", "sku": {"name": "standard", "family": "A"}, "accessPolicies": []}}),
        "insights": ("Microsoft.Insights/components", {"kind": "web", "properties": {"Application_Type": "web"}}),
    }
    ids = {key: f"[resourceId('{kind}', variables('{key}'))]" for key, (kind, _) in others.items()}
    return {
        "parameters": {
            "name": {"type": "string", "minLength": 3},
            "location": {"type": "string", "defaultValue": "[resourceGroup().location]"},
            "clusters": {"type": "array", "defaultValue": []},
            "password": {"type": "secureString", "defaultValue": "[newGuid()]"},
        },
        "variables": {key: f"[concat('{key[:2]}', uniqueString(resourceGroup().id))]" for key in others},
        "resources": [
            *({"type": kind, "apiVersion": "2023-01-01", "name": f"[variables('{key}')]", "location": "[parameters('location')]", **more} for key, (kind, more) in others.items()),
            {
                "type": ML,
                "apiVersion": "2024-04-01",
                "name": "[parameters('name')]",
                "location": "[parameters('location')]",
                "identity": {"type": "SystemAssigned"},
                "dependsOn": list(ids.values()),
                "properties": {"friendlyName": "[toUpper(parameters('name'))]", "storageAccount": ids["storage"], "keyVault": ids["vault"], "applicationInsights": ids["insights"]},
            },
            {
                "type": f"{ML}/computes",
                "apiVersion": "2024-04-01",
                "name": "[concat(parameters('name'), '/', parameters('clusters')[copyIndex()].name)]",
                "location": "[parameters('location')]",
                "copy": {"name": "clusters", "count": "[length(parameters('clusters'))]"},
                "dependsOn": [f"[resourceId('{ML}', parameters('name'))]"],
                "properties": {
                    "computeType": "AmlCompute",
                    "properties": {"vmSize": "Standard_DS2_v2", "scaleSettings": {"minNodeCount": 0, "maxNodeCount": "[parameters('clusters')[copyIndex()].max]"}},
                },
            },
        ],
        "outputs": {
            "id": {"type": "string", "value": f"[resourceId('{ML}', parameters('name'))]"},
            "shown": {"type": "string", "value": f"[reference(resourceId('{ML}', parameters('name')), '2024-04-01').friendlyName]"},
            "where": {"type": "string", "value": f"[reference(resourceId('{ML}', parameters('name')), '2024-04-01', 'Full').location]"},
            "clusters": {"type": "array", "copy": {"count": "[length(parameters('clusters'))]", "input": "[parameters('clusters')[copyIndex()].name]"}},
            "hidden": {"type": "secureString", "value": "[parameters('password')]"},
        },
    }


def test_a_workspace_of_a_quickstart_template(az, group, unique, write):
    name = unique("ws")
    template = write(**workspace_with_what_azure_wants())
    given = ("-g", group, "-f", template, "-p", f"name={name}", '-p', 'clusters=[{"name": "small", "max": 1}, {"name": "large", "max": 4}]')
    assert az("deployment", "group", "validate", *given)["properties"]["provisioningState"] == "Succeeded"
    would = az("deployment", "group", "what-if", *given, "--no-pretty-print")["changes"]
    assert [c["resourceId"].rsplit("/", 1)[1] for c in would if c["changeType"] == "Create"] == [name, "small", "large"]
    made = az("deployment", "group", "create", *given, "-n", "first")["properties"]
    assert made["provisioningState"] == "Succeeded"
    outputs = made["outputs"]
    assert outputs["shown"]["value"] == name.upper() and outputs["where"]["value"] == "local" and outputs["clusters"]["value"] == ["small", "large"]
    assert made["parameters"]["name"] == {"type": "String", "value": name} and made["parameters"]["password"]["type"] == "SecureString"
    assert not made["parameters"]["password"].get("value") and not outputs["hidden"].get("value")
    done = az("deployment", "operation", "group", "list", "-g", group, "-n", "first")
    assert {o["properties"]["targetResource"]["resourceName"] for o in done} >= {name, "small", "large"}
    assert {o["properties"]["provisioningState"] for o in done} == {"Succeeded"}
    again = {c["resourceId"].rsplit("/", 1)[1]: c["changeType"] for c in az("deployment", "group", "what-if", *given, "--no-pretty-print")["changes"]}
    assert "Create" not in again.values()
    az("resource", "delete", "--ids", outputs["id"]["value"], "--api-version", "2024-04-01")


def test_what_is_wrong_with_a_template_is_said_before_anything_is_made(az, group, write):
    def refused(*more, **sections):
        with pytest.raises(Refused) as said:
            az("deployment", "group", "create", "-g", group, "-f", write(**sections), *more)
        return str(said.value)

    one = {"type": ML, "apiVersion": "2024-04-01", "name": "fine"}
    said = refused(resources=[one, {**one, "name": "[nothing('x')]"}])
    assert "InvalidTemplate" in said and "'[nothing('x')]' at line '" in said and "column" in said
    assert "nowhere" in refused(resources=[{**one, "dependsOn": ["nowhere"]}])
    assert "NoSuch/things" in refused(resources=[{**one, "type": "Microsoft.NoSuch/things"}])
    choice = {"p": {"type": "string", "allowedValues": ["a", "b"]}}
    assert "allowed are 'a, b'" in refused("-p", "p=c", parameters=choice)
    secret = {"p": {"type": "secureString", "minLength": 30}}
    said = refused("-p", "p=neversay", parameters=secret)
    assert "length" in said and "neversay" not in said
    link = {"type": "Microsoft.Resources/deployments", "apiVersion": "2022-09-01", "name": "linked", "properties": {"mode": "Incremental", "templateLink": {"uri": "https://example.com/t.json"}}}
    assert "nothing is fetched" in refused(resources=[link])
    assert az("resource", "list", "-g", group) == []


def test_templates_in_templates_and_the_mode_complete(az, group, unique, write):
    name = unique("ws")

    def workspace(name):
        return {"type": ML, "apiVersion": "2024-04-01", "name": name, "location": "[resourceGroup().location]", "properties": {"description": "[deployment().name]"}}

    inner = {
        **SCHEMA,
        "parameters": {"name": {"type": "string"}},
        "resources": [workspace("[parameters('name')]")],
        "outputs": {
            "said": {"type": "string", "value": f"[reference(resourceId('{ML}', parameters('name')), '2024-04-01').description]"},
            "secret": {"type": "secureString", "value": "hush"},
        },
    }
    nested = {
        "type": "Microsoft.Resources/deployments",
        "apiVersion": "2022-09-01",
        "name": "nested",
        "properties": {"mode": "Incremental", "expressionEvaluationOptions": {"scope": "inner"}, "parameters": {"name": {"value": "[variables('name')]"}}, "template": inner},
    }
    outputs = {
        "said": {"type": "string", "value": "[reference('nested').outputs.said.value]"},
        "length": {"type": "int", "value": "[length(listOutputsWithSecureValues('nested', '2022-09-01').secret.value)]"},
    }
    made = az("deployment", "group", "create", "-g", group, "-f", write(variables={"name": name}, resources=[nested], outputs=outputs), "-n", "outer")
    assert made["properties"]["outputs"]["said"]["value"] == "nested" and made["properties"]["outputs"]["length"]["value"] == 4
    assert "hush" not in json.dumps(az("deployment", "group", "show", "-g", group, "-n", "nested"))
    assert {d["name"] for d in az("deployment", "group", "list", "-g", group)} == {"outer", "nested"}

    other = unique("ws")
    complete = ("-g", group, "-f", write(resources=[workspace(other)]), "--mode", "Complete")
    would = {c["resourceId"].rsplit("/", 1)[1]: c["changeType"] for c in az("deployment", "group", "what-if", *complete, "--no-pretty-print")["changes"]}
    assert would == {name: "Delete", other: "Create"}
    az("deployment", "group", "create", *complete)
    assert [r["name"] for r in az("resource", "list", "-g", group)] == [other]


def test_what_does_not_depend_on_a_failure_is_made(az, group, unique, write):
    name = unique("ws")
    workspace = {"type": ML, "apiVersion": "2024-04-01", "name": name, "location": "local", "properties": {}}
    cluster = {"type": f"{ML}/computes", "apiVersion": "2024-04-01", "location": "local", "dependsOn": [name], "properties": {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS2_v2"}}}
    bad = {**cluster, "name": f"{name}/bad", "properties": {"computeType": "AmlCompute", "properties": {"vmSize": "Standard_DS2_v2", "scaleSettings": {"maxNodeCount": -1}}}}
    after = {**cluster, "name": f"{name}/after", "dependsOn": ["bad"]}
    with pytest.raises(Refused) as said:
        az("deployment", "group", "create", "-g", group, "-n", "halves", "-f", write(resources=[workspace, bad, after, {**cluster, "name": f"{name}/good"}]))
    assert "DeploymentFailed" in str(said.value) and "maxNodeCount" in str(said.value), said.value
    shown = az("deployment", "group", "show", "-g", group, "-n", "halves")["properties"]
    assert shown["provisioningState"] == "Failed"
    states = {o["properties"]["targetResource"]["resourceName"]: o["properties"]["provisioningState"] for o in az("deployment", "operation", "group", "list", "-g", group, "-n", "halves")}
    assert states == {name: "Succeeded", "bad": "Failed", "good": "Succeeded"}


def test_autoscale_comes_with_a_template(az, group, deployment, write):
    """The setting of an endpoint's deployment, as Bicep compiles it."""
    blue, _ = deployment
    home, endpoint = blue.split("/onlineEndpoints/")[0], blue.split("/deployments/")[0]

    def rule(metric, uri, operator, threshold, direction):
        return {
            "metricTrigger": {"metricName": metric, "metricResourceUri": uri, "timeGrain": "PT1M", "statistic": "Average", "timeWindow": "PT5M", "timeAggregation": "Average", "operator": operator, "threshold": threshold},
            "scaleAction": {"direction": direction, "type": "ChangeCount", "value": "1", "cooldown": "PT1M"},
        }

    sections = {
        "languageVersion": "2.0",
        "parameters": {"workspace": {"type": "string"}, "endpoint": {"type": "string"}, "least": {"type": "int", "defaultValue": 2}},
        "resources": {
            "endpoint": {
                "existing": True,
                "type": f"{ML}/onlineEndpoints",
                "apiVersion": "2024-04-01",
                "resourceGroup": home.split("/")[4],
                "name": "[format('{0}/{1}', parameters('workspace'), parameters('endpoint'))]",
            },
            "setting": {
                "type": "Microsoft.Insights/autoscaleSettings",
                "apiVersion": "2022-10-01",
                "name": "scale",
                "location": "[resourceGroup().location]",
                "properties": {
                    "enabled": True,
                    "targetResourceUri": blue,
                    "profiles": [
                        {
                            "name": "default",
                            "capacity": {"minimum": "[string(parameters('least'))]", "maximum": "4", "default": "[string(parameters('least'))]"},
                            "rules": [rule("CpuUtilizationPercentage", blue, "GreaterThan", 70, "Increase"), rule("RequestLatency", "[reference('endpoint', '2024-04-01', 'full').id]", "GreaterThan", 100000, "Increase")],
                        }
                    ],
                },
            },
        },
        "outputs": {"target": {"type": "string", "value": "[reference('setting').targetResourceUri]"}},
    }
    given = ("-g", group, "-f", write(**sections), "-p", f"workspace={home.rsplit('/', 1)[1]}", "-p", f"endpoint={endpoint.rsplit('/', 1)[1]}")
    made = az("deployment", "group", "create", *given)["properties"]
    assert made["outputs"]["target"]["value"].lower() == blue.lower()
    setting = az("monitor", "autoscale", "show", "-g", group, "-n", "scale")
    assert setting["profiles"][0]["rules"][1]["metricTrigger"]["metricResourceUri"].lower() == endpoint.lower()
    deadline = time.monotonic() + 120
    while az("rest", "--method", "get", "--url", blue + "?api-version=2023-04-01")["sku"]["capacity"] != 2:
        assert time.monotonic() < deadline, "the least number of instances was not reached"
        time.sleep(0.5)
    az("monitor", "autoscale", "delete", "-g", group, "-n", "scale")
