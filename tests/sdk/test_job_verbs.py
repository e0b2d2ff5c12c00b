"""What else the SDK does with jobs: lists, services, validation, fetched jobs
sent back, logs and outputs of jobs that failed."""

import pytest
from azure.ai.ml import Output, command
from azure.ai.ml.constants import ListViewType
from azure.ai.ml.entities import Environment, JobResourceConfiguration, JupyterLabJobService, UserIdentityConfiguration
from azure.core.exceptions import ResourceNotFoundError
from conftest import PLAIN


def make(line, cpu, **more):
    return command(command=line, environment=Environment(image=PLAIN), compute=cpu, **more)


def test_jobs_are_listed_newest_first_and_no_more_than_asked(ml, cpu, finish):
    names = [ml.jobs.create_or_update(make(f"echo {i}", cpu)).name for i in range(3)]
    listed = [j.name for j in ml.jobs.list(max_results=200)]
    assert [n for n in listed if n in names] == names[::-1]
    for name in names:
        finish(ml.jobs.get(name))


def test_archived_jobs_are_in_the_lists_that_ask_for_them(ml, cpu, finish):
    job = finish(ml.jobs.create_or_update(make("echo old", cpu)))
    ml.jobs.archive(job.name)

    def seen(view):
        return job.name in [j.name for j in ml.jobs.list(max_results=50, list_view_type=view)]

    assert [seen(v) for v in (ListViewType.ACTIVE_ONLY, ListViewType.ARCHIVED_ONLY, ListViewType.ALL)] == [False, True, True]
    ml.jobs.restore(job.name)
    assert [seen(v) for v in (ListViewType.ACTIVE_ONLY, ListViewType.ARCHIVED_ONLY)] == [True, False]


def test_a_job_that_was_fetched_is_sent_back_with_other_tags_and_does_not_run_again(ml, cpu, finish):
    job = finish(ml.jobs.create_or_update(make("echo once", cpu)))
    job.tags = {"seen": "yes"}
    job.description = "what it was for"
    ml.jobs.create_or_update(job)
    found = ml.jobs.get(job.name)
    assert (found.status, found.tags["seen"], found.description) == ("Completed", "yes", "what it was for")


def test_the_services_of_a_job_are_shown_while_it_runs(ml, cpu, finish):
    job = ml.jobs.create_or_update(make("sleep 20", cpu, services={"lab": JupyterLabJobService()}))
    services = ml.jobs.show_services(job.name)
    assert services is None or "lab" in services
    ml.jobs.begin_cancel(job.name).result()
    assert finish(job).status == "Canceled"


def test_the_outputs_of_a_job_that_failed_come_back(ml, cpu, finish, tmp_path):
    job = finish(ml.jobs.create_or_update(make("mkdir -p outputs; echo half > outputs/half.txt; echo done > ${{outputs.o}}/o.txt; exit 3", cpu, outputs={"o": Output(type="uri_folder")})))
    assert job.status == "Failed"
    ml.jobs.download(job.name, download_path=tmp_path, all=True)
    assert (tmp_path / "artifacts" / "outputs" / "half.txt").read_text() == "half\n"
    assert (tmp_path / "named-outputs" / "o" / "o.txt").read_text() == "done\n"


def test_one_output_is_downloaded_by_name(ml, cpu, finish, tmp_path):
    job = finish(ml.jobs.create_or_update(make(
        "echo a > ${{outputs.a}}/a.txt; echo b > ${{outputs.b}}", cpu, outputs={"a": Output(type="uri_folder"), "b": Output(type="uri_file")})))
    assert job.status == "Completed"
    ml.jobs.download(job.name, download_path=tmp_path, output_name="a")
    assert [p.name for p in tmp_path.rglob("*.txt")] == ["a.txt"]


def test_a_job_on_behalf_of_its_user_runs(ml, cpu, finish):
    job = ml.jobs.create_or_update(make("echo me", cpu, identity=UserIdentityConfiguration()))
    assert finish(job).status == "Completed"


def test_a_job_is_validated_before_it_is_sent(ml, cpu):
    assert ml.jobs.validate(make("echo ok", cpu)).passed


def test_a_job_without_compute_runs_with_the_resources_it_names(ml, finish):
    node = command(command="echo serverless", environment=Environment(image=PLAIN), resources=JobResourceConfiguration(instance_type="Standard_DS3_v2"))
    assert finish(ml.jobs.create_or_update(node)).status == "Completed"


def test_cancelling_what_has_ended_changes_nothing(ml, cpu, finish):
    job = finish(ml.jobs.create_or_update(make("true", cpu)))
    try:
        ml.jobs.begin_cancel(job.name).result()
    except Exception as refused:  # noqa: BLE001, a refusal is as good
        assert getattr(refused, "status_code", 400) < 500
    assert ml.jobs.get(job.name).status == "Completed"


def test_a_job_that_is_missing_is_named_by_every_verb(ml):
    for verb in (ml.jobs.get, ml.jobs.begin_cancel, ml.jobs.stream, ml.jobs.archive, ml.jobs.download):
        with pytest.raises(ResourceNotFoundError, match="no-such-job"):
            verb("no-such-job")
