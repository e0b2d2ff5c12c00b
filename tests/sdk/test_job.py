"""Command jobs, from submission to what they leave."""

import json
import re
import time

import pytest
from azure.ai.ml import Input, Output, command, load_job
from azure.ai.ml.constants import AssetTypes
from azure.ai.ml.entities import CommandJobLimits, Data, Environment
from azure.ai.ml.exceptions import JobException
from azure.core.exceptions import HttpResponseError
from conftest import EXAMPLES, PLAIN, lapis


@pytest.fixture
def submit(ml, cpu):
    """A function that submits a command in a plain environment."""

    def make(line, **more):
        more.setdefault("compute", cpu)
        more = {k: v for k, v in more.items() if v is not None}
        return ml.jobs.create_or_update(command(command=line, environment=Environment(image=PLAIN), **more))

    return make


def test_hello_world(ml, finish, printed):
    job = ml.jobs.create_or_update(load_job(EXAMPLES / "hello" / "job.yml"))
    assert job.status in {"NotStarted", "Queued", "Starting", "Running", "Preparing"}
    ml.jobs.stream(job.name)
    assert "hello world" in printed(job)


def test_code_is_there_with_its_inputs_and_variables(ml, printed, tmp_path):
    job = ml.jobs.create_or_update(load_job(EXAMPLES / "hello-code" / "job.yml"))
    assert printed(job).count("good morning, Ada") == 3
    assert (tmp_path / job.name / "artifacts" / "outputs" / "greeting.txt").read_text() == "good morning, Ada\n"


def test_the_same_code_is_uploaded_once(ml, submit, finish, tmp_path, traffic, unique):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.py").write_text(f"print('{unique('code')}')\n")
    first = submit("python main.py", code=str(tmp_path / "src"))
    assert [u for m, u in traffic if m == "PUT" and "main.py" in u]
    traffic.clear()
    second = submit("python main.py", code=str(tmp_path / "src"))
    assert [u for m, u in traffic if m == "PUT" and "main.py" in u] == []
    assert first.code == second.code
    assert finish(first).status == finish(second).status == "Completed"


def test_what_amlignore_names_stays_at_home(submit, printed, tmp_path):
    src = tmp_path / "src"
    src.mkdir()
    (src / "main.py").write_text("import os; print(sorted(os.listdir('.')))\n")
    (src / "secret.env").write_text("x")
    (src / ".amlignore").write_text("secret.env\n")
    out = printed(submit("python main.py", code=str(src)))
    assert "main.py" in out and "secret.env" not in out


def test_data_goes_in_and_named_outputs_come_out(ml, finish, tmp_path):
    job = ml.jobs.create_or_update(load_job(EXAMPLES / "named-output" / "job.yml"))
    assert finish(job).status == "Completed"
    ml.jobs.download(job.name, download_path=tmp_path / "one", output_name="counts")
    counts = sorted((tmp_path / "one").rglob("*.json"))
    assert counts and all(json.loads(p.read_text()) for p in counts)
    ml.jobs.download(job.name, download_path=tmp_path / "all", all=True)
    assert [p.name for p in sorted((tmp_path / "all" / "named-outputs" / "counts").rglob("*.json"))] == [p.name for p in counts]
    assert list((tmp_path / "all" / "named-outputs" / "longest").rglob("*"))
    assert (tmp_path / "all" / "artifacts" / "user_logs" / "std_log.txt").exists()


@pytest.mark.parametrize("mode", ["ro_mount", "download"])
def test_registered_data_is_read_in_every_mode(ml, submit, printed, unique, tmp_path, mode):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "x.txt").write_text("line of data\n")
    name = unique("input")
    ml.data.create_or_update(Data(name=name, version="3", path=str(tmp_path / "in"), type=AssetTypes.URI_FOLDER))
    job = submit("cat ${{inputs.d}}/x.txt", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=f"azureml:{name}:3", mode=mode)})
    assert "line of data" in printed(job)
    latest = submit("cat ${{inputs.d}}/x.txt", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path=f"azureml:{name}@latest", mode=mode)})
    assert "line of data" in printed(latest)


def test_an_input_is_not_changed_by_a_job_that_writes_to_it(ml, submit, finish, unique, tmp_path):
    (tmp_path / "x.txt").write_text("as it was")
    asset = ml.data.create_or_update(Data(name=unique("kept"), path=str(tmp_path / "x.txt"), type=AssetTypes.URI_FILE))
    bad = submit("echo changed > ${{inputs.d}} || true", inputs={"d": Input(type=AssetTypes.URI_FILE, path=asset.id)})
    finish(bad)
    job = submit("grep 'as it was' ${{inputs.d}}", inputs={"d": Input(type=AssetTypes.URI_FILE, path=asset.id)})
    assert finish(job).status == "Completed"


def test_an_output_is_registered_under_its_name(ml, submit, finish, unique):
    name = unique("made")
    job = submit("echo data > ${{outputs.o}}/x.txt", outputs={"o": Output(type=AssetTypes.URI_FOLDER, name=name, version="1")})
    assert finish(job).status == "Completed"
    asset = ml.data.get(name, version="1")
    after = submit("grep data ${{inputs.i}}/x.txt", inputs={"i": Input(type=AssetTypes.URI_FOLDER, path=f"azureml:{asset.name}:1")})
    assert finish(after).status == "Completed"


def test_an_output_goes_to_the_path_that_is_asked_for(ml, submit, finish, unique, tmp_path):
    place = f"azureml://datastores/workspaceblobstore/paths/{unique('place')}/"
    job = submit("echo here > ${{outputs.o}}/y.txt", outputs={"o": Output(type=AssetTypes.URI_FOLDER, path=place)})
    assert finish(job).status == "Completed"
    ml.jobs.download(job.name, download_path=tmp_path, output_name="o")
    assert [p.read_text() for p in tmp_path.rglob("y.txt")] == ["here\n"]


