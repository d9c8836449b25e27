"""`make package`: writes the package that `pomona aws deploy` deploys, from what `make lambdas` has built.

    package.py BUILD FOLDER

BUILD is .aws-sam/build. FOLDER gets the template as JSON, in which the places of the other files stand as `s3://PACKAGE/...`, the
program of all functions as a zip, and the definition of the state machine. Equal builds give equal bytes.
"""

import json
import pathlib
import sys
import zipfile

import yaml

PROGRAM, DEFINITION = "lambda.zip", "pipeline.asl.json"


def zipped(program, place):
    """The zip of a Lambda function: one program, with a date that does not change."""
    entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
    entry.external_attr = 0o100755 << 16
    entry.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(place, "w") as archive:
        archive.writestr(entry, program.read_bytes(), compresslevel=9)


def main():
    build, folder = map(pathlib.Path, sys.argv[1:])
    folder.mkdir(parents=True, exist_ok=True)
    template = yaml.safe_load((build / "template.yaml").read_text())
    programs, definitions = set(), set()
    template["Globals"]["Function"].pop("CodeUri")
    for resource in template["Resources"].values():
        properties = resource.get("Properties", {})
        if resource["Type"] == "AWS::Serverless::Function":
            programs.add(build / properties["CodeUri"] / "bootstrap")
            properties["CodeUri"] = f"s3://PACKAGE/{PROGRAM}"
        if resource["Type"] == "AWS::Serverless::StateMachine":
            definitions.add(build / properties["DefinitionUri"])
            properties["DefinitionUri"] = f"s3://PACKAGE/{DEFINITION}"
        # Of the build, which is over.
        for name in ("BuildMethod", "BuildProperties", "SamResourceId"):
            resource.get("Metadata", {}).pop(name, None)
        if not resource.get("Metadata", True):
            del resource["Metadata"]
    ((program,), (definition,)) = programs, definitions
    zipped(program, folder / PROGRAM)
    (folder / DEFINITION).write_bytes(definition.read_bytes())
    (folder / "template.json").write_text(json.dumps(template, indent=1, default=str) + "\n")
    size = (folder / PROGRAM).stat().st_size / 1e6
    print(f"{folder}: {PROGRAM} has {size:.1f} MB, for {template['Globals']['Function']['Architectures'][0]}")


if __name__ == "__main__":
    main()
