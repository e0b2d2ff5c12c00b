"""Deployments whose environment is an image, through the unmodified SDK, with the
container engine of this machine: they answer, fail with the root cause, and
leave nothing behind.

The engine has a store of its own here, and the image is made of nothing but one
program, so that no registry is needed. Where no engine runs a container the
tests are skipped."""

import json
import os
import pathlib
import shutil
import signal
import subprocess
import textwrap
import time

import pytest
from conftest import Server, python

SERVER = r"""
package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"syscall"
)

var kept []byte

func main() {
	if why := os.Getenv("FAIL"); why != "" {
		fmt.Fprintln(os.Stderr, why)
		os.Exit(3)
	}
	if n, _ := strconv.Atoi(os.Getenv("ALLOCATE")); n > 0 {
		kept = bytes.Repeat([]byte("x"), n<<20)
	}
	http.HandleFunc("/healthz", func(w http.ResponseWriter, r *http.Request) {})
	http.HandleFunc("/v1/predict", func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		host, _ := os.Hostname()
		model, _ := filepath.Glob(os.Getenv("AZUREML_MODEL_DIR") + "/*")
		code, _ := filepath.Glob("/var/azureml-app/*.txt")
		json.NewEncoder(w).Encode(map[string]any{"path": r.URL.Path, "body": string(body), "host": host, "model": model,
			"code": code, "says": os.Getenv("SAYS"), "at": os.Getenv("AT"), "port": os.Getenv("PORT"), "endpoint": os.Getenv("SERVICE_NAME")})
	})
	go func() {
		c := make(chan os.Signal, 1)
		signal.Notify(c, syscall.SIGTERM)
		<-c
		fmt.Println("told to end")
		os.Exit(0)
	}()
	fmt.Println("listening on 8501")
	panic(http.ListenAndServe(":8501", nil))
}
"""

IMAGE = "localhost/lapis-test:1"


class Engine:
    """A container engine with a store of its own, and servers that use it."""

    def __init__(self, command, environ, enter):
        self.command, self.environ, self.enter = command, environ, enter

    def __call__(self, *args, check=True):
        done = subprocess.run([*self.enter, self.command, *args], env=self.environ, capture_output=True, text=True, timeout=120)
        if check:
            assert done.returncode == 0, f"{self.command} {' '.join(args)}\n{done.stdout}{done.stderr}"
        return done

    def containers(self):
        return self("ps", "--all", "--quiet", "--filter", "label=lapis.group").stdout.split()


def podman(folder):
    """The variables under which podman works in folders of its own, and a process
    whose view of the control groups suits it: on a machine that mounts both
    versions of them crun asks for one."""
    (folder / "storage.conf").write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{folder}/g"\nrunroot = "{folder}/r"\n')
    network = 'netns = "slirp4netns"\n' if shutil.which("slirp4netns") else ""
    (folder / "containers.conf").write_text(
        f'[containers]\ndefault_ulimits = ["nofile=1024:4096", "nproc=1000:1000"]\ncgroups = "disabled"\n{network}')
    environ = {**os.environ, "CONTAINERS_CONF": f"{folder}/containers.conf", "CONTAINERS_STORAGE_CONF": f"{folder}/storage.conf",
               "LAPIS_CONTAINER_ENGINE": shutil.which("podman")}
    unified = pathlib.Path("/sys/fs/cgroup/unified")
    script = (f"umount {unified} && " if unified.is_mount() else "") + "echo ready && exec sleep 86400"
    holder = subprocess.Popen(["unshare", "--mount", "sh", "-c", script], stdout=subprocess.PIPE, text=True)
    return environ, holder


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    if not shutil.which("podman") or not shutil.which("go") or os.geteuid() != 0:
        pytest.skip("no podman here, or no root: images are not run")
    folder = tmp_path_factory.mktemp("e")
    (folder / "main.go").write_text(SERVER)
    (folder / "go.mod").write_text("module server\n\ngo 1.22\n")
    (folder / "Dockerfile").write_text("FROM scratch\nCOPY server /server\nENTRYPOINT [\"/server\"]\n")
    subprocess.run(["go", "build", "-o", "server", "."], cwd=folder, env={**os.environ, "CGO_ENABLED": "0", "GOFLAGS": ""}, check=True, timeout=300)
    environ, holder = podman(folder)
    try:
        if holder.stdout.readline() != "ready\n":
            pytest.skip("no mount namespace can be made here: images are not run")
        e = Engine(environ["LAPIS_CONTAINER_ENGINE"], environ, ["nsenter", "--target", str(holder.pid), "--mount"])
        e.folder = folder
        tried = e("build", "--tag", IMAGE, str(folder), check=False)
        if tried.returncode == 0:
            tried = e("run", "--rm", "--env", "FAIL=ran", IMAGE, check=False)
        if "ran" not in tried.stderr:
            pytest.skip(f"podman runs no container here: {tried.stderr.strip()}")
        yield e
        assert not e.containers(), "containers are left"
        e("image", "rm", "--force", "--all", check=False)
    finally:
        holder.kill()
        holder.wait()


