"""Print where onnxruntime places every node: JSON of [name, op type, provider] by file, None for one it refuses."""

import json
import os
import sys

import onnxruntime

onnxruntime.preload_dlls(cudnn=False)  # cuDNN is the pretended one
placed = {}
for path in sys.argv[1:]:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    options.log_severity_level = 4
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CUDAExecutionProvider"])
    except Exception as error:  # noqa: BLE001 (onnxruntime's errors have no other base)
        sys.stderr.write(f"{path}: {error}\n")
        placed[path] = None
        continue
    placed[path] = [
        [node.name, node.op_type, part.ep_name]
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]
print(json.dumps(placed), flush=True)
# Closing a session would ask for more of CUDA than is pretended.
os._exit(0)
