"""Where the Docker API may be listened on."""

from __future__ import annotations

from typing import Any

import pytest

from orlop.hookspecs import ClientCertificates
from orlop_swarm.settings import Config

FILES: dict[str, Any] = {"tls_cert": "/c.pem", "tls_key": "/k.pem", "tls_ca": "/a.pem"}


@pytest.mark.parametrize("address", ["127.0.0.1:3375", "[::1]:3375", "localhost:1", "127.9.9.9:1", "unix:///run/x"])
def test_this_machine_needs_no_certificates(address: str) -> None:
    assert Config(listen=(address,)).client_certificates is None


@pytest.mark.parametrize("address", ["0.0.0.0:3375", "[::]:1", ":3375", "10.0.0.1:1", "localhost.example:1"])
def test_others_do(address: str) -> None:
    with pytest.raises(ValueError, match=r"listen: .* set tls_cert, tls_key and tls_ca"):
        Config(listen=("127.0.0.1:3375", address))
    found = Config(listen=(address,), **FILES).client_certificates
    assert found == ClientCertificates(certificate="/c.pem", key="/k.pem", authority="/a.pem")


@pytest.mark.parametrize("missing", list(FILES))
def test_the_files_go_together(missing: str) -> None:
    with pytest.raises(ValueError, match=f"{missing}: tls_cert, tls_key and tls_ca go together"):
        Config(**{name: path for name, path in FILES.items() if name != missing})
