"""An HTTP service: it classifies raw reviews, and holds one stream for each client through a pool.

    POST   /classify            {"texts": [...]} -> {"answers": [...]}
    POST   /streams             -> 201 {"id": ...}; 503 when there is room for no more
    POST   /streams/ID/step     {"steps": ...}, an array of shape (time, ...) -> {"answer": ...}; 503 when it is overrun
    GET    /streams/ID/state    the state as bytes; PUT the same to go on from it, here or in another process
    DELETE /streams/ID
    GET    /statistics          what the pool has done

A client that is silent for --idle-seconds loses its stream. Errors are {"error": {"type": ..., "message": ...}}. One
process, so that a client finds its stream again; more of them need a router that sends a client to the same one.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import secrets
import sys
import time
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from edgeseq.errors import EdgeseqError, InputMismatch, InvalidState, StreamClosed, Unavailable, WrongUsage
from edgeseq.runtime import Model

# The first that fits: a closed stream is gone, a full pool is worth another try, what the client sent is its own fault;
# and a stream that has steps waiting, or a state that overflowed, is in no state for what was asked.
STATUS = {StreamClosed: 410, Unavailable: 503, InputMismatch: 400, InvalidState: 400, WrongUsage: 409}


class Service:
    """The endpoints; each returns plain data or bytes."""

    def __init__(self, classifier, pool, *, max_texts, max_bytes, idle_seconds):
        self.classifier, self.pool = classifier, pool
        self.max_texts, self.max_bytes, self.idle_seconds = max_texts, max_bytes, idle_seconds
        self.streams, self.used = {}, {}

    async def classify(self, request):
        if self.classifier is None:
            raise HTTPException(404, "no classifier was given")
        texts = (await self.read(request)).get("texts")
        if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
            raise HTTPException(400, "give {'texts': [...]}, one string or more")
        if len(texts) > self.max_texts:
            raise HTTPException(413, f"at most {self.max_texts} texts at a time, got {len(texts)}")
        # Off the event loop, which serves the others meanwhile: onnxruntime does not hold Python's lock.
        answers = await run_in_threadpool(self.classifier, texts, raw=True)
        return JSONResponse({"answers": plain(answers)})

    async def open(self, _):
        if self.pool is None:
            raise HTTPException(404, "no streaming file was given")
        name = secrets.token_urlsafe(16)
        # A pool's states are locked while it computes: off the event loop, too.
        self.streams[name] = await run_in_threadpool(self.pool.open)
        self.used[name] = time.monotonic()
        return JSONResponse({"id": name}, status_code=201)

    async def step(self, request):
        stream = self.find(request)
        content = await self.read(request)
        if "steps" not in content:
            raise HTTPException(400, "give {'steps': ...}, an array of shape (time, ...)")
        return JSONResponse({"answer": plain(await stream.afeed(content["steps"]))})

    async def read_state(self, request):
        state = await run_in_threadpool(self.find(request).to_bytes)
        return Response(state, media_type="application/octet-stream")

    async def write_state(self, request):
        stream = self.find(request)
        await run_in_threadpool(stream.restore, await self.body(request))
        return Response(status_code=204)

    async def close(self, request):
        self.find(request).close()
        del self.streams[request.path_params["id"]], self.used[request.path_params["id"]]
        return Response(status_code=204)

    async def statistics(self, _):
        return JSONResponse(dataclasses.asdict(self.pool.statistics()) if self.pool else None)

    def find(self, request):
        name = request.path_params["id"]
        if name not in self.streams:
            raise HTTPException(404, "there is no such stream, or it was silent for too long")
        self.used[name] = time.monotonic()
        return self.streams[name]

    async def body(self, request):
        content = b""
        async for part in request.stream():
            content += part
            if len(content) > self.max_bytes:
                raise HTTPException(413, f"at most {self.max_bytes} bytes at a time")
        return content

    async def read(self, request):
        try:
            content = json.loads(await self.body(request))
        except (ValueError, RecursionError) as error:
            raise HTTPException(400, f"the body is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise HTTPException(400, "the body must be a JSON object")
        return content

    async def forget_the_silent(self):
        while True:
            await asyncio.sleep(min(1.0, self.idle_seconds / 4))
            for name in [name for name, used in self.used.items() if time.monotonic() - used > self.idle_seconds]:
                self.streams.pop(name).close()
                del self.used[name]


def plain(answers):
    """Answers as JSON holds them: null for numbers that are not finite."""
    if isinstance(answers, dict):
        return {name: plain(value) for name, value in answers.items()}
    if isinstance(answers, (list, tuple)):
        return [plain(value) for value in answers]
    values = answers.tolist() if hasattr(answers, "tolist") else answers
    if isinstance(values, list):
        return plain(values)
    return None if isinstance(values, float) and not math.isfinite(values) else values


def told(status, kind, message):
    return JSONResponse({"error": {"type": kind, "message": message}}, status_code=status)


async def on_http_error(_, error):
    return told(error.status_code, "HTTPException", error.detail)


async def on_error(_, error):
    status = next((status for kind, status in STATUS.items() if isinstance(error, kind)), 500)
    return told(status, type(error).__name__, str(error))


async def on_hang_up(*_):
    # Nobody is there to read it.
    return Response(status_code=400)


async def on_fault(_, error):
    # The server logs it.
    return told(500, type(error).__name__, "a fault of the service, whose log tells more")


def application(classifier, pool, **limits):
    service = Service(classifier, pool, **limits)

    @contextlib.asynccontextmanager
    async def lifespan(_):
        task = asyncio.create_task(service.forget_the_silent())
        yield
        task.cancel()

    stream = "/streams/{id}"
    routes = [
        Route("/classify", service.classify, methods=["POST"]),
        Route("/streams", service.open, methods=["POST"]),
        Route(f"{stream}/step", service.step, methods=["POST"]),
        Route(f"{stream}/state", service.read_state, methods=["GET"]),
        Route(f"{stream}/state", service.write_state, methods=["PUT"]),
        Route(stream, service.close, methods=["DELETE"]),
        Route("/statistics", service.statistics, methods=["GET"]),
    ]
    handlers = {HTTPException: on_http_error, EdgeseqError: on_error, ClientDisconnect: on_hang_up, Exception: on_fault}
    return Starlette(routes=routes, exception_handlers=handlers, lifespan=lifespan)


def main():
    parser = argparse.ArgumentParser(
        prog="scripts/app", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("classifier", nargs="?", type=Path, help="file with preprocessing of texts (output/imdb.onnx)")
    parser.add_argument("--stream", type=Path, metavar="MODEL.onnx", help="file that was exported with --streaming")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--max-streams", type=int, default=1024)
    parser.add_argument("--max-queue", type=int, default=4096, help="steps that may wait")
    parser.add_argument("--max-texts", type=int, default=256, help="texts of a request")
    parser.add_argument("--max-bytes", type=int, default=4_000_000, help="bytes of a request")
    parser.add_argument("--idle-seconds", type=float, default=300.0)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        try:
            chosen = options.classifier or (None if options.stream else Path("output/imdb.onnx"))
            classifier = Model(chosen) if chosen else None
            pool = None
            if options.stream:
                made = Model(options.stream).pool(max_streams=options.max_streams, max_queue=options.max_queue)
                # When the server has answered its last request, and not before.
                pool = stack.enter_context(made)
        except EdgeseqError as error:
            hint = "" if options.classifier or options.stream else " scripts/demo makes it, or name a file: -h."
            print(f"error: {error}{hint}", file=sys.stderr)
            return error.exit_code
        app = application(
            classifier,
            pool,
            max_texts=options.max_texts,
            max_bytes=options.max_bytes,
            idle_seconds=options.idle_seconds,
        )
        # Ctrl-C and SIGTERM: no new requests, those that run are answered, then it ends.
        uvicorn.run(app, host=options.host, port=options.port, log_level="warning", timeout_graceful_shutdown=10)
    return 0


if __name__ == "__main__":
    sys.exit(main())
