"""Environments: registered, versioned, used by jobs."""

import pytest
from azure.ai.ml import command
from azure.ai.ml.entities import BuildContext, Environment
from azure.core.exceptions import ResourceNotFoundError
from conftest import PLAIN, SDK

CONDA = {"name": "small", "channels": ["conda-forge"], "dependencies": ["python=3.11", "pip", {"pip": ["packaging==25.0"]}]}


def test_an_image_is_registered_and_listed(ml, unique):
    name = unique("image")
    ml.environments.create_or_update(Environment(name=name, version="1", image="python:3.11-slim", description="d", tags={"a": "b"}))
    found = ml.environments.get(name, version="1")
    assert (found.image, found.description, found.tags) == ("python:3.11-slim", "d", {"a": "b"})
    assert name in [e.name for e in ml.environments.list()]
    assert [e.version for e in ml.environments.list(name)] == ["1"]


@pytest.mark.skipif(SDK < (1, 23), reason="before 1.23 the SDK counts up by itself")
def test_without_a_version_another_image_is_the_next_one(ml, unique):
    name = unique("next")
    assert ml.environments.create_or_update(Environment(name=name, image="python:3.11-slim", description="a")).version == "1"
    assert ml.environments.create_or_update(Environment(name=name, image="python:3.11-slim", description="b")).version == "1"
    assert ml.environments.create_or_update(Environment(name=name, image="another:1")).version == "2"
    assert ml.environments.get(name, version="1").image == "python:3.11-slim"
    assert ml.environments.get(name, label="latest").version == "2"


def test_a_build_context_is_uploaded(ml, unique, tmp_path):
    (tmp_path / "Dockerfile").write_text("FROM python:3.11-slim\n")
    name = unique("built")
    made = ml.environments.create_or_update(Environment(name=name, version="1", build=BuildContext(path=str(tmp_path))))
    assert made.build.dockerfile_path == "Dockerfile"
    assert made.build.path


def test_a_registered_environment_has_its_packages_in_the_job(ml, unique, printed, cpu, tmp_path):
    conda = tmp_path / "conda.yml"
    conda.write_text(
        "name: small\nchannels: [conda-forge]\ndependencies:\n- python=3.11\n- pip\n- pip:\n  - packaging==25.0\n"
    )
    name = unique("small")
    ml.environments.create_or_update(Environment(name=name, version="1", image=PLAIN, conda_file=str(conda)))
    job = ml.jobs.create_or_update(
        command(command="python -c 'import packaging; print(\"packaging\", packaging.__version__)'", environment=f"{name}@latest", compute=cpu)
    )
    assert "packaging 25.0" in printed(job)


def test_an_inline_conda_file_is_built_once_for_the_same_recipe(ml, printed, cpu):
    again = []
    for _ in range(2):
        job = ml.jobs.create_or_update(
            command(
                command="python -c 'import packaging, os; print(packaging.__version__, os.path.realpath(packaging.__file__))'",
                environment=Environment(image=PLAIN, conda_file=CONDA), compute=cpu,
            )
        )
        again += [line for line in printed(job).splitlines() if line.startswith("25.0 ")]
    assert len(again) == 2 and again[0] == again[1]


def test_a_recipe_that_cannot_be_built_fails_the_job_with_its_last_words(ml, finish, cpu):
    job = ml.jobs.create_or_update(
        command(
            command="echo never",
            environment=Environment(image=PLAIN, conda_file={"name": "bad", "dependencies": ["python=3.11", "pip", {"pip": ["packaging==999.0"]}]}),
            compute=cpu,
        )
    )
    assert finish(job).status == "Failed"
    with pytest.raises(Exception, match="packaging"):
        ml.jobs.stream(job.name)


def test_what_is_missing_is_named(ml):
    with pytest.raises(ResourceNotFoundError, match="no-such-environment"):
        ml.environments.get("no-such-environment", version="1")
