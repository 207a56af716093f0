"""Networks in the files of others: TorchScript, ONNX and OpenVINO, each behind one small class.

What each gives is a `Runtime`: float32 in, float32 out, and the input's shape where the file fixes it. It computes in
float32, but for operators that the file itself wants in 8 bits, and for bfloat16 where a card asks OpenVINO for it.
"""

from __future__ import annotations

import ast
import io
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from inspection_core.device import Device, threads
from inspection_core.errors import ModelError
from inspection_core.models.compiled import openvino_core

if TYPE_CHECKING:
    import torch

EXTRA = 'pip install "inspection-suite[export]"'
Shape = tuple[int | None, ...]

REFUSED_OPERATORS = frozenset(
    {"from_file", "load", "pickle_save", "_pickle_save", "rpc_async", "rpc_remote", "rpc_sync", "save", "set_"}
)
"""Operators of TorchScript that read or write files, call other machines, or look at memory by address."""
OPERATORS = frozenset(
    f"ops.prim.{name}"
    for name in (
        "NumToTensor", "RaiseException", "abs", "data", "device", "dtype", "is_cuda", "layout", "max", "min"
    )
)  # fmt: skip
"""All that a program may use of ``ops``: numbers, what is said of a tensor, and an end with an error. Traced and
scripted networks use them; what else torch registers there may hand work to other code, or other machines."""
MAX_CODE = 64 << 20


class Runtime(Protocol):
    """A network that was read from a file."""

    shape: Shape | None
    """Shape of the input ``(B, C, *spatial)``, None for each axis that is free; None where the file does not say."""

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        """Open a file whose hash is known to be right; `precision` is the card's."""
        ...

    def __call__(self, batch: torch.Tensor) -> Any:
        """Return what the network gives for a float32 batch: a tensor, or several in a list or tuple."""
        ...

    def to(self, device: Device) -> None:
        """Move the network to another device, where its runtime can."""
        ...


class TorchScript:
    """A ``torch.jit`` archive.

    Such a file is a program. It is run by torch's own interpreter, which knows no Python, but some operators reach
    files; `check_torchscript` refuses archives that use one.
    """

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        data = path.read_bytes()
        check_torchscript(data, path)
        self.shape: Shape | None = None
        self.module = load_torchscript(data, str(path))

    def __call__(self, batch: torch.Tensor) -> Any:
        """Return what the network gives; see `Runtime`."""
        return self.module(batch)

    def to(self, device: Device) -> None:
        """Move the network to another device."""
        self.module.to(device.torch)


