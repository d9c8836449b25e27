"""Prints the section of CHANGELOG.md for one version, as the text of its release. Fails if there is none.

    python3 .ci/changelog.py 0.1.0
"""

import pathlib
import re
import sys


def section(text, version):
    """The lines below the heading of a version, up to the next version; None if it has no heading with a date."""
    found = re.search(rf"^## \[{re.escape(version)}\] - \d{{4}}-\d\d-\d\d\n(.*?)(?=^## |^\[[^\]]+\]: |\Z)", text, re.M | re.S)
    return found and found.group(1).strip()


def main():
    (version,) = sys.argv[1:]
    found = section((pathlib.Path(__file__).parents[1] / "CHANGELOG.md").read_text(), version)
    if not found:
        sys.exit(f"CHANGELOG.md has no section '## [{version}] - YYYY-MM-DD' with a text")
    print(found)


if __name__ == "__main__":
    main()
