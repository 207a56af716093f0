"""The ``$`` expressions of bundles, evaluated without `eval`: a small part of Python, walked by hand.

Numbers, text, lists, dictionaries, arithmetic, comparisons, conditions, comprehensions, lambdas, references to other
entries, and the functions and methods listed here. Everything else is refused by name. None of what is listed reads or
writes files, starts programs or imports anything.
"""

from __future__ import annotations

import ast
import copy
import functools
import math
import operator
import posixpath
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

import numpy as np
import torch

from inspection_core.errors import ModelError

REFERENCE = re.compile(r"@(\w+(?:(?:#|::)\w+)*)")
"""``@entry``, ``@entry#key`` and ``@entry::key``."""

MAX_ITEMS = 1_000_000
"""Items of a list or letters of a text that an expression may make."""
MAX_POWER = 1_024
MAX_LENGTH = 10_000

_TORCH = (
    "abs argmax bfloat16 bool cat ceil clamp clip cuda.is_available device empty_like exp flip float float16 float32 "
    "float64 floor from_numpy full_like half int int16 int32 int64 isfinite log log_softmax logical_and logical_not "
    "logical_or long max maximum mean min minimum nan_to_num nn.functional.one_hot nn.functional.sigmoid "
    "nn.functional.softmax ones_like permute prod round sigmoid softmax sqrt squeeze stack std sum tensor transpose "
    "uint8 unsqueeze where zeros_like"
)
_NUMPY = (
    "abs argmax array asarray bool_ ceil clip concatenate exp expand_dims float16 float32 float64 floor int8 "
    "int16 int32 int64 isfinite log max maximum mean min minimum moveaxis nan_to_num ones_like pi prod round sqrt "
    "squeeze stack sum transpose uint8 uint16 uint32 where zeros_like"
)


def _found(root: Any, names: str, prefix: str) -> dict[str, Any]:
    return {f"{prefix}.{n}": functools.reduce(getattr, n.split("."), root) for n in names.split()}


