"""What an open session says of its inputs and outputs: to check a manifest against, or to make one where none is."""

from __future__ import annotations

from typing import Any

from edgeseq.errors import InvalidFile
from edgeseq.files import StrPath
from edgeseq.runtime import structure
from edgeseq.runtime.manifest import Manifest, Structure, TensorSpec

_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bool)": "bool",
    **{f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}
_AXES = ("batch", "time")


def describe(path: StrPath, session: Any) -> Manifest:
    """A manifest for a model that carries none: a single input or output stands alone, several form a list.

    Free axes keep the names the file gives them; a nameless one is called by its place, ``batch``, ``time``,
    ``axis_2`` and so on, and numbered (``batch_2``) where that name is taken, since its length may differ.

    Raises InvalidFile when an input or output is not a tensor of numbers or Booleans.
    """
    arguments = [*session.get_inputs(), *session.get_outputs()]
    used = {axis for argument in arguments for axis in argument.shape if isinstance(axis, str)}
    renamed: dict[str, str] = {}

    def name_of(axis: str | int | None, place: int) -> str | int:
        # tf2onnx writes nameless axes as unk__7: equal numbers are equal lengths.
        if isinstance(axis, int) or (axis and not axis.startswith("unk__")):
            return axis
        if axis in renamed:
            return renamed[axis]
        base = _AXES[place] if place < len(_AXES) else f"axis_{place}"
        name, number = base, 2
        while name in used:
            name, number = f"{base}_{number}", number + 1
        used.add(name)
        if axis:
            renamed[axis] = name
        return name

    specs = [
        TensorSpec(
            name=argument.name,
            dtype=_dtype(path, argument),
            axes=tuple(name_of(axis, place) for place, axis in enumerate(argument.shape)),
        )
        for argument in arguments
    ]
    count = len(session.get_inputs())
    inputs, outputs = tuple(specs[:count]), tuple(specs[count:])
    return Manifest(inputs=inputs, outputs=outputs, input_structure=_flat(inputs), output_structure=_flat(outputs))


def check(path: StrPath, session: Any, manifest: Manifest) -> None:
    """Raise InvalidFile unless `manifest` and the graph have the same inputs and outputs."""
    states_in = [state.input_spec for state in manifest.states]
    states_out = [state.output_spec for state in manifest.states]
    for what, specs, arguments in (
        ("input", [*manifest.inputs, *states_in], session.get_inputs()),
        ("output", [*manifest.outputs, *states_out], session.get_outputs()),
    ):
        # The rank of an output is not compared: a graph need not state it.
        graph = {argument.name: (_dtype(path, argument), len(argument.shape)) for argument in arguments}
        for spec in specs:
            if spec.name not in graph:
                raise InvalidFile(path, f"its manifest names the {what} '{spec.name}', which the graph has not")
            dtype, rank = graph.pop(spec.name)
            if dtype != spec.dtype or (what == "input" and rank != len(spec.axes)):
                raise InvalidFile(
                    path,
                    f"its manifest says that the {what} '{spec.name}' is {spec.dtype} with {len(spec.axes)} axes; "
                    f"in the graph it is {dtype} with {rank}",
                )
        if what == "input" and graph:
            raise InvalidFile(path, f"its manifest does not name the input '{next(iter(graph))}' of the graph")
    named = {axis for spec in manifest.inputs for axis in spec.axes if isinstance(axis, str)}
    for state in manifest.states:
        unknown = [axis for axis in state.axes if isinstance(axis, str) and axis not in named]
        if unknown:
            raise InvalidFile(path, f"the axis '{unknown[0]}' of the state '{state.input}' is of no input")
    _check_structure(path, "input", manifest.inputs, manifest.input_structure)
    _check_structure(path, "output", manifest.outputs, manifest.output_structure)


def _check_structure(path: StrPath, what: str, specs: tuple[TensorSpec, ...], nested: Structure) -> None:
    try:
        found = set(structure.names(nested))
    except ValueError as error:
        raise InvalidFile(path, f"its manifest's {what} structure is damaged ({error})") from error
    if found != {spec.name for spec in specs}:
        raise InvalidFile(path, f"its manifest's {what} structure holds {sorted(found)}, not the {what}s' names")


def _flat(specs: tuple[TensorSpec, ...]) -> Structure:
    return specs[0].name if len(specs) == 1 else [spec.name for spec in specs]


def _dtype(path: StrPath, argument: Any) -> str:
    if argument.type not in _DTYPES:
        raise InvalidFile(path, f"'{argument.name}' is a {argument.type}; edgeseq runs tensors of numbers and Booleans")
    return _DTYPES[argument.type]
