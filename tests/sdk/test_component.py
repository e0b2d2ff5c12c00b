"""Command components: registered, versioned, used by jobs."""

import pytest
from azure.ai.ml import Input, Output, command, load_component
from azure.ai.ml.entities import Environment
from azure.core.exceptions import ResourceNotFoundError
from conftest import PLAIN

YAML = """\
$schema: https://azuremlschemas.azureedge.net/latest/commandComponent.schema.json
type: command
name: {name}
display_name: Count
description: counts to n
tags: {{a: b}}
inputs:
  n: {{type: integer, default: 3, min: 1}}
  words: {{type: uri_folder, optional: true}}
outputs:
  counted: {{type: uri_folder}}
code: ./src
environment:
  image: {image}
command: >-
  python count.py --n ${{{{inputs.n}}}} --to ${{{{outputs.counted}}}} $[[--words ${{{{inputs.words}}}}]]
"""


@pytest.fixture
def file(tmp_path, unique):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "count.py").write_text("print('counting')\n")
    made = tmp_path / "component.yml"
    made.write_text(YAML.format(name=unique("count").replace("-", "_"), image=PLAIN))
    return made


def test_a_component_file_is_registered_and_read_back(ml, file):
    made = ml.components.create_or_update(load_component(file))
    found = ml.components.get(made.name, version=made.version)
    assert (found.display_name, found.description, found.tags["a"]) == ("Count", "counts to n", "b")
    assert found.inputs["n"].type == "integer" and str(found.inputs["n"].default) == "3"
    assert found.inputs["words"].optional is True
    assert found.outputs["counted"].type == "uri_folder"
    assert "count.py" in found.command
    assert "/codes/" in found.code and "/environments/" in found.environment


def test_without_a_version_or_label_it_is_the_default_one(ml, file):
    first = ml.components.create_or_update(load_component(file), version="1")
    ml.components.create_or_update(load_component(file), version="2")
    assert ml.components.get(first.name).version == "2"
    assert ml.components.get(first.name, label="latest").version == "2"
    assert {c.version for c in ml.components.list(name=first.name)} == {"1", "2"}
    assert first.name in [c.name for c in ml.components.list()]


def test_archived_versions_and_components_leave_the_lists_and_come_back(ml, file):
    made = ml.components.create_or_update(load_component(file), version="1")
    ml.components.create_or_update(load_component(file), version="2")
    ml.components.archive(made.name, version="1")
    assert [c.version for c in ml.components.list(name=made.name)] == ["2"]
    ml.components.restore(made.name, version="1")
    assert {c.version for c in ml.components.list(name=made.name)} == {"1", "2"}
    ml.components.archive(made.name)
    assert made.name not in [c.name for c in ml.components.list()]
    ml.components.restore(made.name)
    assert made.name in [c.name for c in ml.components.list()]


def test_a_component_of_python_is_registered(ml, unique):
    node = command(
        name=unique("py").replace("-", "_"), command="echo ${{inputs.word}} > ${{outputs.said}}",
        environment=Environment(image=PLAIN), inputs={"word": Input(type="string", default="hi")}, outputs={"said": Output(type="uri_file")},
    )
    made = ml.components.create_or_update(node.component)
    assert made.inputs["word"].default == "hi"


def test_a_component_that_is_missing_is_named(ml):
    with pytest.raises(ResourceNotFoundError, match="no_such_component"):
        ml.components.get("no_such_component", version="1")
