"""What servers do to whoever fetches from them."""

from __future__ import annotations

import io
import socket
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from file_server import FileServer

from orlop.agent.fetcher import transfers
from orlop.agent.fetcher.budget import Budget, CannotFetch, in_words

SECRET = "Basic bWU6c2VjcmV0"


def fetched(uri: str, bytes_max: int = 1_000_000) -> bytes:
    into = io.BytesIO()
    transfers.fetch(uri, into, Budget(bytes_max), [])
    return into.getvalue()


def test_a_server_that_sends_nothing_more_is_given_up(file_server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfers, "STALL_S", 0.2)
    file_server.files, file_server.hung = {"/a": b"half of it"}, {"/a"}
    with pytest.raises(CannotFetch, match=r"after 0 bytes: the server sends nothing for 0\.2 s"):
        fetched(file_server.url("/a"))


def test_redirects_are_followed_and_credentials_stay_with_their_host(file_server: FileServer) -> None:
    other = FileServer()
    try:
        file_server.moved = {"/a": "/b", "/b": other.url("/c")}
        other.files = {"/c": b"c"}
        assert fetched(file_server.url("/a", credentials="me:secret@")) == b"c"
        assert file_server.authorization == [SECRET, SECRET]
        assert other.authorization == [None]
    finally:
        other.close()


@pytest.mark.parametrize("target", ["file:///etc/passwd", "data:,evil", "gopher://host/a"])
def test_a_redirect_leads_to_servers_only(file_server: FileServer, target: str) -> None:
    file_server.moved = {"/a": target}
    with pytest.raises(CannotFetch, match="the server answers 302"):
        fetched(file_server.url("/a"))


def test_circles_end(file_server: FileServer) -> None:
    file_server.moved = {"/a": "/b", "/b": "/a"}
    with pytest.raises(CannotFetch, match="the server answers 302"):
        fetched(file_server.url("/a"))
    assert len(file_server.asked) < 20


def test_names_that_need_quoting(file_server: FileServer) -> None:
    file_server.files = {"/a%20b/%C3%A4.txt": b"quoted"}
    assert fetched(file_server.url("/a b/ä.txt")) == b"quoted"
    assert fetched(file_server.url("/a%20b/%C3%A4.txt")) == b"quoted"


def test_what_is_promised_too_large_is_not_begun(file_server: FileServer) -> None:
    file_server.files, file_server.hung = {"/a": bytes(2000)}, {"/a"}
    with pytest.raises(CannotFetch, match="too large"):
        fetched(file_server.url("/a"), bytes_max=1000)


class FtpSession(socketserver.StreamRequestHandler):
    """As much of a server as one download needs; `/none` is not there."""

    def handle(self) -> None:
        data: socket.socket | None = None
        self.wfile.write(b"220 here\r\n")
        for line in self.rfile:
            word, _, rest = line.decode().strip().partition(" ")
            if word == "PASV" or word == "EPSV":
                data = socket.create_server(("127.0.0.1", 0))
                port = data.getsockname()[1]
                self.wfile.write(f"227 at (127,0,0,1,{port >> 8},{port & 255})\r\n".encode())
            elif word == "RETR" and rest != "none":
                assert data is not None
                self.wfile.write(b"150 coming\r\n")
                connection, _ = data.accept()
                connection.sendall(b"over FTP")
                connection.close()
                data.close()
                self.wfile.write(b"226 done\r\n")
            elif word == "RETR" or word == "NLST" or (word == "CWD" and rest == "none"):
                self.wfile.write(b"550 there is no such file\r\n")
            else:
                self.wfile.write(b"331 who\r\n" if word == "USER" else b"200 well\r\n")
            if word == "QUIT":
                break
        if data is not None:
            data.close()


@pytest.fixture
def ftp() -> Iterator[str]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), FtpSession) as server:
        server.daemon_threads = True
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        serving.start()
        yield f"ftp://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        serving.join()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_ftp(ftp: str) -> None:
    assert fetched(f"{ftp}/file") == b"over FTP"
    with pytest.raises(CannotFetch, match="there is no such file"):
        fetched(f"{ftp}/none")


def test_only_regular_files_of_the_node(tmp_path: Path) -> None:
    allowed = [str(tmp_path)]
    for uri in (str(tmp_path), f"file://{tmp_path}"):
        with pytest.raises(CannotFetch, match="it is not a regular file"):
            transfers.open_local(uri, allowed)
    with pytest.raises(CannotFetch, match="it cannot be read: No such file"):
        transfers.open_local(f"{tmp_path}/none", allowed)
    with pytest.raises(CannotFetch, match="names no host"):
        transfers.open_local("file://host/etc/hosts", ["/"])
    with pytest.raises(CannotFetch, match="gives no such file away"):
        transfers.open_local(f"{tmp_path}-beside", allowed)


def test_sizes_in_words() -> None:
    assert [in_words(count) for count in (0, 1023, 1536, 2**21, 10 * 2**30)] == [
        "0 bytes",
        "1023 bytes",
        "1.5 KiB",
        "2 MiB",
        "10 GiB",
    ]
