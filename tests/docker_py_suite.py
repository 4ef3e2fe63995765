"""docker-py's own integration tests, run against any address of a Docker API.

They are not part of its wheel, nor of its newest source distributions: those of 7.0.0 are used, with the client that
is installed. Left out are the modules for what an engine does in swarm mode only, for plugins and for credential
helpers. A name server that refuses at once answers for the registries that the tests ask for.

    python tests/docker_py_suite.py tcp://127.0.0.1:3375 [--tests FOLDER] [-k WORDS]
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Final

VERSION: Final = "7.0.0"
SHA256: Final = "323736fb92cd9418fc5e7133bc953e11a9da04f4483f828b527db553f1e7e5a3"
API_VERSION: Final = "1.40"
#: What the tests take from a registry; one busybox under these names serves all of them.
IMAGES: Final = ("alpine:3.10", "alpine:latest", "busybox:latest", "hello-world:latest")
LEFT_OUT: Final = (
    "api_config_test.py", "api_plugin_test.py", "api_secret_test.py", "api_service_test.py", "api_swarm_test.py",
    "models_nodes_test.py", "models_services_test.py", "models_swarm_test.py", "credentials",
)  # fmt: skip
TEST_TIMEOUT_S: Final = 60
SUITE_TIMEOUT_S: Final = 1_500


def fetched_tests() -> Path:
    """The folder that holds docker-py's `tests`, fetched once. Raises RuntimeError: they cannot be had, and why."""
    cache = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "orlop-tests"
    archive = cache / f"docker-{VERSION}.tar.gz"
    if not archive.exists():
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "docker"]
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            done = subprocess.run(
                [*command, "--dest", folder, f"docker=={VERSION}"], capture_output=True, text=True, check=False
            )
            found = Path(folder) / archive.name
            if not found.exists():
                raise RuntimeError(f"docker-py's tests cannot be fetched: {done.stderr.strip()[-500:]}")
            found.replace(archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != SHA256:
        archive.unlink()
        raise RuntimeError(f"docker-py {VERSION} has the digest {digest}, expected {SHA256}")
    return archive


def unpack(archive: Path, into: Path) -> Path:
    """Only its tests: its modules would hide those of the client that is installed."""
    with tarfile.open(archive) as packed:
        members = [one for one in packed.getmembers() if "/tests/" in one.name]
        packed.extractall(into, members, filter="data")
    return into / f"docker-{VERSION}"


def run(address: str, folder: Path, *options: str, environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Test's name → "passed", "failed", "error" or "skipped". folder: which has `tests`. Raises RuntimeError."""
    report = folder / "report.xml"
    ignored = [f"--ignore=tests/integration/{name}" for name in LEFT_OUT]
    command = [
        sys.executable, "-m", "pytest", "tests/integration", *ignored, "-q", "-p", "no:cacheprovider", "-c", os.devnull,
        "--rootdir", str(folder), "-o", "python_files=*_test.py", f"--timeout={TEST_TIMEOUT_S}",
        f"--junitxml={report}", "-W", "ignore", "--durations=30", *options,
    ]  # fmt: skip
    done = subprocess.run(
        command,
        cwd=folder,
        env={
            **os.environ,
            "DOCKER_HOST": address,
            "DOCKER_TEST_API_VERSION": API_VERSION,
            "PYTHONPATH": str(folder),
            **(environment or {}),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SUITE_TIMEOUT_S,
        check=False,
    )
    (folder / "output.txt").write_text(done.stdout)
    if not report.exists():
        raise RuntimeError(f"docker-py's tests did not run:\n{done.stdout[-3000:]}")
    return outcomes(report)


def outcomes(report: Path) -> dict[str, str]:
    """Of a JUnit report. A test that passes and whose tear-down does not counts as "error"."""
    found: dict[str, str] = {}
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        module, _, name = case.attrib["classname"].rpartition(".")
        test = f"{module.rpartition('.')[2]}.{name}.{case.attrib['name']}"
        kinds = {child.tag for child in case}
        outcome = next((word for tag, word in _WORDS.items() if tag in kinds), "passed")
        found[test] = outcome if found.get(test, "passed") == "passed" else found[test]
    return found


_WORDS: Final = {"error": "error", "failure": "failed", "skipped": "skipped"}


def main() -> None:
    parser = argparse.ArgumentParser(description="docker-py's own integration tests")
    parser.add_argument("address")
    parser.add_argument("--tests", type=Path, help="a folder that has `tests`; default: fetched")
    parser.add_argument("-k", default="", help="as pytest's")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = chosen.tests or unpack(fetched_tests(), Path(temporary))
        found = run(chosen.address, folder, *(("-k", chosen.k) if chosen.k else ()))
        print((folder / "output.txt").read_text(), file=sys.stderr)
    for test, outcome in sorted(found.items()):
        print(outcome, test)
    for word in ("passed", "failed", "error", "skipped"):
        print(word, sum(outcome == word for outcome in found.values()), file=sys.stderr)


if __name__ == "__main__":
    main()
