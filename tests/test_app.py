"""scripts/app, driven over a real socket."""

from __future__ import annotations

import contextlib
import http.client
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import helper

from edgeseq.runtime import Model
from edgeseq.runtime.manifest import Manifest, TensorSpec

REPOSITORY = Path(__file__).resolve().parents[1]
for package in ("starlette", "uvicorn"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install 'edgeseq[app]'", allow_module_level=True)

TEXT = {
    "kind": "text", "lowercase": True, "filters": "!", "split": " ", "vocabulary": ["good", "bad"], "first_id": 1,
    "pad_id": 0, "unknown_id": 9, "start_id": None, "length": 3, "padding": "pre", "truncating": "pre",
}  # fmt: skip


@pytest.fixture(scope="module")
def words(write_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ids of three words, times two."""
    manifest = Manifest(
        inputs=(TensorSpec(name="ids", dtype="int32", axes=("batch", 3)),),
        outputs=(TensorSpec(name="y", dtype="int32", axes=("batch", 3)),),
        input_structure="ids",
        output_structure="y",
        preprocessing={"inputs": {"ids": TEXT}},
    )
    path = tmp_path_factory.mktemp("app") / "words.onnx"
    return write_model(path, [helper.make_node("Add", ["ids", "ids"], ["y"])], manifest)


@pytest.fixture(scope="module")
def sums(write_sums: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sums(tmp_path_factory.mktemp("app") / "sums.onnx")


class Client:
    """Calls the service; each call is a connection of its own."""

    def __init__(self, port: int, process: Any = None):
        self.port, self.process = port, process

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            connection.request(method, path, body if isinstance(body, bytes | None) else json.dumps(body))
            answer = connection.getresponse()
            content = answer.read()
            is_json = answer.getheader("content-type") == "application/json"
            return answer.status, json.loads(content) if is_json else content

    def open(self) -> str:
        status, content = self("POST", "/streams")
        assert status == 201
        return str(content["id"])

    def step(self, stream: str, *steps: float) -> Any:
        status, content = self("POST", f"/streams/{stream}/step", {"steps": list(steps)})
        assert status == 200, content
        return content["answer"]


@contextlib.contextmanager
def served(*arguments: object, stderr: Any = subprocess.PIPE) -> Iterator[Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, REPOSITORY / "scripts" / "app.py", *map(str, arguments), "--port", str(port)]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, env=environment)
    try:
        for _ in range(600):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        yield Client(port, process)
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def served_here(classifier: Any, pool: Any) -> Iterator[Client]:
    """In a thread of this process, so that what it serves can be held up."""
    import uvicorn

    found = importlib.util.spec_from_file_location("app", REPOSITORY / "scripts" / "app.py")
    assert found is not None
    assert found.loader is not None
    app = importlib.util.module_from_spec(found)
    found.loader.exec_module(app)
    service = app.application(classifier, pool, max_texts=3, max_bytes=2000, idle_seconds=60)
    server = uvicorn.Server(uvicorn.Config(service, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Client(server.servers[0].sockets[0].getsockname()[1])
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def client(words: Path, sums: Path) -> Iterator[Client]:
    with served(words, "--stream", sums, "--max-streams", 6, "--max-texts", 3, "--max-bytes", 2000) as found:
        yield found


def test_raw_reviews_are_classified_together(client: Client) -> None:
    status, content = client("POST", "/classify", {"texts": ["Good bad!", "", "bad"]})
    assert (status, content) == (200, {"answers": [[0, 2, 4], [0, 0, 0], [0, 0, 4]]})


def test_each_client_has_a_stream_of_its_own(client: Client) -> None:
    names = [client.open() for _ in range(4)]

    def drive(number: int) -> list[float]:
        return [client.step(names[number], float(number))[0] for _ in range(20)]

    with ThreadPoolExecutor(4) as threads:
        for number, answers in enumerate(threads.map(drive, range(4))):
            assert answers == [number * step for step in range(1, 21)]
    for name in names:
        assert client("DELETE", f"/streams/{name}") == (204, b"")
    assert client("GET", "/statistics")[1]["streams"] == 0


def test_a_state_goes_to_another_stream_and_to_another_process(client: Client, sums: Path) -> None:
    first, second = client.open(), client.open()
    assert client.step(first, 1, 2) == [1, 3]
    status, state = client("GET", f"/streams/{first}/state")
    assert status == 200
    assert client("PUT", f"/streams/{second}/state", state) == (204, b"")
    assert client.step(second, 10) == [13]
    here = Model(sums).stream()
    here.restore(state)
    np.testing.assert_array_equal(here.step(np.ones((1, 1), np.float32)), [[4]])
    assert client("PUT", f"/streams/{second}/state", b"none")[0] == 400
    assert client.step(second, 1) == [14]
    for name in (first, second):
        client("DELETE", f"/streams/{name}")


@pytest.mark.parametrize(
    ("path", "body", "status", "kind", "said"),
    [
        ("/classify", b"{", 400, "HTTPException", "not JSON"),
        ("/classify", b"[" * 1900, 400, "HTTPException", "not JSON (maximum recursion depth"),
        ("/classify", [1], 400, "HTTPException", "JSON object"),
        ("/classify", {"texts": [1]}, 400, "HTTPException", "one string or more"),
        ("/classify", {"texts": ["a"] * 4}, 413, "HTTPException", "at most 3 texts"),
        ("/classify", {"texts": ["a" * 3000]}, 413, "HTTPException", "at most 2000 bytes"),
        ("/streams/none/step", {"steps": [1]}, 404, "HTTPException", "no such stream"),
        ("/nothing", {}, 404, "HTTPException", "Not Found"),
    ],
)
def test_bad_requests(client: Client, path: str, body: Any, status: int, kind: str, said: str) -> None:
    found, content = client("POST", path, body)
    assert (found, content["error"]["type"]) == (status, kind)
    assert said in content["error"]["message"]


def test_a_bad_step_harms_nothing(client: Client) -> None:
    name = client.open()
    assert client.step(name, 1) == [1]
    for body in ({"steps": [[[1]]]}, {"steps": ["a"]}, {"steps": []}):
        status, content = client("POST", f"/streams/{name}/step", body)
        assert (status, content["error"]["type"]) == (400, "InputMismatch")
    assert client("POST", f"/streams/{name}/step", {})[0] == 400
    assert client.step(name, 1) == [2]
    client("DELETE", f"/streams/{name}")
    assert client("POST", f"/streams/{name}/step", {"steps": [1]})[0] == 404


def test_a_step_that_is_nested_too_deeply(client: Client) -> None:
    name = client.open()
    for depth in (70, 900):
        status, content = client("POST", f"/streams/{name}/step", b'{"steps": ' + b"[" * depth + b"]" * depth + b"}")
        assert status == 400
        assert content["error"]["type"] in ("InputMismatch", "HTTPException")
    client("DELETE", f"/streams/{name}")


def test_a_state_that_is_too_long(client: Client) -> None:
    name = client.open()
    status, content = client("PUT", f"/streams/{name}/state", bytes(3000))
    assert (status, content["error"]["message"]) == (413, "at most 2000 bytes at a time")
    assert client.step(name, 1) == [1]
    client("DELETE", f"/streams/{name}")


def test_a_stream_that_ends_while_its_step_is_on_the_way_is_gone(client: Client) -> None:
    name = client.open()
    connection = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
    with contextlib.closing(connection):
        connection.putrequest("POST", f"/streams/{name}/step")
        connection.putheader("Content-Length", "14")
        # Answered when the service asks for the body: the stream is found by then.
        connection.putheader("Expect", "100-continue")
        connection.endheaders()
        assert connection.sock.recv(100).startswith(b"HTTP/1.1 100")
        assert client("DELETE", f"/streams/{name}")[0] == 204
        connection.send(b'{"steps": [1]}')
        answer = connection.getresponse()
        assert (answer.status, json.loads(answer.read())["error"]["type"]) == (410, "StreamClosed")


def test_a_full_queue_and_a_state_while_steps_wait(sums: Path) -> None:
    # A run waits for a chunk of each open stream, and the queue holds one.
    with Model(sums).pool(max_wait_ms=60_000, max_queue=1) as pool, served_here(None, pool) as client:
        first, second = client.open(), client.open()
        state = client("GET", f"/streams/{first}/state")[1]
        assert client("PUT", f"/streams/{first}/state", b"none")[0] == 400
        with ThreadPoolExecutor(1) as threads:
            waiting = threads.submit(client.step, first, 1)
            while client("GET", "/statistics")[1]["queued"] == 0:
                time.sleep(0.01)
            for method, body in (("PUT", state), ("GET", None)):
                status, content = client(method, f"/streams/{first}/state", body)
                assert (status, content["error"]["type"]) == (409, "WrongUsage")
                assert "has chunks in the queue" in content["error"]["message"]
            status, content = client("POST", f"/streams/{second}/step", {"steps": [1]})
            assert (status, content["error"]["type"]) == (503, "PoolFull")
            client("DELETE", f"/streams/{second}")
            assert waiting.result(30) == [1]


def test_others_are_served_while_the_pool_computes(sums: Path) -> None:
    with Model(sums).pool() as pool, served_here(None, pool) as client:
        name = client.open()
        state = client("GET", f"/streams/{name}/state")[1]
        with ThreadPoolExecutor(3) as threads:
            # As in a run.
            with pool._engine.lock:
                waiting = [
                    threads.submit(client, *request)
                    for request in (
                        ("POST", "/streams"),
                        ("GET", f"/streams/{name}/state"),
                        ("PUT", f"/streams/{name}/state", state),
                    )
                ]
                time.sleep(0.2)
                assert client("POST", "/classify", {"texts": ["a"]})[0] == 404
                assert not any(request.done() for request in waiting)
            assert [request.result(30)[0] for request in waiting] == [201, 200, 204]


def test_a_fault_of_the_service_is_json_too() -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("secret")

    with served_here(broken, None) as client:
        status, content = client("POST", "/classify", {"texts": ["a"]})
    assert (status, content["error"]["type"]) == (500, "RuntimeError")
    assert "secret" not in content["error"]["message"]


def test_a_full_pool_says_so_and_has_room_again(client: Client) -> None:
    names = [client.open() for _ in range(6)]
    status, content = client("POST", "/streams")
    assert (status, content["error"]["type"]) == (503, "PoolFull")
    client("DELETE", f"/streams/{names[0]}")
    names[0] = client.open()
    for name in names:
        client("DELETE", f"/streams/{name}")


def test_silent_clients_lose_their_streams_and_a_signal_ends_it(sums: Path) -> None:
    with served("--stream", sums, "--max-streams", 1, "--idle-seconds", 0.2) as client:
        client.open()
        for _ in range(100):
            if client("GET", "/statistics")[1]["streams"] == 0:
                break
            time.sleep(0.05)
        name = client.open()
        assert client.step(name, 5) == [5]
        assert client("POST", "/classify", {"texts": ["a"]})[0] == 404
        client.process.send_signal(signal.SIGTERM)
        out, err = client.process.communicate(timeout=30)
        assert (out, err) == (b"", b"")


def test_a_client_that_hangs_up_leaves_no_trace(sums: Path) -> None:
    with served("--stream", sums) as client:
        name = client.open()
        with socket.create_connection(("127.0.0.1", client.port), timeout=30) as connection:
            head = (
                f"POST /streams/{name}/step HTTP/1.1\r\nHost: a\r\nContent-Length: 14\r\nExpect: 100-continue\r\n\r\n"
            )
            connection.sendall(head.encode())
            # It waits for the body from here on.
            assert connection.recv(100).startswith(b"HTTP/1.1 100")
            connection.sendall(b'{"steps"')
        assert client.step(name, 1) == [1]
        client.process.send_signal(signal.SIGTERM)
        assert client.process.communicate(timeout=30) == (b"", b"")


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "app.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert ran.returncode == 2
    assert "output/imdb.onnx" in ran.stderr
    assert "scripts/demo makes it" in ran.stderr


def test_it_imports_the_runtime_alone(words: Path, sums: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it does: Python tells of every module that the serving process imports."""
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    with (tmp_path / "imported").open("wb") as stderr, served(words, "--stream", sums, stderr=stderr) as client:
        assert client("POST", "/classify", {"texts": ["good"]})[0] == 200
        name = client.open()
        assert client.step(name, 1) == [1]
        state = client("GET", f"/streams/{name}/state")[1]
        assert client("PUT", f"/streams/{name}/state", state)[0] == 204
        assert client("DELETE", f"/streams/{name}")[0] == 204
        assert client("GET", "/statistics")[0] == 200
        client.process.send_signal(signal.SIGTERM)
        client.process.wait(30)
    told = (tmp_path / "imported").read_text(encoding="utf-8").splitlines()
    imported = {line.rpartition("|")[2].strip() for line in told if line.startswith("import time:")}
    rooms = {name.split(".")[1] for name in imported if name.startswith("edgeseq.")}
    assert rooms == {"errors", "files", "runtime"}
    assert not {name.partition(".")[0] for name in imported} & {"onnx", "tensorflow", "keras", "typer"}
