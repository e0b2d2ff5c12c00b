"""Online deployments through the unmodified SDK: they come up and answer, fail
with the root cause, are replaced without a failed request, and outlive what
dies beside them."""

import itertools
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest
import requests
from azure.ai.ml import Input, Output, command
from azure.ai.ml.entities import (
    CodeConfiguration,
    Data,
    Environment,
    KubernetesOnlineDeployment,
    KubernetesOnlineEndpoint,
    ManagedOnlineDeployment,
    ManagedOnlineEndpoint,
    Model,
    OnlineRequestSettings,
)
from azure.core.exceptions import HttpResponseError

from load import Load

PLAIN = Environment(image="library/python:latest")

ECHO = """
import json, os
def init():
    print("loaded", os.environ.get("AZUREML_MODEL_DIR"))
def run(data):
    return {"got": json.loads(data), "says": %r, "pid": os.getpid()}
"""


class Endpoint:
    """An endpoint of a test's own, and how it is called."""

    def __init__(self, ml, name, tmp):
        self.ml, self.name, self.tmp = ml, name, tmp
        self.count = itertools.count()
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
        self.key = ml.online_endpoints.get_keys(name).primary_key
        self.uri = ml.online_endpoints.get(name).scoring_uri

    def code(self, script):
        folder = self.tmp / f"code{next(self.count)}"
        folder.mkdir()
        (folder / "score.py").write_text(script)
        return CodeConfiguration(code=str(folder), scoring_script="score.py")

    def deploy(self, name="blue", script=ECHO % "one", wait=True, **settings):
        if script is not None:
            settings.setdefault("code_configuration", self.code(script))
            settings.setdefault("environment", PLAIN)
        settings = {"instance_type": "Standard_DS3_v2", "instance_count": 1,
                    "request_settings": OnlineRequestSettings(max_concurrent_requests_per_instance=8, request_timeout_ms=60000), **settings}
        poller = self.ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(name=name, endpoint_name=self.name, **settings), skip_script_validation=True)
        return poller.result() if wait else poller

    def fails(self, *args, **settings):
        """The first line of why a deployment fails, and the first line of its log."""
        with pytest.raises(HttpResponseError) as failed:
            self.deploy(*args, **settings)
        return failed.value.error.message.splitlines()[0], self.logs(settings.get("name", "blue")).splitlines()[0]

    def traffic(self, **split):
        e = self.ml.online_endpoints.get(self.name)
        e.traffic = split
        self.ml.online_endpoints.begin_create_or_update(e).result()

    def post(self, body=None, to=None, path=None, session=requests, **settings):
        headers = {"Authorization": f"Bearer {self.key}", **({"azureml-model-deployment": to} if to else {}), **settings.pop("headers", {})}
        return session.post(path or self.uri, json=body, headers=headers, timeout=60, proxies={"http": "", "https": ""}, **settings)

    def load(self, clients=4):
        return Load(lambda session: self.post({"n": 1}, session=session), clients)

    def logs(self, name="blue", lines=500, **settings):
        return self.ml.online_deployments.get_logs(name, self.name, lines=lines, **settings)

    def until(self, check, within=60):
        deadline = time.monotonic() + within
        while not (found := check()):
            assert time.monotonic() < deadline, "it has not come to that"
            time.sleep(0.05)
        return found


@pytest.fixture
def endpoint(ml, unique, tmp_path):
    e = Endpoint(ml, unique("dep"), tmp_path)
    yield e
    ml.online_endpoints.begin_delete(e.name).result()


def test_a_script_is_deployed_and_answers(endpoint):
    made = endpoint.deploy()
    assert made.provisioning_state == "Succeeded"
    assert endpoint.post({"a": 1}).status_code == 404  # no traffic yet
    assert endpoint.post({"a": 1}, to="blue").json()["got"] == {"a": 1}
    endpoint.traffic(blue=100)
    reply = endpoint.post({"a": 2})
    assert reply.status_code == 200 and reply.json()["got"] == {"a": 2} and reply.headers["azureml-model-deployment"] == "blue"


