"""The server is killed between the answer to a long-running operation and the
first poll. The unmodified SDK goes on polling, and its operation ends."""

import signal
import subprocess
import textwrap

from conftest import python

BEGIN = """
import os, pathlib, sys, tempfile, warnings
warnings.simplefilter("ignore")
from azure.ai.ml import MLClient
from azure.ai.ml.entities import *
from azure.identity import DefaultAzureCredential
names = [os.environ["AZUREML_ARM_" + n] for n in ("SUBSCRIPTION", "RESOURCEGROUP", "WORKSPACE_NAME")]
ml = MLClient(DefaultAzureCredential(), *names)
def begun():
    print("begun", flush=True)
    sys.stdin.readline()  # the server is another one now
"""

OPERATIONS = {
    "a workspace is made": """
        poller = ml.workspaces.begin_create(Workspace(name="ws2", location="local", tags={"a": "b"}))
        begun()
        assert poller.result().tags["a"] == "b"
        assert ml.workspaces.get("ws2").discovery_url
        """,
    "a workspace is changed": """
        poller = ml.workspaces.begin_update(Workspace(name=names[2], description="changed"))
        begun()
        poller.result()
        assert ml.workspaces.get(names[2]).description == "changed"
        """,
    "a workspace is deleted": """
        ml.workspaces.begin_create(Workspace(name="ws3", location="local")).result()
        poller = ml.workspaces.begin_delete("ws3", delete_dependent_resources=False, permanently_delete=True)
        begun()
        poller.result()
        assert "ws3" not in [w.name for w in ml.workspaces.list()]
        """,
    "a cluster is made": """
        poller = ml.compute.begin_create_or_update(AmlCompute(name="cluster", size="STANDARD_DS2_V2", min_instances=1, max_instances=2))
        begun()
        assert poller.result().provisioning_state == "Succeeded"
        """,
    "an instance is made and stopped": """
        poller = ml.compute.begin_create_or_update(ComputeInstance(name="instance", size="STANDARD_DS2_V2"))
        begun()
        assert poller.result().state == "Running"
        poller = ml.compute.begin_stop("instance")
        begun()
        poller.result()
        assert ml.compute.get("instance").state == "Stopped"
        """,
    "a cluster is deleted": """
        ml.compute.begin_create_or_update(AmlCompute(name="gone", size="STANDARD_DS2_V2", max_instances=2)).result()
        poller = ml.compute.begin_delete("gone")
        begun()
        poller.result()
        assert "gone" not in [c.name for c in ml.compute.list()]
        """,
    "a registry is made": """
        poller = ml.registries.begin_create(Registry(name="reg", location="local", replication_locations=[RegistryRegionDetails(location="local")]))
        begun()
        assert poller.result().name == "reg"
        assert MLClient(DefaultAzureCredential(), registry_name="reg").models.list() is not None
        """,
    "an endpoint and its deployment are made": """
        folder = pathlib.Path(tempfile.mkdtemp())
        (folder / "score.py").write_text("def init(): pass\\ndef run(data): return data")
        poller = ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="killed", auth_mode="key"))
        begun()
        assert poller.result().provisioning_state == "Succeeded"
        blue = ManagedOnlineDeployment(name="blue", endpoint_name="killed", code_configuration=CodeConfiguration(code=str(folder), scoring_script="score.py"),
            environment=Environment(image="library/python:latest"), instance_type="Standard_DS3_v2", instance_count=1)
        poller = ml.online_deployments.begin_create_or_update(blue)
        begun()
        poller.result()
        assert ml.online_deployments.get("blue", "killed").provisioning_state == "Succeeded"
        """,
    "keys change": """
        before = ml.online_endpoints.get_keys("killed")
        poller = ml.online_endpoints.begin_regenerate_keys("killed", key_type="primary")
        begun()
        poller.result()
        after = ml.online_endpoints.get_keys("killed")
        assert after.primary_key != before.primary_key and after.secondary_key == before.secondary_key
        """,
    "traffic is given": """
        endpoint = ml.online_endpoints.get("killed")
        endpoint.traffic = {"blue": 100}
        poller = ml.online_endpoints.begin_create_or_update(endpoint)
        begun()
        assert poller.result().traffic == {"blue": 100}
        request = folder / "request.json"
        request.write_text('{"a": 1}')
        assert "a" in ml.online_endpoints.invoke("killed", request_file=str(request))
        """,
    "an endpoint is deleted": """
        poller = ml.online_endpoints.begin_delete("killed")
        begun()
        poller.result()
        assert "killed" not in [e.name for e in ml.online_endpoints.list()]
        """,
    # The SDK waits by itself; its first poll is held back until then.
    "a model is shared": """
        folder = pathlib.Path(tempfile.mkdtemp()) / "model"
        folder.mkdir()
        for n in range(40):
            (folder / f"{n}.bin").write_bytes(os.urandom(1 << 20))
        ml.models.create_or_update(Model(name="m", version="1", path=str(folder), type="custom_model"))
        import requests
        send = requests.Session.send
        def hold(session, request, **settings):
            reply = send(session, request, **settings)
            if request.url.split("?")[0].endswith("/import"):
                assert reply.status_code == 202, reply.text
                begun()
            return reply
        requests.Session.send = hold
        ml.models.share(name="m", version="1", registry_name="reg", share_with_name="taken", share_with_version="7")
        back = pathlib.Path(tempfile.mkdtemp())
        MLClient(DefaultAzureCredential(), registry_name="reg").models.download("taken", version="7", download_path=str(back))
        assert sorted(p.name for p in back.rglob("*.bin")) == sorted(p.name for p in folder.iterdir())
        """,
}


def test_operations_end_although_the_server_was_killed(server):
    # One client for all: most of the time would go into starting it.
    code = BEGIN + "".join(f"print({what!r}, flush=True)\n{textwrap.dedent(lines)}\n" for what, lines in OPERATIONS.items())
    client = python(code, server.environ(), stdin=subprocess.PIPE)
    said = []
    try:
        while line := client.stdout.readline():
            said.append(line)
            if line == "begun\n":
                server.process.send_signal(signal.SIGKILL)
                server.process.wait()
                server.start()
                client.stdin.write("go on\n")
                client.stdin.flush()
        assert client.wait(60) == 0, "".join(said)
        assert said.count("begun\n") == code.count("begun()") - 1
    finally:
        client.kill()
        client.wait()