FUNCTIONS: Mapping[str, Any] = {
    **_found(torch, _TORCH, "torch"),
    **_found(np, _NUMPY, "numpy"),
    **_found(np, _NUMPY, "np"),
    **_found(math, "ceil floor sqrt log exp pi inf prod", "math"),
    "os.path.join": posixpath.join,
    "os.path.basename": posixpath.basename,
    "os.path.dirname": posixpath.dirname,
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
    **{f.__name__: f for f in (abs, all, any, bool, dict, enumerate, float, int, len, list, max, min, range, reversed,
                               round, set, sorted, str, sum, tuple, zip)},
}  # fmt: skip
"""Names that an expression may use, with what they are."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


METHODS: Mapping[type, frozenset[str]] = {
    torch.Tensor: _words(
        "abs all any argmax amax amin bool byte clamp clip clone contiguous cpu detach dim dtype expand flatten float "
        "flip half int item logical_not long max mean min mul ndim numel permute reshape round shape sigmoid size "
        "softmax squeeze sum swapaxes to transpose type unsqueeze view"
    ),
    torch.nn.Module: frozenset({"to", "eval", "float", "half", "cpu", "cuda"}),
    np.ndarray: _words("astype clip dtype max mean min ndim reshape shape squeeze sum transpose"),
    dict: frozenset({"get", "items", "keys", "values"}),
    str: frozenset({"endswith", "lower", "split", "startswith", "strip", "upper"}),
    list: frozenset({"copy", "index", "count"}),
    tuple: frozenset({"index", "count"}),
    torch.device: frozenset({"type", "index"}),
    torch.Size: frozenset({"numel"}),
}
"""Attributes and methods that may be taken of a value."""

_BINARY: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: operator.pow,
    ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor,
}  # fmt: skip
_UNARY: Mapping[type, Callable[[Any], Any]] = {
    ast.USub: operator.neg, ast.UAdd: operator.pos, ast.Not: operator.not_, ast.Invert: operator.invert,
}  # fmt: skip
_COMPARE: Mapping[type, Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt,
    ast.GtE: operator.ge, ast.Is: operator.is_, ast.IsNot: operator.is_not, ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
}  # fmt: skip


def evaluate(text: str, where: str, refer: Callable[[str], Any], functions: Mapping[str, Any] = FUNCTIONS) -> Any:
    """Return the value of an expression.

    Parameters
    ----------
    text
        Without the leading ``$``.
    where
        Names the entry in errors.
    refer
        Gives the value of a reference, named without its ``@``.
    functions
        As `FUNCTIONS`.

    Raises
    ------
    ModelError
        If it uses anything that is not known here, or fails.
    """
    if len(text) > MAX_LENGTH:
        raise ModelError(f"{where}: an expression has at most {MAX_LENGTH} letters. Got {len(text)}.")
    references: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        references[f"__reference_{len(references)}"] = match[1].replace("::", "#")
        return f"__reference_{len(references) - 1}"

    try:
        tree = ast.parse(REFERENCE.sub(name, text).strip(), mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise ModelError(f"{where} is no expression: {text[:80]!r}.") from error
    values = {key: functools.cache(functools.partial(refer, entry)) for key, entry in references.items()}
    walker = _Walker(where, values, functions)
    try:
        return walker.value(tree.body, {})
    except ModelError:
        raise
    except RecursionError as error:
        raise ModelError(f"{where} is nested too deeply to be evaluated.") from error
    except Exception as error:
        raise ModelError(f"{where} cannot be evaluated: {error}.") from error


class _Walker:
    def __init__(self, where: str, references: Mapping[str, Callable[[], Any]], functions: Mapping[str, Any]) -> None:
        self.where = where
        self.references = references
        self.functions = functions

    def refuse(self, what: str) -> NoReturn:
        raise ModelError(
            f"{self.where} uses {what}, which is not among what bundles may use. Read the bundle; if you trust who "
            "made it, use --trust-bundle."
        )

    def value(self, node: ast.AST, names: Mapping[str, Any]) -> Any:
        method = getattr(self, f"_{type(node).__name__.lower()}", None)
        if method is None:
            self.refuse(f"Python's {type(node).__name__}")
        return method(node, names)

    def _constant(self, node: ast.Constant, names: Mapping[str, Any]) -> Any:
        return node.value

    def _list(self, node: ast.List, names: Mapping[str, Any]) -> Any:
        return [self.value(n, names) for n in node.elts]

    def _tuple(self, node: ast.Tuple, names: Mapping[str, Any]) -> Any:
        return tuple(self.value(n, names) for n in node.elts)

    def _set(self, node: ast.Set, names: Mapping[str, Any]) -> Any:
        return {self.value(n, names) for n in node.elts}

    def _dict(self, node: ast.Dict, names: Mapping[str, Any]) -> Any:
        if None in node.keys:
            self.refuse("** in a dictionary")
        pairs = zip(node.keys, node.values, strict=True)
        return {self.value(k, names): self.value(v, names) for k, v in pairs if k is not None}

    def _name(self, node: ast.Name, names: Mapping[str, Any]) -> Any:
        if node.id in names:
            return names[node.id]
        if node.id in self.references:
            return self.references[node.id]()
        if node.id in self.functions:
            return self._bounded(node.id)
        return self.refuse(f"the name {node.id!r}")

    def _bounded(self, name: str) -> Any:
        if name == "range":
            return lambda *a: self.sized(range(*a))
        return self.functions[name]

    def sized(self, value: Any) -> Any:
        if isinstance(value, (list, tuple, str, bytes, range)) and len(value) > MAX_ITEMS:
            self.refuse(f"more than {MAX_ITEMS} items")
        return value

    def _attribute(self, node: ast.Attribute, names: Mapping[str, Any]) -> Any:
        dotted = _dotted(node)
        if dotted is not None and dotted.split(".")[0] not in {*names, *self.references}:
            if dotted in self.functions:
                return self.functions[dotted]
            # A constant's own method, such as torch.float32.itemsize, has no use here.
            self.refuse(f"{dotted!r}")
        value = self.value(node.value, names)
        for kind, known in METHODS.items():
            if isinstance(value, kind) and node.attr in known:
                return getattr(value, node.attr)
        return self.refuse(f".{node.attr} of a {type(value).__name__}")

    def _call(self, node: ast.Call, names: Mapping[str, Any]) -> Any:
        function = self.value(node.func, names)
        arguments: list[Any] = []
        for a in node.args:
            if isinstance(a, ast.Starred):
                arguments += self.value(a.value, names)
            else:
                arguments.append(self.value(a, names))
        if any(k.arg is None for k in node.keywords):
            self.refuse("** in a call")
        return self.sized(function(*arguments, **{str(k.arg): self.value(k.value, names) for k in node.keywords}))

    def _binop(self, node: ast.BinOp, names: Mapping[str, Any]) -> Any:
        left, right = self.value(node.left, names), self.value(node.right, names)
        kind = type(node.op)
        if kind not in _BINARY:
            self.refuse(f"Python's {kind.__name__}")
        for one, other in ((left, right), (right, left)):
            if kind is ast.Mult and isinstance(one, (list, tuple, str, bytes)) and isinstance(other, int):
                self.sized(range(len(one) * max(0, other)))
        if kind is ast.Pow and (not isinstance(right, (int, float)) or abs(right) > MAX_POWER or abs_of(left) > 1e6):
            self.refuse(f"a power beyond {MAX_POWER}")
        if kind is ast.Mod and isinstance(left, (str, bytes)):
            self.refuse("% on text")
        return self.sized(_BINARY[kind](left, right))

    def _unaryop(self, node: ast.UnaryOp, names: Mapping[str, Any]) -> Any:
        return _UNARY[type(node.op)](self.value(node.operand, names))

    def _boolop(self, node: ast.BoolOp, names: Mapping[str, Any]) -> Any:
        stop = isinstance(node.op, ast.Or)
        result: Any = None
        for part in node.values:
            result = self.value(part, names)
            if bool(result) is stop:
                break
        return result

    def _compare(self, node: ast.Compare, names: Mapping[str, Any]) -> Any:
        left = self.value(node.left, names)
        result: Any = True
        for kind, part in zip(node.ops, node.comparators, strict=True):
            right = self.value(part, names)
            result = _COMPARE[type(kind)](left, right)
            if len(node.ops) > 1 and not result:
                return result
            left = right
        return result

    def _ifexp(self, node: ast.IfExp, names: Mapping[str, Any]) -> Any:
        return self.value(node.body if self.value(node.test, names) else node.orelse, names)

    def _subscript(self, node: ast.Subscript, names: Mapping[str, Any]) -> Any:
        return self.value(node.value, names)[self.value(node.slice, names)]

    def _slice(self, node: ast.Slice, names: Mapping[str, Any]) -> slice:
        return slice(*(None if n is None else self.value(n, names) for n in (node.lower, node.upper, node.step)))

    def _lambda(self, node: ast.Lambda, names: Mapping[str, Any]) -> Callable[..., Any]:
        args = node.args
        if args.vararg or args.kwarg or args.kwonlyargs or args.defaults or args.posonlyargs:
            self.refuse("a lambda with other than plain arguments")
        wanted = [a.arg for a in args.args]

        def function(*given: Any) -> Any:
            if len(given) != len(wanted):
                raise ModelError(f"{self.where}: its lambda takes {len(wanted)} arguments. Got {len(given)}.")
            return self.value(node.body, {**names, **dict(zip(wanted, given, strict=True))})

        return function

    def _listcomp(self, node: ast.ListComp, names: Mapping[str, Any]) -> Any:
        return self.sized([self.value(node.elt, inner) for inner in self._loops(node.generators, names)])

    def _generatorexp(self, node: ast.GeneratorExp, names: Mapping[str, Any]) -> Any:
        return self.sized([self.value(node.elt, inner) for inner in self._loops(node.generators, names)])

    def _dictcomp(self, node: ast.DictComp, names: Mapping[str, Any]) -> Any:
        return {self.value(node.key, i): self.value(node.value, i) for i in self._loops(node.generators, names)}

    def _loops(self, loops: list[ast.comprehension], names: Mapping[str, Any]) -> list[Mapping[str, Any]]:
        found: list[Mapping[str, Any]] = [names]
        for loop in loops:
            grown: list[Mapping[str, Any]] = []
            for outer in found:
                for item in self.value(loop.iter, outer):
                    inner = {**outer, **self._bind(loop.target, item)}
                    if all(self.value(test, inner) for test in loop.ifs):
                        grown.append(inner)
                    if len(grown) > MAX_LENGTH:
                        self.refuse(f"a loop of more than {MAX_LENGTH} turns")
            found = grown
        return found

    def _bind(self, target: ast.AST, item: Any) -> dict[str, Any]:
        if isinstance(target, ast.Name):
            return {target.id: item}
        if isinstance(target, ast.Tuple):
            bound: dict[str, Any] = {}
            for part, value in zip(target.elts, item, strict=True):
                bound |= self._bind(part, value)
            return bound
        return self.refuse(f"a loop over {type(target).__name__}")


def abs_of(value: Any) -> float:
    """Return the size of a number; 0 of what is none, such as a tensor."""
    return abs(value) if isinstance(value, (int, float)) else 0.0


def _dotted(node: ast.AST) -> str | None:
    """Return ``a.b.c`` of a chain of attributes of a name, else None."""
    parts = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name):
        return None
    return ".".join([node.id, *reversed(parts)])
