"""What every package's tests share: the real Docker Engines and etcds, and tests that are coroutines."""

import asyncio
import inspect
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# How fast a machine is, or how busy, is no property of the code.
settings.register_profile("orlop", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("orlop")

for folder in ("tests", "plugins/chronos/tests", "plugins/marathon/tests", "plugins/swarm/tests"):
    sys.path.insert(0, str(Path(__file__).parent / folder))

pytest_plugins = ["pytester", "engines", "etcd_members", "file_server", "hosts", "newer_engine", "swarm_pool"]


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs an `async def` test in an event loop of its own. Fixtures stay synchronous: ten lines are enough."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = inspect.signature(pyfuncitem.obj).parameters
    asyncio.run(pyfuncitem.obj(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True
