"""Print the project's dependencies, one a line, so that an image layer can hold them without the project."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any


def requirements(project: dict[str, Any], extras: str) -> list[str]:
    """Return the dependencies of a [project] table with those of `extras`, written as in `[demo,test]`."""
    found = list(project["dependencies"])
    for extra in re.findall(r"[\w-]+", extras):
        if extra not in project["optional-dependencies"]:
            sys.exit(f"There is no extra '{extra}'. Known: {', '.join(sorted(project['optional-dependencies']))}.")
        found += project["optional-dependencies"][extra]
    return found


if __name__ == "__main__":
    print("\n".join(requirements(tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"], sys.argv[1])))
