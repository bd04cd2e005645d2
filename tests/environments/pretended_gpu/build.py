"""Compile what pretends a GPU: python build.py FOLDER PYTHON, where PYTHON has onnxruntime-gpu and its libraries.

Prints the environment variables under which PYTHON finds it, as JSON. Needs a C compiler and nm; exits with 3 and says
which is missing.
"""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

SOURCES = Path(__file__).parent
# All that onnxruntime's TensorRT provider names of TensorRT: enough for it to load, and not more.
TENSORRT = {
    "libnvinfer.so.10": (
        "createInferBuilder_INTERNAL",
        "createInferRefitter_INTERNAL",
        "createInferRuntime_INTERNAL",
        "getInferLibVersion",
        "getPluginRegistry",
    ),
    "libnvonnxparser.so.10": ("createNvOnnxParser_INTERNAL", "createNvOnnxParserRefitter_INTERNAL"),
}


def tool(*names: str) -> str:
    """The path of the first that there is."""
    for name in names:
        if found := shutil.which(name):
            return found
    sys.stderr.write(f"no {names[0]} to pretend a GPU with\n")
    sys.exit(3)


def build(target: Path, source: Path) -> None:
    """One library."""
    command = [tool("cc", "gcc"), "-w", "-shared", "-fPIC", f"-Wl,-soname,{target.name}", "-o", target, source]
    subprocess.run(command, check=True)


def main() -> None:
    folder, python = Path(sys.argv[1]), Path(sys.argv[2])
    [cudnn] = python.parent.parent.glob("lib/python*/site-packages/nvidia/cudnn/lib/libcudnn.so.9")
    command = [tool("nm"), "-D", "--defined-only", cudnn]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    known = (SOURCES / "cudnn.c").read_text(encoding="utf-8")
    names = {name for name in re.findall(r" [TW] (cudnn\w+)", listed) if f"{name}(" not in known}
    made = "int {0}(void **made) {{ *made = calloc(1, 4096); return 0; }}"
    bodies = [(made if "Create" in name else "int {0}(void) {{ return 0; }}").format(name) for name in sorted(names)]
    (folder / "cudnn.c").write_text("\n".join([known, *bodies]), encoding="utf-8")
    build(folder / "libcudnn.so.9", folder / "cudnn.c")
    build(folder / "runtime.so", SOURCES / "runtime.c")
    build(folder / "libcuda.so.1", SOURCES / "driver.c")
    for library, functions in TENSORRT.items():
        source = folder / f"{library}.c"
        source.write_text("\n".join(f"void *{name}(void) {{ return 0; }}" for name in functions), encoding="utf-8")
        build(folder / library, source)
    variables = {
        "LD_LIBRARY_PATH": str(folder),
        "LD_PRELOAD": str(folder / "runtime.so"),
        "DRIVER_CUDA": "99000",
        "DRIVER_DEVICES": "1",
    }
    print(json.dumps(variables))


if __name__ == "__main__":
    main()
