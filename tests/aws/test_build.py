"""`make lambdas`: that the packages are for the processor of the template."""

import pytest
import yaml
from build import check_packages, machine_of


def program(machine):
    return b"\x7fELF\x02\x01\x01" + bytes(11) + machine.to_bytes(2, "little") + bytes(44)


def built(folder, architecture, **machines):
    """A folder as `sam build` makes it."""
    resources = {"Bucket": {"Type": "AWS::S3::Bucket"}}
    for name, machine in machines.items():
        (folder / name).mkdir()
        (folder / name / "bootstrap").write_bytes(program(machine) if machine else b"#!/bin/sh\n")
        resources[name] = {"Type": "AWS::Serverless::Function", "Properties": {"CodeUri": name}}
    template = {"Globals": {"Function": {"Architectures": [architecture]}}, "Resources": resources}
    (folder / "template.yaml").write_text(yaml.safe_dump(template))
    return folder


@pytest.mark.parametrize("machine, name", [(62, "x86_64"), (183, "arm64"), (22, "processor 22 of ELF")])
def test_the_processor_of_a_program_is_read_from_its_header(machine, name):
    assert machine_of(program(machine)) == name
    assert machine_of(program(machine)[:19]) == machine_of(b"") == "no Linux program"


def test_packages_for_the_processor_of_the_template_pass(tmp_path):
    assert check_packages(built(tmp_path, "arm64", Plan=183, Publish=183)) == []


def test_a_package_for_another_processor_is_named(tmp_path):
    assert check_packages(built(tmp_path, "arm64", Plan=183, Publish=62, Reduce=0)) == [
        "Publish: the program is for x86_64, the template says arm64", "Reduce: the program is for no Linux program, the template says arm64"]


def test_the_architecture_of_one_function_is_checked(tmp_path):
    folder = built(tmp_path, "x86_64", Plan=183)
    template = yaml.safe_load((folder / "template.yaml").read_text())
    template["Resources"]["Plan"]["Properties"]["Architectures"] = ["arm64"]
    (folder / "template.yaml").write_text(yaml.safe_dump(template))
    assert check_packages(folder) == []