@pytest.fixture
def server(engine, tmp_path, monkeypatch):
    """A server that runs containers."""
    bin = tmp_path / "bin"
    bin.mkdir()
    (bin / "lapis").write_text(f'#!/bin/sh\nexec {" ".join(engine.enter)} {shutil.which("lapis")} "$@"\n')
    (bin / "lapis").chmod(0o755)
    environ = {**engine.environ, "PATH": f"{bin}:{os.environ['PATH']}"}
    monkeypatch.setenv("PATH", environ["PATH"])
    s = Server(tmp_path / "data", flags=("--scoring-listen", "localhost:0"), environ=environ)
    yield s
    s.stop()
    deadline = time.monotonic() + 60
    while engine.containers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not engine.containers(), "containers are left"


# What the clients of the tests begin with.
CLIENT = r"""
import concurrent.futures, json, os, pathlib, sys, time, requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import *
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential

ml = MLClient(DefaultAzureCredential(), os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"], os.environ["AZUREML_ARM_WORKSPACE_NAME"])
route = lambda path: {"port": 8501, "path": path}
routes = {"liveness_route": route("/healthz"), "readiness_route": route("/healthz"), "scoring_route": route("/v1/predict")}
image = Environment(image="IMAGE", inference_config=routes)

def deploy(name="blue", environment=image, **settings):
    settings = {"instance_type": "Standard_DS1_v2", "instance_count": 1, **settings}
    return ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(name=name, endpoint_name="images", environment=environment, **settings), skip_script_validation=True).result()

def fails(name="bad", **settings):
    try:
        deploy(name=name, **settings)
    except HttpResponseError as e:
        first = e.error.message.splitlines()[0]
        logged = ml.online_deployments.get_logs(name, "images", lines=50).splitlines()
        assert logged[0] == first, (first, logged)
        return first
    raise AssertionError("it does not fail")

def ask(to="blue"):
    key, uri = ml.online_endpoints.get_keys("images").primary_key, ml.online_endpoints.get("images").scoring_uri
    return requests.post(uri, json={"x": 1}, headers={"Authorization": "Bearer " + key, "azureml-model-deployment": to}, timeout=60, proxies={"http": ""})

def until(check, within=120):
    deadline = time.monotonic() + within
    while True:
        try:
            found = check()
        except requests.RequestException:
            found = None
        if found:
            return found
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.1)
""".replace("IMAGE", IMAGE)


def client(server, code, within=300):
    done = python(CLIENT + textwrap.dedent(code), server.environ())
    said, _ = done.communicate(timeout=within)
    assert done.returncode == 0, said
    return said


def test_an_image_is_deployed_answers_is_replaced_and_deleted(server, engine, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "weights.bin").write_text("weights")
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "hello.txt").write_text("hello")
    client(server, f"""
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="images", auth_mode="key")).result()
        model = Model(name="weights", version="3", path={str(tmp_path / 'model')!r}, type="custom_model")
        made = deploy(model=model, instance_count=2, environment_variables={{"SAYS": "a b'c$d\\n2", "PORT": "x", "PATH": "/nowhere",
                      "AT": "/var/azureml-app/azureml-models/weights/3"}},
                      code_configuration=CodeConfiguration(code={str(tmp_path / 'code')!r}, scoring_script="hello.txt"), properties={{"serving.tier": "container"}})
        assert made.properties["serving.runtime"] == "container", made.properties
        said = [ask().json() for _ in range(20)]
        one = said[0]
        assert one["path"] == "/v1/predict" and json.loads(one["body"]) == {{"x": 1}}, one
        assert one["model"] == ["/var/azureml-app/azureml-models/weights/3/model"], one
        assert one["at"] == "/var/azureml-app/azureml-models/weights/3", one
        assert one["code"] == ["/var/azureml-app/hello.txt"], one
        assert one["says"] == "a b'c$d\\n2" and one["port"] == "x" and one["endpoint"] == "images", one
        assert "listening on 8501" in ml.online_deployments.get_logs("blue", "images", lines=50)
        assert "Pulling the image" in ml.online_deployments.get_logs("blue", "images", lines=50, container_type="storage-initializer")
        assert ml.online_endpoints.get("images").scoring_uri.endswith("/v1/predict")
        deploy(environment_variables={{"SAYS": "two"}})
        assert ask().json()["says"] == "two"
    """)
    assert len(engine.containers()) == 1
    client(server, """
        ml.online_deployments.begin_delete("blue", "images").result()
        assert ask().status_code == 404
    """)
    deadline = time.monotonic() + 60
    while engine.containers() and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not engine.containers()


