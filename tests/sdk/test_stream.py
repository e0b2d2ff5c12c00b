"""A job's log, as it happens."""

import json
import os
import subprocess
import time

import pytest
from azure.ai.ml import command
from azure.ai.ml.entities import Environment
from conftest import ENDED, PLAIN, python

FOLLOW = """
from azure.ai.ml import MLClient
from azure.identity import DefaultAzureCredential
import os
ml = MLClient(DefaultAzureCredential(), os.environ["AZUREML_ARM_SUBSCRIPTION"], os.environ["AZUREML_ARM_RESOURCEGROUP"],
              os.environ["AZUREML_ARM_WORKSPACE_NAME"])
"""

# Prints the time every 0.7 s, for a minute.
TELL_TIME = "python -u -c 'import time\nfor i in range(90): print(\"at\", time.time()); time.sleep(0.7)'"


def delays(stream, lines=10):
    """Seconds from the printing of a line in the job to its arrival here, of
    lines that were printed after the client had shown its first."""
    found, begin = [], None
    for line in stream:
        if not line.startswith("at "):
            continue
        begin = begin or time.time()
        printed = float(line.split()[1])
        if printed > begin:
            found.append(time.time() - printed)
        if len(found) == lines:
            break
    return found


@pytest.fixture
def talking(ml):
    """A job that runs, and has begun to print."""
    job = ml.jobs.create_or_update(command(command=TELL_TIME, environment=Environment(image=PLAIN)))
    deadline = time.monotonic() + 30
    while ml.jobs.get(job.name).status != "Running" and time.monotonic() < deadline:
        time.sleep(0.05)
    yield job
    ml.jobs.begin_cancel(job.name).result()


def test_the_sdk_shows_a_line_within_2_5_seconds(talking):
    with python(FOLLOW + f"ml.jobs.stream({talking.name!r})", os.environ) as client:
        seen = delays(client.stdout)
        client.kill()
    assert len(seen) == 10
    assert max(seen) < 2.5, seen


def test_the_command_line_shows_a_line_within_1_5_seconds(talking):
    with subprocess.Popen(["lapis", "job", "stream", "--name", talking.name], stdout=subprocess.PIPE, text=True) as client:
        seen = delays(client.stdout)
        client.kill()
    assert len(seen) == 10
    assert max(seen) < 1.5, seen


def test_a_stream_of_the_sdk_goes_on_when_the_server_comes_back(server):
    environ = server.environ()
    submit = FOLLOW + f"""
from azure.ai.ml import command
from azure.ai.ml.entities import Environment
job = ml.jobs.create_or_update(command(
    command="for i in $(seq 40); do echo line $i; sleep 0.2; done", environment=Environment(image={PLAIN!r})))
print("submitted", job.name, flush=True)
ml.jobs.stream(job.name)
status = ml.jobs.get(job.name).status
print("ended", getattr(status, "value", status))
"""
    with python(submit, environ) as client:
        said = []
        for line in client.stdout:
            said.append(line)
            if line.startswith("line 5"):
                server.kill()
                time.sleep(1)
                server.start()
    said = "".join(said)
    assert client.returncode == 0, said
    lines = [int(line.split()[1]) for line in said.splitlines() if line.startswith("line ")]
    assert lines == list(range(1, 41)), said
    assert "ended Completed" in said


def test_a_stream_of_the_command_line_goes_on_when_the_server_comes_back(server, tmp_path):
    environ = server.environ()
    (tmp_path / "job.yml").write_text(
        f"type: command\ncommand: for i in $(seq 40); do echo line $i; sleep 0.2; done\nenvironment:\n  image: {PLAIN}\n"
    )
    with subprocess.Popen(
        ["lapis", "job", "create", "--file", tmp_path / "job.yml", "--name", "long", "--stream"],
        env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as client:
        said = []
        for line in client.stdout:
            said.append(line)
            if line.startswith("line 5"):
                server.kill()
                time.sleep(1)
                server.start()
    said = "".join(said)
    assert client.returncode == 0, said
    assert [int(line.split()[1]) for line in said.splitlines() if line.startswith("line ")] == list(range(1, 41)), said


def test_a_job_goes_on_while_the_server_is_away(server, tmp_path):
    environ = server.environ()
    mark = tmp_path / "mark"
    (tmp_path / "job.yml").write_text(
        f"type: command\ncommand: sleep 3; echo once >> {mark}\nenvironment:\n  image: {PLAIN}\n"
    )
    subprocess.run(["lapis", "job", "create", "--file", tmp_path / "job.yml", "--name", "alone"], env=environ, check=True, capture_output=True)
    status = lambda: json.loads(subprocess.run(  # noqa: E731
        ["lapis", "job", "show", "--name", "alone"], env=environ, check=True, capture_output=True).stdout)["status"]
    while status() != "Running":
        time.sleep(0.05)
    server.kill()
    deadline = time.monotonic() + 30
    while not mark.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    server.start()
    while status() not in ENDED and time.monotonic() < deadline:
        time.sleep(0.1)
    assert status() == "Completed"
    assert mark.read_text() == "once\n"
