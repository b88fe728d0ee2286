"""The steps of the Dockerfile, for machines without Docker.

    python tests/dockerfile.py

runs them all in an empty virtual environment, with packages from wherever pip is told to look, and asks the server that
comes of it whether it is well. `tests/whole/test_dockerfile.py` runs what needs no network.
"""

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

from web import free_port

ROOT = Path(__file__).parent.parent
# Needs rights that a test does not have, and changes nothing for what is tested.
LEFT_OUT = "useradd"


def read_steps(path: Path = ROOT / "Dockerfile") -> list[tuple[str, str]]:
    """Return the instructions of a Dockerfile, each with its arguments."""
    text = re.sub(r"^#.*\n", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def settings(steps: list[tuple[str, str]]) -> dict[str, str]:
    """Return the defaults of its build arguments."""
    pairs = (rest.split("=", 1) for kind, rest in steps if kind == "ARG" and "=" in rest)
    return dict(pairs)


def command(steps: list[tuple[str, str]], *kinds: str) -> list[str]:
    """Join commands that are written as JSON, such as ENTRYPOINT and CMD."""
    found = {kind: rest[rest.index("[") :] for kind, rest in steps if kind in kinds}
    return [word for kind in kinds for word in json.loads(found[kind])]


def is_ignored(name: str, patterns: list[str]) -> bool:
    """Tell whether a file stays out of the build; as Docker has it, the last pattern that fits decides."""
    ignored = False
    parts = name.split("/")
    places = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    for pattern in patterns:
        wanted = pattern.removeprefix("!")
        if wanted.startswith("**/"):
            fits = any(fnmatch.fnmatchcase(part, wanted[3:]) for part in parts)
        else:
            fits = any(fnmatch.fnmatchcase(p, wanted) and p.count("/") == wanted.count("/") for p in places)
        if fits:
            ignored = not pattern.startswith("!")
    return ignored


def copy_context(target: Path, names: list[str]) -> None:
    """Do what COPY does: copy the files that .dockerignore lets through."""
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
    for name in names:
        if not is_ignored(name, patterns):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, target / name)


def tracked_files() -> list[str]:
    """Name all files of the repository that are not data or build output."""
    skipped = {".git", ".venv", "demo", "build", "dist"}
    found = (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
    return sorted(path.as_posix() for path in found if path.parts[0] not in skipped)


def serve_and_ask(
    steps: list[tuple[str, str]], python: str, model: str, environment: dict[str, str], cwd: Path
) -> dict:
    """Start the server as the image does, wait until its health check passes, tag a post, and stop it."""
    port = str(free_port())

    def adapted(words: list[str]) -> list[str]:
        words = [word.replace("8000", port).replace("/model", model) for word in words]
        return [python if word == "python" else "127.0.0.1" if word == "0.0.0.0" else word for word in words]

    check = adapted(json.loads(next(rest for kind, rest in steps if kind == "HEALTHCHECK").partition("CMD ")[2]))
    post = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1], sys.argv[2].encode()).read().decode())"
    asked = [python, "-c", post, f"http://127.0.0.1:{port}/predict", json.dumps({"text": "joey and niko"})]
    server = subprocess.Popen(adapted(command(steps, "ENTRYPOINT", "CMD")), cwd=cwd, env=environment)
    try:
        end = time.monotonic() + 180
        while subprocess.run(check, capture_output=True, env=environment, cwd=cwd).returncode:
            if server.poll() is not None or time.monotonic() > end:
                raise RuntimeError(f"the server does not answer; its status is {server.poll()}")
            time.sleep(0.5)
        answer = json.loads(subprocess.run(asked, capture_output=True, check=True, env=environment, cwd=cwd).stdout)
        server.send_signal(signal.SIGTERM)
        if server.wait(timeout=60) not in (0, -signal.SIGTERM):
            raise RuntimeError(f"the server stopped with {server.returncode}")
    finally:
        server.kill()
    return answer


def main() -> None:
    """Run all steps in an empty environment."""
    steps = read_steps()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        venv.create(root / "venv", with_pip=True)
        environment = {**settings(steps), **os.environ, "PATH": f"{root / 'venv' / 'bin'}:{os.environ['PATH']}"}
        environment.pop("PYTHONPATH", None)
        for kind, rest in steps:
            if kind == "COPY":
                copy_context(root / "src", tracked_files())
            elif kind == "RUN" and LEFT_OUT not in rest:
                subprocess.run(
                    rest.replace("/src", str(root / "src")), shell=True, check=True, env=environment, cwd=root
                )
        model = str(Path(sys.argv[1] if len(sys.argv) > 1 else "demo/model").absolute())
        answer = serve_and_ask(steps, str(root / "venv" / "bin" / "python"), model, environment, root)
    sys.stdout.write(f"{json.dumps(answer)}\n")


if __name__ == "__main__":
    main()
