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
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgeseq.runtime import Model
from edgeseq.runtime.manifest import Manifest, StateSpec, TensorSpec

REPOSITORY = Path(__file__).resolve().parents[1]
for package in ("starlette", "uvicorn"):
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"needs {package}: pip install 'edgeseq[app]'", allow_module_level=True)

TEXT = {
    "kind": "text", "lowercase": True, "filters": "!", "split": " ", "vocabulary": ["good", "bad"], "first_id": 1,
    "pad_id": 0, "unknown_id": 9, "start_id": None, "length": 3, "padding": "pre", "truncating": "pre",
}  # fmt: skip


def save(path: Path, nodes: list[Any], manifest: Manifest, weights: dict[str, Any]) -> Path:
    def value(name: str, spec: Any) -> Any:
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(np.dtype(spec.dtype)), spec.axes)

    graph = helper.make_graph(
        nodes,
        "graph",
        [value(it.name, it) for it in manifest.inputs] + [value(it.input, it) for it in manifest.states],
        [value(it.name, it) for it in manifest.outputs] + [value(it.output, it) for it in manifest.states],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    helper.set_model_props(model, {"edgeseq": manifest.to_json()})
    onnx.save(model, path)
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ids of three words, times two."""
    manifest = Manifest(
        inputs=(TensorSpec(name="ids", dtype="int32", axes=("batch", 3)),),
        outputs=(TensorSpec(name="y", dtype="int32", axes=("batch", 3)),),
        input_structure="ids",
        output_structure="y",
        preprocessing={"inputs": {"ids": TEXT}},
    )
    path = tmp_path_factory.mktemp("app") / "words.onnx"
    return save(path, [helper.make_node("Add", ["ids", "ids"], ["y"])], manifest, {})


@pytest.fixture(scope="module")
def sums(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`y` (batch, time) sums up x so far."""
    manifest = Manifest(
        inputs=(TensorSpec(name="x", dtype="float32", axes=("batch", "time")),),
        outputs=(TensorSpec(name="y", dtype="float32", axes=("batch", "time")),),
        input_structure="x",
        output_structure="y",
        states=(StateSpec(input="state_in", output="state_out", dtype="float32", axes=("batch", 1)),),
        model_hash="sums",
    )
    nodes = [
        helper.make_node("CumSum", ["x", "one"], ["sums"]),
        helper.make_node("Add", ["sums", "state_in"], ["y"]),
        helper.make_node("Gather", ["y", "last"], ["state_out"], axis=1),
    ]
    path = tmp_path_factory.mktemp("app") / "sums.onnx"
    return save(path, nodes, manifest, {"one": np.int64(1), "last": np.array([-1])})


class Client:
    """Calls the service; each call is a connection of its own."""

    def __init__(self, port: int, process: subprocess.Popen[bytes]):
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
def served(*arguments: object) -> Iterator[Client]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, REPOSITORY / "scripts" / "app.py", *map(str, arguments), "--port", str(port)]
    paths = [str(REPOSITORY), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment)
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


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "scripts" / "app.py")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    ran = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=60)
    assert ran.returncode == 2
    assert "output/imdb.onnx" in ran.stderr
    assert "scripts/demo makes it" in ran.stderr


def test_it_imports_the_runtime_alone() -> None:
    source = (REPOSITORY / "scripts" / "app.py").read_text(encoding="utf-8")
    rooms = {line.split()[1] for line in source.splitlines() if line.startswith(("from edgeseq", "import edgeseq"))}
    assert rooms == {"edgeseq.errors", "edgeseq.runtime"}
