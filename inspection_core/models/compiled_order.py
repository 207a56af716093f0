"""When a network that OpenVINO compiled reads its input and writes its output: whether one memory can hold both.

A U-Net reads its input in its first layers and writes its output in the last. OpenVINO runs the nodes of a graph one
after the other, and tells their order; so it can be known, without a trial, that nothing reads the input any more once
anything is written to the output.
"""

from __future__ import annotations

from typing import Any

WRITES_ANEW = ("Convolution", "Deconvolution")
"""Nodes whose output never lies in the memory of their first input. It may lie in that of a later one, which is what is
added to the result. Of any other node, an output may be a view of any input, or written over it."""


def reads_first(compiled: Any) -> bool:
    """Tell whether an ``openvino.CompiledModel`` has read all of its input before it writes any of its output.

    Whoever may look at the input, or at a view of it, counts as a reader; whoever may write the output, or what becomes
    the output without a copy, as a writer. Where that cannot be told, as of several inputs, the answer is no.
    """
    if len(compiled.inputs) != 1 or len(compiled.outputs) != 1:
        return False
    try:
        nodes = {_place(node): node for node in compiled.get_runtime_model().get_ordered_ops()}
    except (RuntimeError, KeyError, ValueError):  # of a version of OpenVINO that does not tell the order
        return False
    sources = {at: [_place(port.get_node()) for port in node.input_values()] for at, node in nodes.items()}
    fixed: set[int] = set()  # constants, and what follows from them alone
    for at, node in nodes.items():  # each after its sources
        if node.get_type_name() != "Parameter" and fixed.issuperset(sources[at]):
            fixed.add(at)
    edges = [
        (source, at, _kind(nodes[at]) not in WRITES_ANEW or port > 0)
        for at in nodes
        for port, source in enumerate(sources[at])
        if source not in fixed
    ]
    first = [at for at, node in nodes.items() if node.get_type_name() == "Parameter"]
    last = [at for at, node in nodes.items() if node.get_type_name() == "Result"]
    views = _reached(first, [(source, at) for source, at, shared in edges if shared])
    readers = {at for source, at, _ in edges if source in views}
    written = [source for source, at, _ in edges if at in last]
    writers = _reached(written, [(at, source) for source, at, shared in edges if shared])
    return bool(readers and writers) and max(readers) < min(writers)


def _reached(start: list[int], ways: list[tuple[int, int]]) -> set[int]:
    """Return where ways lead from a start, the start included."""
    reached, grown = set(start), True
    while grown:
        more = {end for begin, end in ways if begin in reached} - reached
        grown = bool(more)
        reached |= more
    return reached


def _place(node: Any) -> int:
    """Return the place of a node in the order that OpenVINO runs them in; no two have the same."""
    return int(_told(node, "execOrder"))


def _kind(node: Any) -> str:
    return _told(node, "layerType")


def _told(node: Any, key: str) -> str:
    return str(node.get_rt_info()[key].astype(str))
