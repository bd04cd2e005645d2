"""ONNX files as their users run them, in onnxruntime with its defaults; and tf2onnx's command line that makes one."""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from rival_libraries.rival import Failed, Opened, Rival

DTYPES = {"tensor(float)": np.float32, "tensor(int32)": np.int32, "tensor(int64)": np.int64}


def open_onnx(case, path, inputs, threads):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    wanted, *states = session.get_inputs()
    feed = {wanted.name: inputs.astype(DTYPES[wanted.type])}
    # edgeseq's files take the states of stateful layers after the inputs; all begin at zero.
    for state in states:
        shape = [len(inputs) if isinstance(axis, str) else axis for axis in state.shape]
        feed[state.name] = np.zeros(shape, DTYPES[state.type])
    # The states that they end in come after the answers.
    names = [output.name for output in session.get_outputs()][: 1 + len(states)]
    loops = loop_ops(path)
    notes = (f"holds {loops} Loop or Scan",) if loops else ()
    returns_states = bool(states) or not case.states
    return Opened(call=lambda: session.run(names, feed)[0], notes=notes, returns_states=returns_states)


def loop_ops(path):
    """How many Loop and Scan nodes the file holds, in its subgraphs and functions too."""
    import onnx

    def count(nodes):
        inner = [attribute.g.node for node in nodes for attribute in node.attribute if attribute.HasField("g")]
        return sum(node.op_type in ("Loop", "Scan") for node in nodes) + sum(map(count, inner))

    model = onnx.load(path, load_external_data=False)
    return count(model.graph.node) + sum(count(function.node) for function in model.functions)


def tf2onnx_command(case, path, *_):
    arguments = ["--saved-model", str(case.saved_model()), "--output", str(path), "--opset", "18"]
    done = subprocess.run([sys.executable, "-m", "tf2onnx.convert", *arguments], capture_output=True, text=True)
    if done.returncode or not path.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise Failed(f"python -m tf2onnx.convert: {lines[-1] if lines else done.returncode}")


RIVALS = (Rival(name="tf2onnx", provider="onnxruntime", open=open_onnx, convert=tf2onnx_command, file="tf2onnx.onnx"),)
