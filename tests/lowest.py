"""Write the lowest versions that the installed package declares, as constraints for pip.

    python tests/lowest.py > constraints.txt

torch is left to the Makefile, which installs it first.
"""

import importlib.metadata
import re
import sys


def constraints(requirements: list[str]) -> list[str]:
    """Turn requirements such as `name[extra]>=1.2` into `name==1.2`; those without a lowest version are left out.

    What they say of the version of Python stays; pip takes no extras here.
    """
    pattern = r"([\w.-]+)(?:\[[^\]]*\])?>=([\w.]+)(?:\s*(;\s*python_version [<>=]+ \S+))?"
    found = (re.match(pattern, requirement) for requirement in requirements)
    return sorted({f"{match[1]}=={match[2]}{match[3] or ''}" for match in found if match and match[1] != "torch"})


if __name__ == "__main__":
    sys.stdout.write("\n".join(constraints(importlib.metadata.requires("smcl"))) + "\n")
