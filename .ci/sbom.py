"""Writes an SBOM (CycloneDX) for each archive of a release: the crates that it is built from, with hashes and licences.

    make sbom        (or: sbom.py CARGO_CYCLONEDX FOLDER)

cargo-cyclonedx writes one file for each crate of the workspace, beside its Cargo.toml. The Lambda functions are one program.
"""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
PROGRAMS = ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu", "x86_64-apple-darwin", "aarch64-apple-darwin"]
LAMBDAS = {"x86_64": "x86_64-unknown-linux-gnu", "arm64": "aarch64-unknown-linux-gnu"}


def cargo(*arguments):
    return subprocess.run(["cargo", *arguments, "--locked"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def packages():
    """The crates of the workspace, by name."""
    return {p["name"]: p for p in json.loads(cargo("metadata", "--no-deps", "--format-version=1"))["packages"]}


def boms(tool, members, target, *features):
    """The SBOM of each crate of the workspace, by name, without the paths of this machine."""
    # The date of the commit instead of the present time, and no random serial number: the same commit gives the same bytes.
    date = subprocess.run(["git", "log", "-1", "--format=%ct"], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    options = ["--format=json", "--spec-version=1.5", f"--target={target}", *features]
    subprocess.run([tool, "cyclonedx", *options], cwd=ROOT, check=True, env={**os.environ, "SOURCE_DATE_EPOCH": date.strip()})
    found = {}
    for name, package in members.items():
        file = pathlib.Path(package["manifest_path"]).with_name(f"{name}.cdx.json")
        found[name] = json.loads(file.read_text().replace(str(ROOT), ""))
        file.unlink()
    return found


def check(bom, target, crates):
    """Fails if cargo would build these crates with one that is not in the SBOM."""
    listed = {(c["name"], c["version"]) for c in [bom["metadata"]["component"], *bom["components"]]}
    selected = [word for crate in crates for word in ("--package", crate)]
    tree = cargo("tree", *selected, f"--target={target}", "--edges=normal,build", "--prefix=none", "--no-dedupe")
    built = {(words[0], words[1].removeprefix("v")) for words in map(str.split, tree.splitlines()) if words}
    if built - listed:
        sys.exit(f"the SBOM for {target} does not have {sorted(built - listed)}")


def main(tool, folder):
    members = packages()
    version = members["pomona"]["version"]
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)

    def write(name, bom, target, crates):
        check(bom, target, crates)
        (folder / f"{name}.cdx.json").write_text(json.dumps(bom, indent=2) + "\n")
        print(f"{folder}/{name}.cdx.json: {len(bom['components'])} components")

    for target in PROGRAMS:
        write(f"pomona-{version}-{target}", boms(tool, members, target)["pomona"], target, ["pomona"])
    for architecture, target in LAMBDAS.items():
        # Without the features of the program, which cargo would otherwise count for all crates of the workspace.
        bom = boms(tool, members, target, "--no-default-features")["pomona-lambda"]
        write(f"pomona-lambda-{version}-{architecture}", bom, target, ["pomona-lambda"])


main(*sys.argv[1:])
