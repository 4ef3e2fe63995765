"""Loads one plugin in a process of its own: `python -m orlop.cli.plugin_check NAME [CONFIG]`.

So a plugin that ends the process, or brings down the interpreter, is found out as well. What was found is one JSON
object on the last line of the output; the plugin's own output goes before it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from orlop.server.plugin_checks import name_clashes

if TYPE_CHECKING:
    from orlop.configuration import Settings
    from orlop.server.plugin_host import PluginHost

TIMEOUT_S: Final = 120.0
MARK: Final = "orlop-plugin-record: "
#: Hooks that need nothing of a running server.
TRIED: Final = ("frameworks", "stores", "commands")
ERROR_CHARACTERS_MAX: Final = 2_000


def check(name: str, config: Path | None) -> dict[str, Any]:
    """The plugin's record, with `state` failed when its process did not get to the end."""
    command = [sys.executable, "-m", "orlop.cli.plugin_check", name, *([str(config)] if config else [])]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return _failed(name, f"loading it took longer than {TIMEOUT_S:g} s")
    found = [line for line in done.stdout.splitlines() if line.startswith(MARK)]
    if not found:
        said = done.stderr.strip()[-ERROR_CHARACTERS_MAX:]
        return _failed(name, f"it ended its process with code {done.returncode}" + (f": {said}" if said else ""))
    record: dict[str, Any] = json.loads(found[-1].removeprefix(MARK))
    return record


def _failed(name: str, error: str) -> dict[str, Any]:
    return {"name": name, "state": "failed", "error": error, "warnings": [], "hooks": [], "frameworks": [name]}


def refuse_namesakes(records: Sequence[dict[str, Any]]) -> None:
    """Those that claim another one's framework are failed as well: each was loaded by itself."""
    reasons = name_clashes({record["name"]: record["frameworks"] for record in records})
    for record in records:
        if record["state"] == "loaded" and record["name"] in reasons:
            record.update(state="failed", error=reasons[record["name"]])


def main(arguments: list[str]) -> None:
    """The process's part."""
    from orlop.cli.loading import load_plugins, load_settings

    name, *config = arguments
    settings = load_settings(Path(config[0]) if config else None)
    host = load_plugins(settings, only=name)
    for hook in TRIED:
        host.call(name, hook)
    broken = _tried_out(host, name, settings) if name in host.names() else []
    claims = host.claims()
    [record] = [one for one in host.describe() if one["name"] == name]
    record["frameworks"] = claims.get(name, ())
    if broken:
        record.update(state="failed", error="\n".join(filter(None, [record["error"], *broken])))
    sys.stdout.write(f"\n{MARK}{json.dumps(record)}\n")


def _tried_out(host: PluginHost, name: str, settings: Settings) -> list[str]:
    from orlop.cli.plugin_trial import faults

    return faults(host, name, settings)


if __name__ == "__main__":
    main(sys.argv[1:])