def test_a_model_lies_where_the_variable_says(ml, endpoint, unique, tmp_path):
    folder = tmp_path / "weights"
    folder.mkdir()
    (folder / "w.txt").write_text("seven")
    model = ml.models.create_or_update(Model(name=unique("m"), path=str(folder), type="custom_model"))
    script = """
import os
def init():
    global where, text
    where = os.environ["AZUREML_MODEL_DIR"]
    text = open(os.path.join(where, "weights", "w.txt")).read()
def run(data):
    return {"where": where, "text": text, "mine": os.environ["MINE"]}
"""
    endpoint.deploy(script=script, model=model, environment_variables={"MINE": "a b"})
    said = endpoint.post({}, to="blue").json()
    assert said["text"] == "seven" and said["mine"] == "a b"
    assert said["where"].endswith(f"/azureml-models/{model.name}/{model.version}")


BAD = {
    "import": ("import nope_not_there\ndef init(): pass\ndef run(d): pass\n", r"ModuleNotFoundError: No module named 'nope_not_there' \(score\.py, line 1\).*conda"),
    "syntax": ("def init(:\n", r"SyntaxError: .*score\.py"),
    "init": ("def init():\n    raise ValueError('no weights')\ndef run(d): pass\n", r"ValueError: no weights \(score\.py, line 2\)"),
    "exit": ("import os\ndef init():\n    os._exit(7)\ndef run(d): pass\n", r"exit|ended|7"),
    "norun": ("def init(): pass\n", r"run"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_script_that_cannot_start_fails_with_the_root_cause_first(endpoint, kind):
    script, pattern = BAD[kind]
    began = time.monotonic()
    first, logged = endpoint.fails(script=script)
    assert re.search(pattern, first), first
    assert logged == first
    assert time.monotonic() - began < 120  # and not the 310 s of the probes
    found = endpoint.ml.online_deployments.get("blue", endpoint.name)
    assert found.provisioning_state == "Failed"
    endpoint.deploy(script=ECHO % "mended")  # it can be updated
    assert endpoint.post({}, to="blue").json()["says"] == "mended"


def test_a_failed_update_leaves_what_serves(endpoint):
    endpoint.deploy()
    endpoint.traffic(blue=100)
    with endpoint.load() as load:
        first, _ = endpoint.fails(script=BAD["init"][0])
    assert "no weights" in first
    assert load.replies[200] > 0 and not load.failed, load.failed[:3]
    assert endpoint.post({}).json()["says"] == "one"


def test_a_missing_script_and_a_missing_package_are_named(endpoint):
    with pytest.raises(Exception) as failed:
        endpoint.deploy(code_configuration=CodeConfiguration(code=str(endpoint.code(ECHO % "x").code), scoring_script="other.py"))
    assert "other.py" in str(failed.value)


def test_an_update_fails_no_request(endpoint):
    endpoint.deploy(instance_count=2)
    endpoint.traffic(blue=100)
    with endpoint.load() as load:
        endpoint.until(lambda: load.said["one"] > 20)
        endpoint.deploy(script=ECHO % "two", instance_count=2)
        before = load.said["one"]
        endpoint.until(lambda: load.said["two"] > 20)
        assert load.said["one"] == before, "the old version answered after the update was done"
    assert not load.failed, load.failed[:3]


def test_instances_come_and_go_without_a_failed_request(endpoint):
    endpoint.deploy()
    endpoint.traffic(blue=100)
    with endpoint.load() as load:
        for count in (3, 1):
            d = endpoint.ml.online_deployments.get("blue", endpoint.name)
            d.instance_count = count
            endpoint.ml.online_deployments.begin_create_or_update(d).result()
            answered = endpoint.until(lambda: load.replies[200] > 100)
            assert answered
    assert not load.failed, load.failed[:3]


def test_an_instance_that_is_killed_is_replaced(endpoint):
    endpoint.deploy(instance_count=2)
    endpoint.traffic(blue=100)
    with endpoint.load() as load:
        endpoint.until(lambda: load.said["one"] > 20)
        pid = endpoint.post({}).json()["pid"]
        os.kill(pid, signal.SIGKILL)
        endpoint.until(lambda: load.said["one"] > 500)
    assert len(load.failed) <= 1, load.failed[:3]  # the request that it worked on
    pids = {endpoint.post({}).json()["pid"] for _ in range(60)}
    assert pid not in pids


def test_a_deployment_is_deleted_while_it_comes_up(endpoint):
    poller = endpoint.deploy(script="import time\ndef init():\n    time.sleep(600)\ndef run(d): pass\n", wait=False)
    endpoint.until(lambda: "Starting" in endpoint.logs(container_type="storage-initializer"))
    began = time.monotonic()
    endpoint.ml.online_deployments.begin_delete("blue", endpoint.name).result()
    assert time.monotonic() - began < 120  # and not the 600 s of init()
    with pytest.raises(Exception):
        poller.result()


def test_logs_have_as_many_lines_as_asked_for(endpoint):
    endpoint.deploy(script="def init():\n    for i in range(100): print('line', i)\ndef run(d): return 1\n")
    for n in (1, 7, 50):
        assert len(endpoint.logs(lines=n).splitlines()) == n
    assert "Copying code and model" in endpoint.logs(container_type="storage-initializer")


def test_a_program_of_ones_own_answers(endpoint, tmp_path):
    code = tmp_path / "server"
    code.mkdir()
    (code / "serve.py").write_text(
        "import http.server, os\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(b'up')\n"
        "    def do_POST(self):\n"
        "        body = self.rfile.read(int(self.headers.get('Content-Length', 0)))\n"
        "        self.send_response(200); self.send_header('Content-Length', str(len(body) + len(self.path)));\n"
        "        self.end_headers(); self.wfile.write(self.path.encode() + body)\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    env = Environment(
        image="library/python:latest",
        inference_config={
            "liveness_route": {"port": 8080, "path": "/live"},
            "readiness_route": {"port": 8080, "path": "/ready"},
            "scoring_route": {"port": 8080, "path": "/predict"},
        },
    )
    endpoint.deploy(script=None, environment=env, instance_count=2,
                    code_configuration=CodeConfiguration(code=str(code), scoring_script="serve.py"),
                    properties={"serving.command": "exec python3 serve.py"})
    endpoint.traffic(blue=100)
    uri = endpoint.ml.online_endpoints.get(endpoint.name).scoring_uri
    assert uri.endswith("/predict")
    reply = endpoint.post({"a": 1}, path=uri)
    assert reply.status_code == 200 and reply.text.startswith("/predict"), reply.text


SCHEMA = """
import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema
def init(): pass
@input_schema("data", NumpyParameterType(np.array([[1.5, 2.0]])))
def run(data):
    print("scored", data.tolist())
    if %s: raise ValueError("no such column")
    return data.sum()
"""


def test_a_script_that_does_not_score_the_sample_of_its_schema_is_not_ready(endpoint):
    environment = Environment(image="library/python:latest", conda_file={"dependencies": ["python=3.10", {"pip": ["inference-schema[numpy-support]"]}]})
    endpoint.deploy(script=SCHEMA % "False", environment=environment)
    endpoint.traffic(blue=100)
    assert "scored [[1.5, 2.0]]" in endpoint.ml.online_deployments.get_logs("blue", endpoint.name, lines=50)
    assert endpoint.post({"data": [[1, 2]]}).json() == 3
    with pytest.raises(HttpResponseError) as failed:
        endpoint.deploy(script=SCHEMA % "True", environment=environment)
    assert "does not score the sample input of its own schema" in str(failed.value)
    assert endpoint.post({"data": [[1, 2]]}).json() == 3


STUMP = """tree
version=v4
num_class=1
num_tree_per_iteration=1
max_feature_idx=1
objective=regression
feature_names=x y
feature_infos=[0:1] [0:1]

Tree=0
num_leaves=2
num_cat=0
split_feature=0
threshold=0.5
decision_type=10
left_child=-1
right_child=-2
leaf_value=1 2
shrinkage=1

end of trees
"""


def test_a_native_model_without_an_example_scores_zeros_before_it_is_ready(endpoint, tmp_path):
    (tmp_path / "stump.txt").write_text(STUMP)
    endpoint.deploy(script=None, model=Model(path=str(tmp_path / "stump.txt")))
    log = endpoint.ml.online_deployments.get_logs("blue", endpoint.name, lines=50, container_type="storage-initializer")
    assert "Scoring zeros of the model's shape" in log and "nothing has been scored" not in log, log
    assert endpoint.post({"input_data": [[0.0, 1.0], [1.0, 0.0]]}, to="blue").json() == [1.0, 2.0]


def test_why_tells_who_deployed_what_and_what_that_was_made_from(endpoint, ml, cpu, finish, unique, tmp_path):
    (tmp_path / "stump.txt").write_text(STUMP)
    data = ml.data.create_or_update(Data(name=unique("stumps"), version="7", path=str(tmp_path / "stump.txt"), type="uri_file"))
    job = ml.jobs.create_or_update(
        command(
            command="cp ${{inputs.stump}} ${{outputs.model}}/stump.txt # ${{inputs.rate}}", environment=PLAIN, compute=cpu, experiment_name="stumps",
            inputs={"stump": Input(type="uri_file", path=f"azureml:{data.name}:7"), "rate": 0.5}, outputs={"model": Output(type="custom_model")},
        )
    )
    assert finish(job).status == "Completed"
    model = ml.models.create_or_update(Model(name=unique("stump"), path=f"azureml://jobs/{job.name}/outputs/model", type="custom_model"))
    endpoint.deploy(script=None, model=f"azureml:{model.name}:1")
    endpoint.traffic(blue=100)

    def why(*words):
        done = subprocess.run(["lapis", "why", *words], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    told = json.loads(why(f"deployment/{endpoint.name}/blue", "-o", "json"))
    assert told["version"]["model"] == f"{model.name}:1" and told["version"]["deployed"]["by"] and told["version"]["deployed"]["at"]
    made = told["model"]["job"]
    assert made["name"] == job.name and made["experiment_name"] == "stumps" and "cp " in made["command"]
    assert made["inputs"] == {"stump": f"{data.name}:7", "rate": "0.5"}
    assert json.loads(why(f"endpoint/{endpoint.name}", "-o", "json"))["deployments"] == [told]
    text = why(f"endpoint/{endpoint.name}")
    print(text)
    for fact in (f"serves        {model.name}:1, native lightgbm", f"job           {job.name}", f"input       stump = {data.name}:7", "traffic       blue=100"):
        assert fact in text, text


def test_requests_that_take_too_long_end_and_the_next_is_answered(endpoint):
    script = "import json, time\ndef init(): pass\ndef run(d):\n    time.sleep(json.loads(d)); return 'done'\n"
    endpoint.deploy(script=script, request_settings=OnlineRequestSettings(request_timeout_ms=1000))
    endpoint.traffic(blue=100)
    assert endpoint.post(0).json() == "done"
    assert endpoint.post(30).status_code == 408
    assert endpoint.until(lambda: endpoint.post(0).status_code == 200)


def test_a_deployment_goes_back_to_the_version_before(endpoint, rest):
    endpoint.deploy(script=ECHO % "one")
    endpoint.deploy(script=ECHO % "two")
    endpoint.traffic(blue=100)
    assert endpoint.post({}).json()["says"] == "two"

    def back():
        path = f"onlineEndpoints/{endpoint.name}/deployments/blue"
        reply = rest("POST", f"{path}/rollback")
        assert reply.status_code == 202, reply.text
        endpoint.until(lambda: rest("GET", path).json()["properties"]["provisioningState"] == "Succeeded")

    with endpoint.load() as load:
        back()
        assert endpoint.post({}).json()["says"] == "one"
        back()
        assert endpoint.post({}).json()["says"] == "two"
    assert not load.failed, load.failed[:3]


def test_a_deployment_that_nobody_asks_sleeps_and_wakes_for_a_request(endpoint):
    endpoint.deploy(properties={"serving.min_instances": "0", "serving.idle_seconds": "1"})
    endpoint.traffic(blue=100)
    pid = endpoint.post({}).json()["pid"]
    endpoint.until(lambda: not pathlib.Path(f"/proc/{pid}").exists())
    with endpoint.load(8) as load:
        endpoint.until(lambda: load.said["one"] >= 8)
    assert not load.failed, load.failed[:3]
    found = endpoint.ml.online_deployments.get("blue", endpoint.name)
    assert found.provisioning_state == "Succeeded"


def test_a_profile_takes_all_instances_away_and_brings_them_back(endpoint, rest):
    endpoint.deploy()
    endpoint.traffic(blue=100)
    group = rest.scope.split("/providers/")[0]
    path = f"{group}/providers/Microsoft.Insights/autoscaleSettings/{endpoint.name}"
    target = f"{rest.scope}/onlineEndpoints/{endpoint.name}/deployments/blue"

    def hold(least, most):
        profile = {"name": "now", "capacity": {"minimum": str(least), "maximum": str(most), "default": str(least)}, "rules": []}
        rest("PUT", path, json={"location": "local", "properties": {"enabled": True, "targetResourceUri": target, "profiles": [profile]}}).raise_for_status()

    def instances():
        return rest("GET", target).json()["sku"]["capacity"]

    try:
        hold(0, 0)
        endpoint.until(lambda: instances() == 0)
        hold(0, 2)
        assert endpoint.post({"n": 1}).status_code == 200  # and not that there is no instance
        endpoint.until(lambda: instances() == 1)
        hold(2, 2)
        endpoint.until(lambda: instances() == 2)
        assert endpoint.post({"n": 2}).status_code == 200
    finally:
        rest("DELETE", path).raise_for_status()


def test_a_kubernetes_deployment_is_read_and_has_codes_of_its_own(ml, endpoint, rest, unique):
    compute, name = unique("k8s"), unique("kub")
    rest("PUT", f"computes/{compute}", json={"location": "local", "properties": {"computeType": "Kubernetes", "properties": {}}}).raise_for_status()
    script = "import json, time\ndef init(): pass\ndef run(d):\n    d = json.loads(d)\n    time.sleep(d.get('sleep', 0))\n    return 1 / d['n']\n"
    ml.online_endpoints.begin_create_or_update(KubernetesOnlineEndpoint(name=name, compute=compute, auth_mode="key")).result()
    try:
        made = KubernetesOnlineDeployment(
            name="blue", endpoint_name=name, code_configuration=endpoint.code(script), environment=PLAIN, instance_type="own", instance_count=1,
            request_settings=OnlineRequestSettings(request_timeout_ms=2000, max_concurrent_requests_per_instance=1),
        )
        ml.online_deployments.begin_create_or_update(made, skip_script_validation=True).result()
        found = ml.online_deployments.get("blue", name)
        assert isinstance(found, KubernetesOnlineDeployment) and found.instance_type == "own" and not found.resources
        key, uri = ml.online_endpoints.get_keys(name).primary_key, ml.online_endpoints.get(name).scoring_uri
        for body, status in (({"n": 1}, 200), ({"n": 0}, 502), ({"n": 1, "sleep": 30}, 504), ({"n": 1}, 200)):
            reply = endpoint.post(body, to="blue", path=uri, headers={"Authorization": f"Bearer {key}"})
            assert reply.status_code == status, reply.text
    finally:
        ml.online_endpoints.begin_delete(name).result()


def test_a_sku_that_is_patched_scales(endpoint, rest):
    endpoint.deploy()
    path = f"onlineEndpoints/{endpoint.name}/deployments/blue"
    assert rest("PATCH", path, json={"sku": {"name": "Default", "capacity": 2}}).status_code in (200, 202)
    endpoint.until(lambda: len({endpoint.post({}, to="blue").json()["pid"] for _ in range(20)}) == 2)


def test_a_deployment_that_is_deleted_ends_what_it_works_on(endpoint):
    script = "import json, time\ndef init(): pass\ndef run(d):\n    time.sleep(json.loads(d)); return 'done'\n"
    endpoint.deploy(script=script)
    replies = []
    caller = threading.Thread(target=lambda: replies.append(endpoint.post(3, to="blue")))
    caller.start()
    endpoint.until(lambda: endpoint.post(0, to="blue").ok)
    endpoint.ml.online_deployments.begin_delete("blue", endpoint.name).result()
    caller.join()
    assert replies[0].status_code == 200 and replies[0].json() == "done", replies[0].text
    assert endpoint.post(0, to="blue").status_code == 404


def test_a_program_finds_its_model_where_azure_mounts_it(ml, endpoint, unique, tmp_path):
    (tmp_path / "w.txt").write_text("weights")
    model = ml.models.create_or_update(Model(name=unique("m"), path=str(tmp_path / "w.txt"), type="custom_model"))
    code = tmp_path / "server"
    code.mkdir()
    (code / "serve.py").write_text(
        "import http.server, os, sys\n"
        "class H(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers()\n"
        "        self.wfile.write((open(sys.argv[1]).read() + open(os.environ['WHERE']).read()).encode())\n"
        "http.server.ThreadingHTTPServer(('127.0.0.1', int(os.environ['PORT'])), H).serve_forever()\n"
    )
    route = {"port": 8080, "path": "/"}
    env = Environment(image="library/python:latest", inference_config={"liveness_route": route, "readiness_route": route, "scoring_route": route})
    at = f"/models/{model.name}/{model.version}/w.txt"
    endpoint.deploy(script=None, environment=env, model=model, model_mount_path="/models",
                    code_configuration=CodeConfiguration(code=str(code), scoring_script="serve.py"),
                    environment_variables={"WHERE": at}, properties={"serving.command": f"exec python3 serve.py {at}"})
    got = requests.get(endpoint.uri.removesuffix("/score") + "/", headers={"Authorization": f"Bearer {endpoint.key}", "azureml-model-deployment": "blue"},
                       timeout=30, proxies={"http": ""})
    assert got.text == "weightsweights", got.text


def test_an_instance_that_needs_more_memory_than_its_type_has_says_so_first(endpoint):
    hungry = "import json\ndef init():\n    print('loading')\n    global kept; kept = b'x' * (%d << 20)\ndef run(d):\n    return len(b'y' * (json.loads(d) << 20))\n"
    # 0.5 GiB
    small = {"instance_type": "Standard_B1ls", "request_settings": OnlineRequestSettings(max_concurrent_requests_per_instance=1, request_timeout_ms=60000)}
    endpoint.deploy(script=hungry % 1, **small)
    if "not enforced" in endpoint.logs():
        pytest.skip("no control groups can be made here")
    assert endpoint.post(100, to="blue").json() == 100 << 20
    killed = endpoint.post(1500, to="blue")
    assert killed.status_code == 424, (killed.status_code, killed.text)
    says = "more than the 0.5 GiB of memory of Standard_B1ls"
    endpoint.until(lambda: says in endpoint.logs().splitlines()[0])
    assert len(endpoint.logs(lines=3).splitlines()) == 3
    assert endpoint.until(lambda: endpoint.post(1, to="blue").status_code == 200)
    first, logged = endpoint.fails(script=hungry % 1500, name="green", **small)
    assert says in first and logged == first, (first, logged)
