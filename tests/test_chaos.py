"""One minute of random troubles on real processes; `make chaos` takes ten."""

from __future__ import annotations

import pytest
from chaos import Chaos
from etcd_members import missing
from hosts import Hosts

pytestmark = [pytest.mark.real, pytest.mark.timeout(600)]

SEED = 20261125


def test_a_minute_of_chaos(hosts: Hosts) -> None:
    assert not missing()
    chaos = Chaos(hosts, SEED)
    try:
        chaos.start()
        chaos.run(60)
    except AssertionError as error:
        raise AssertionError("\n".join([*chaos.done, str(error)])) from error
    finally:
        chaos.close()