class Onnx:
    """An ONNX file in ONNX Runtime, on the CPU."""

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        try:
            import onnx
            import onnxruntime
        except ImportError:
            raise ModelError(f"{path} is an ONNX file, and ONNX Runtime is not installed: {EXTRA}.") from None
        data = path.read_bytes()
        try:
            model = onnx.load_model_from_string(data)
        except Exception as error:
            raise ModelError(f"{path} is no ONNX file that can be read: {_line(error)}.") from error
        if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(model.graph)):
            raise ModelError(
                f"{path} keeps weights in other files, which its hash does not cover. Save it as one file."
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads()
        options.log_severity_level = 3
        try:
            self.session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise ModelError(f"{path} cannot be run by ONNX Runtime: {_line(error)}.") from error
        inputs = self.session.get_inputs()
        if len(inputs) != 1 or inputs[0].type != "tensor(float)":
            got = ", ".join(f"{i.name}: {i.type}" for i in inputs)
            raise ModelError(f"{path} must take one float32 tensor. It takes {got}.")
        self._name = inputs[0].name
        self.shape: Shape | None = tuple(n if isinstance(n, int) and n > 0 else None for n in inputs[0].shape)

    def __call__(self, batch: torch.Tensor) -> Any:
        """Return what the network gives; see `Runtime`."""
        import torch

        return [torch.from_numpy(given) for given in self.session.run(None, {self._name: batch.cpu().numpy()})]

    def to(self, device: Device) -> None:
        """Stay on the CPU."""


class OpenVino:
    """An OpenVINO model, ``.xml`` with its ``.bin``, on the CPU, in float32, or in bfloat16 where it is asked for."""

    def __init__(self, path: Path, precision: str = "fp32") -> None:
        try:
            import openvino
        except ImportError:
            raise ModelError(f"{path} is an OpenVINO model, and OpenVINO is not installed: {EXTRA}.") from None
        core = openvino_core()
        # Else processors with bfloat16 use it unasked, and two machines differ.
        hint = "bf16" if precision == "bf16" else "f32"
        settings = {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
        settings["INFERENCE_NUM_THREADS"] = str(threads())
        try:
            model = core.read_model(path)
            self.model = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise ModelError(f"{path} cannot be run by OpenVINO: {_line(error)}.") from error
        if len(model.inputs) != 1 or model.input().element_type != openvino.Type.f32:
            got = ", ".join(str(i.element_type) for i in model.inputs)
            raise ModelError(f"{path} must take one float32 tensor. It takes {got}.")
        self.shape: Shape | None = tuple(n.get_length() if n.is_static else None for n in model.input().partial_shape)

    def __call__(self, batch: torch.Tensor) -> Any:
        """Return what the network gives; see `Runtime`."""
        import torch

        given = self.model(batch.cpu().numpy())
        return [torch.from_numpy(given[k].copy()) for k in range(len(self.model.outputs))]

    def to(self, device: Device) -> None:
        """Stay on the CPU."""


def load_torchscript(data: bytes, where: str) -> torch.nn.Module:
    """Load a TorchScript archive, whatever it does.

    Raises
    ------
    ModelError
        If it is none; `where` names it.
    """
    import torch

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather have torch.export; files of TorchScript are around
            module = cast("Any", torch.jit).load(io.BytesIO(data), map_location="cpu").eval()
    except (RuntimeError, ValueError) as error:
        raise ModelError(f"{where} is no TorchScript file that this torch can read: {_line(error)}.") from error
    return cast("torch.nn.Module", module)


def weights_of(path: Path) -> Path:
    """Return the file that holds the weights of an OpenVINO model."""
    return path.with_suffix(".bin")


def check_torchscript(data: bytes, path: Path) -> None:
    """Refuse a TorchScript archive that uses operators which do more than compute.

    Raises
    ------
    ModelError
        If it does, or if its code cannot be read.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".py") and "/code/" in m.filename]
            if sum(m.file_size for m in members) > MAX_CODE:
                raise ModelError(f"{path} holds more than {MAX_CODE >> 20} MiB of code.")
            texts = [archive.read(m).decode("utf-8") for m in members]
    except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} is no TorchScript file: {error}.") from error
    if not texts:
        raise ModelError(f"{path} is no TorchScript file: it holds no code. Save it with torch.jit.save.")
    for text in texts:
        try:
            tree = ast.parse(text)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ModelError(f"The code in {path} cannot be read: {error}.") from error
        for used in _dotted(tree):
            root, *parts = used.split(".")
            foreign = root == "ops" and used not in OPERATORS
            if foreign or "torch.classes" in used or (root == "torch" and REFUSED_OPERATORS & set(parts)):
                raise ModelError(
                    f"{path} uses {used}, which does more than compute, or does not come with torch. "
                    "Export the network anew, to ONNX if you can."
                )


def _dotted(tree: ast.AST) -> Iterator[str]:
    """Yield every dotted name, whole: of ``ops.prim.abs`` not its beginning ``ops.prim`` too."""
    beginnings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if id(node) in beginnings:
            continue
        parts = []
        inner: ast.AST = node
        while isinstance(inner, ast.Attribute):
            parts.append(inner.attr)
            inner = inner.value
        if isinstance(inner, ast.Name) and (parts or inner.id == "ops"):
            yield ".".join([inner.id, *reversed(parts)])


def _tensors(graph: Any) -> Iterator[Any]:
    """Yield every tensor that an ONNX graph holds, those of its branches and loops too."""
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    for node in graph.node:
        for attribute in node.attribute:
            yield from ([attribute.t] if attribute.HasField("t") else [])
            yield from attribute.tensors
            for inner in ([attribute.g] if attribute.HasField("g") else []) + list(attribute.graphs):
                yield from _tensors(inner)


RUNTIMES: Mapping[str, type[Runtime]] = {"torchscript": TorchScript, "onnx": Onnx, "openvino": OpenVino}
"""Architecture -> what opens its file."""


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__