def test_what_is_wrong_with_an_image_is_said_first(server, engine):
    client(server, """
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="images", auth_mode="key")).result()
        first = fails(environment=Environment(image="localhost:1/none/such:1", inference_config=routes))
        assert "localhost:1/none/such:1 cannot be pulled" in first and "refused" in first, first
        first = fails(environment_variables={"FAIL": "no weights found"})
        assert first.startswith("no weights found") and "3" in first, first
        probe = ProbeSettings(initial_delay=1, period=1, failure_threshold=1)
        slow = {"readiness_probe": probe, "liveness_probe": probe}
        nowhere = Environment(image=image.image, inference_config={**routes, "readiness_route": route("/nowhere")})
        deaf = Environment(image=image.image, inference_config={k: {**v, "port": 8502} for k, v in routes.items()})
        with concurrent.futures.ThreadPoolExecutor() as beside:
            nowhere = beside.submit(fails, name="nowhere", environment=nowhere, **slow)
            deaf = beside.submit(fails, name="deaf", environment=deaf, **slow)
            hungry = beside.submit(fails, name="hungry", environment_variables={"ALLOCATE": "1500"}, instance_type="Standard_B1ls")
        assert "/nowhere" in nowhere.result() and "404" in nowhere.result(), nowhere.result()
        assert "8502" in deaf.result(), deaf.result()
        if hungry.exception() is None:
            assert "more than the 0.5 GiB of memory of Standard_B1ls" in hungry.result(), hungry.result()
        else:
            assert "not enforced" in ml.online_deployments.get_logs("hungry", "images", lines=500), hungry.exception()
    """)


def test_a_container_outlives_the_server_and_is_replaced_when_it_or_its_group_is_killed(server, engine):
    client(server, """
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="images", auth_mode="key")).result()
        deploy()
    """)
    before = engine.containers()
    server.kill()
    assert engine.containers() == before
    server.start()
    again = "until(lambda: ask().status_code == 200)\nprint(ask().json()['host'])"
    client(server, again)
    assert engine.containers() == before  # adopted
    engine("kill", *before)
    client(server, "until(lambda: ask().ok and ask().json()['host'] != %r)" % before[0][:12])
    second = engine.containers()
    assert len(second) == 1 and second != before
    for group in groups(server):
        os.kill(group, signal.SIGKILL)
    client(server, "until(lambda: ask().ok and ask().json()['host'] != %r)" % second[0][:12])
    assert len(engine.containers()) == 1 and engine.containers() != second
    server.kill()
    for group in groups(server):
        os.kill(group, signal.SIGKILL)
    assert engine.containers()
    subprocess.run(["lapis", "down", "--data", server.data], env=server.started_in, check=True, timeout=120)
    assert not engine.containers()


def groups(server):
    """The processes that hold the instances of the server."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            words = (entry / "cmdline").read_bytes().split(b"\0")
            environ = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"host" in words and any(v.startswith(b"LAPIS_TASK_DIR=" + os.fsencode(str(server.data))) for v in environ):
            found.append(int(entry.name))
    assert found
    return found


def test_a_dockerfile_is_built(server, engine, tmp_path):
    context = tmp_path / "context"
    (context / "docker").mkdir(parents=True)
    shutil.copy(engine.folder / "server", context / "server")
    (context / "docker" / "Dockerfile").write_text("FROM scratch\nCOPY server /server\nENTRYPOINT [\"/server\"]\n")
    client(server, f"""
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="images", auth_mode="key")).result()
        built = Environment(name="built", build=BuildContext(path={str(context)!r}, dockerfile_path="docker/Dockerfile"), inference_config=routes)
        deploy(environment=built, environment_variables={{"SAYS": "built"}})
        assert ask().json()["says"] == "built"
        broken = pathlib.Path({str(context)!r}) / "docker" / "Dockerfile"
        broken.write_text("FROM scratch\\nCOPY nothing /server\\n")
        first = fails(environment=Environment(name="broken", build=BuildContext(path={str(context)!r}, dockerfile_path="docker/Dockerfile"), inference_config=routes))
        assert "cannot be built" in first and "nothing" in first, first
    """)
