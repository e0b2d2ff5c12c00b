"""Files of online endpoints and deployments that are a little wrong, beside the
SDK: what the SDK refuses is refused, and what both take becomes the same
request.

Every value of four whole files is replaced by a value of another type, form or
range, left out, or given a key more. LAPIS_MUTANTS is how many of the four
thousand are tried, or "all"; LAPIS_SEED says which.
"""

import contextlib
import copy
import json
import os
import pathlib
import random

import azure.ai.ml
import pytest
import yaml
from azure.ai.ml import load_online_deployment, load_online_endpoint
from conftest import lapis

pytestmark = pytest.mark.skipif(azure.ai.ml.__version__ < "1.30", reason="older clients know fewer fields")

ENDPOINT = """
name: ep-one
description: d
auth_mode: key
tags: {a: b}
properties: {a: b}
identity: {type: user_assigned, user_assigned_identities: [{resource_id: r}]}
traffic: {blue: 10}
mirror_traffic: {green: 10}
location: local
scoring_uri: x
openapi_uri: y
provisioning_state: z
kind: Managed
"""
DEPLOYMENT = """
name: blue
endpoint_name: ep-one
description: d
tags: {a: b}
properties: {a: b}
model: {name: m, version: "1", path: src, type: custom_model, description: x, tags: {a: b}}
code_configuration: {code: src, scoring_script: score.py}
environment:
  image: i
  inference_config: {liveness_route: {port: 1, path: /}, readiness_route: {port: 1, path: /}, scoring_route: {port: 1, path: /}}
environment_variables: {A: b}
app_insights_enabled: true
model_mount_path: /m
request_settings: {request_timeout_ms: 3000, max_concurrent_requests_per_instance: 1, max_queue_wait_ms: 500}
liveness_probe: {initial_delay: 1, period: 1, timeout: 1, success_threshold: 1, failure_threshold: 1}
readiness_probe: {initial_delay: 1, period: 1}
instance_count: 1
instance_type: S
data_collector:
  collections: {c: {enabled: "true", client_id: c, data: {name: n, version: "1", path: p}}}
  rolling_rate: hour
  sampling_rate: 0.5
  request_logging: {capture_headers: [a]}
"""
BASES = {
    "managed endpoint": ("online-endpoint", ENDPOINT + "public_network_access: enabled\n"),
    "kubernetes endpoint": ("online-endpoint", ENDPOINT + "compute: azureml:k\n"),
    "managed deployment": ("online-deployment", DEPLOYMENT + "type: managed\nscale_settings: {type: default}\negress_public_network_access: enabled\nprivate_network_connection: false\n"),
    "kubernetes deployment": (
        "online-deployment",
        DEPLOYMENT + "type: kubernetes\nresources: {requests: {cpu: '1', memory: 1Gi}, limits: {gpu: '1'}}\n"
        "scale_settings: {type: target_utilization, min_instances: 1, max_instances: 2, polling_interval: 5, target_utilization_percentage: 70}\n",
    ),
}
LEFT_OUT, KEY_MORE = object(), object()
VALUES = [
    None, True, -7, 0, 5, 1.5, "word", "", "5", "true", [], [1], {}, {"a": 1}, {"a": {"b": 1}}, "azureml:x:1", "azureml:x", "azureml:x@latest",
    "azureml://registries/r/models/m/versions/1", "UPPER", "a b", LEFT_OUT, KEY_MORE,
]


def places(value, at=()):
    yield at
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(inner, (*at, key))


def mutants():
    """(what was done, noun, text) of each file."""
    for name, (noun, text) in BASES.items():
        whole = yaml.safe_load(text)
        for at in places(whole):
            for value in VALUES:
                document = copy.deepcopy(whole)
                inner = document
                for key in at[:-1]:
                    inner = inner[key]
                if value is KEY_MORE:
                    there = inner[at[-1]] if at else inner
                    if not isinstance(there, dict):
                        continue
                    there["colour"] = "blue"
                elif not at:
                    continue
                elif value is LEFT_OUT:
                    del inner[at[-1]]
                else:
                    inner[at[-1]] = value
                what = "left out" if value is LEFT_OUT else "a key more" if value is KEY_MORE else repr(value)
                yield f"{name}: {'.'.join(map(str, at))} = {what}", noun, yaml.safe_dump(document, sort_keys=False)


def sdk(noun, file):
    """What the SDK would send, without what only a server can tell; None if it refuses."""
    with contextlib.redirect_stderr(None), contextlib.suppress(Exception):
        if noun == "online-endpoint":
            e = load_online_endpoint(file)
            for traffic in (e.traffic, e.mirror_traffic):  # as begin_create_or_update does
                for key, share in list(traffic.items()):
                    del traffic[key]
                    if share:
                        traffic[key.lower()] = share
            return json.loads(json.dumps(e._to_rest_online_endpoint("local").as_dict()))
        d = load_online_deployment(file)
        if d.code_configuration and d.code_configuration.code and not d.code_configuration.code.startswith("azureml:"):
            if not (file.parent / d.code_configuration.code / d.code_configuration.scoring_script).is_file():
                return None
        for collection in d.data_collector.collections.values() if d.data_collector else ():
            collection.data = collection.data and collection.data.name and "ID"
        for member in ("model", "environment"):
            if not isinstance(getattr(d, member), str | None):
                setattr(d, member, "ID")
        return json.loads(json.dumps(d._to_rest_object(location="local").as_dict()))
    return None


def same(value):
    """A body without nulls and without ids."""
    if isinstance(value, dict):
        return {k: same(v) for k, v in value.items() if v is not None and k not in {"model", "environmentId", "codeId", "dataId", "compute"}}
    return [same(v) for v in value] if isinstance(value, list) else value


def test_what_the_sdk_refuses_is_refused_and_the_rest_is_sent_alike(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "score.py").write_text("def init(): pass\ndef run(data): return data\n")
    wanted = os.environ.get("LAPIS_MUTANTS", "80")
    cases = list(mutants())
    assert len(cases) > 3500
    if wanted != "all":
        cases = random.Random(os.environ.get("LAPIS_SEED", "1")).sample(cases, int(wanted))
    cases += [(name, noun, text) for name, (noun, text) in BASES.items()]
    wrong, both, refused, more = [], 0, 0, 0
    for what, noun, text in cases:
        file = pathlib.Path(tmp_path / "file.yml")
        file.write_text(text)
        theirs = sdk(noun, file)
        ours = lapis(noun, "create", "-f", str(file), "--location", "local", "--dry-run", check=False)
        if theirs is None:
            refused += 1
            if ours.returncode == 0:
                wrong.append(f"{what}: let through, though the SDK refuses it")
        elif ours.returncode != 0:
            more += 1
            if what in BASES:
                wrong.append(f"{what}: refused: {ours.stderr}")
        else:
            both += 1
            sent = json.loads(ours.stdout)[-1]["body"]
            if same(sent) != same(theirs):
                wrong.append(f"{what}: the SDK sends {same(theirs)}, Lapis {same(sent)}")
    print(f"{len(cases)} files: {both} sent alike, {refused} refused by both, {more} by Lapis alone")
    assert both and refused and not wrong, "\n".join(wrong)