def test_literals_of_each_kind_reach_the_command(submit, printed):
    job = submit(
        "echo ${{inputs.i}} ${{inputs.f}} ${{inputs.b}} '${{inputs.s}}'",
        inputs={"i": 7, "f": 0.25, "b": True, "s": "two words"},
    )
    assert re.search(r"7 0\.25 (?i:true) two words", printed(job))


def test_without_a_compute_the_job_runs_on_this_machine(ml, submit, finish):
    job = submit("echo serverless", compute=None)
    assert finish(job).status == "Completed"


def test_compute_local_runs_on_this_machine(rest, ml, finish, unique):
    name = unique("local")
    reply = rest("PUT", f"jobs/{name}", json={"properties": {
        "jobType": "Command", "command": "echo here", "experimentName": "local", "computeId": "local",
        "environmentId": environment(rest, unique),
    }})
    assert reply.status_code in (200, 201), reply.text
    assert finish(ml.jobs.get(name)).status == "Completed"


def environment(rest, unique):
    """The id of an environment made over plain HTTP."""
    reply = rest("PUT", f"environments/{unique('plain')}/versions/1", json={"properties": {"image": PLAIN}})
    assert reply.status_code == 201, reply.text
    return reply.json()["id"]


def test_a_command_that_fails_is_told_alike_everywhere(ml, submit, finish, rest):
    job = submit("echo about to fail; exit 3")
    with pytest.raises(JobException, match="exit.* 3") as told:
        ml.jobs.stream(job.name)
    assert "Failed" in str(told.value) or finish(job).status == "Failed"

    base = f"/history/v1.0{rest.scope}/experiments/{job.experiment_name}/runs/{job.name}/details"
    details = rest("GET", base).json()
    assert details["status"] == "Failed"
    assert re.search(r"exit.* 3", json.dumps(details["error"]))

    shown = lapis("job", "stream", "--name", job.name, check=False)
    assert shown.returncode == 1
    assert "about to fail" in shown.stdout and re.search(r"exit.* 3", shown.stderr)


def test_a_job_that_is_canceled_ends_with_all_it_started(ml, submit, finish, tmp_path):
    mark = tmp_path / "mark"
    job = submit(f"(sleep 6; touch {mark}) & sleep 300")
    while ml.jobs.get(job.name).status != "Running":
        assert ml.jobs.get(job.name).status not in {"Failed", "Completed"}
    ml.jobs.begin_cancel(job.name).result()
    assert finish(job, within=60).status == "Canceled"
    time.sleep(7)
    assert not mark.exists()


def test_a_job_over_its_time_says_so(ml, cpu, finish):
    job = command(command="sleep 300", environment=Environment(image=PLAIN), compute=cpu)
    job.limits = CommandJobLimits(timeout=2)
    job = ml.jobs.create_or_update(job)
    with pytest.raises(JobException, match="(?i)time|limit|2 ?s"):
        ml.jobs.stream(job.name)
    assert finish(job).status in {"Failed", "Canceled"}


def test_an_archived_job_leaves_the_list_and_comes_back(ml, submit, finish):
    job = finish(submit("true"))
    listed = lambda: [j.name for j in ml.jobs.list(max_results=1000)]  # noqa: E731
    assert job.name in listed()
    ml.jobs.archive(job.name)
    assert job.name not in listed()
    ml.jobs.restore(job.name)
    assert job.name in listed()


def test_a_job_is_renamed_and_tagged_after_its_end(ml, submit, finish):
    job = finish(submit("true"))
    job.display_name, job.tags = "renamed", {"late": "tag"}
    ml.jobs.create_or_update(job)
    found = ml.jobs.get(job.name)
    assert (found.display_name, found.tags, found.status) == ("renamed", {"late": "tag"}, "Completed")


def test_a_compute_that_is_missing_is_named(ml, submit):
    with pytest.raises(HttpResponseError, match="no-such-compute") as refused:
        submit("echo", compute="no-such-compute")
    assert 400 <= refused.value.status_code < 500


def test_an_environment_that_is_missing_is_named(ml, cpu):
    with pytest.raises(HttpResponseError, match="no-such-env") as refused:
        ml.jobs.create_or_update(command(command="echo", environment="no-such-env:1", compute=cpu))
    assert 400 <= refused.value.status_code < 500


def test_a_data_asset_that_is_missing_is_named(ml, submit):
    with pytest.raises(Exception, match="no-such-data"):
        submit("echo ${{inputs.d}}", inputs={"d": Input(type=AssetTypes.URI_FOLDER, path="azureml:no-such-data:1")})


def test_an_input_that_is_gone_fails_the_job_by_its_name(ml, submit, finish):
    place = "azureml://datastores/workspaceblobstore/paths/nothing/is/here.txt"
    job = submit("cat ${{inputs.gone}}", inputs={"gone": Input(type=AssetTypes.URI_FILE, path=place)})
    with pytest.raises(JobException, match="here.txt|gone"):
        ml.jobs.stream(job.name)
    assert finish(job).status == "Failed"


def test_a_job_that_needs_more_memory_than_its_machine_has_says_so(ml, finish):
    job = command(
        command="python -c 'x = bytes([1]) * (3 << 30); print(len(x))'", environment=Environment(image=PLAIN), instance_type="Standard_F1s"
    )
    job = ml.jobs.create_or_update(job)
    assert finish(job).status == "Failed"
    with pytest.raises(JobException, match="memory"):
        ml.jobs.stream(job.name)
