"""A bundle's configuration, resolved entry by entry and only where it is needed.

The grammar is MONAI's: ``@entry`` refers, ``%entry`` copies, ``$`` begins an expression, and a dictionary with
``_target_`` builds something. What may be evaluated and built is said in `expressions` and `components`. Entries that
the suite has no use for, such as ``imports``, ``initialize`` and ``run``, are never looked at.
"""

from __future__ import annotations

import copy
import functools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from inspection_core.errors import ModelError
from inspection_core.models.bundle import components, expressions
from inspection_core.models.bundle.files import Files

NAMES = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
MAX_DEPTH = 64
_MACRO = re.compile(r"%(\w+(?:(?:#|::)\w+)*)")
_RESERVED = ("_target_", "_disabled_", "_requires_", "_mode_", "_desc_")
_MISSING = object()


class Config(Protocol):
    """Gives the values of entries."""

    data: Mapping[str, Any]
    """The configuration as it was read."""

    def get(self, entry: str, default: Any = None) -> Any:
        """Return the value of an entry, or of ``entry#key#...``; `default` where there is none."""
        ...


def read(files: Files) -> tuple[dict[str, Any], str]:
    """Return the inference configuration of a bundle and the name of its file.

    Raises
    ------
    ModelError
        If there is none, or it is no JSON or YAML.
    """
    name = next((n for n in NAMES if n in files.names), None)
    if name is None:
        raise ModelError(f"The bundle {files.path} has none of {', '.join(NAMES)}, which say how it is run.")
    where = f"{name} of {files.path}"
    data = parse(files.text(name), where)
    if not isinstance(data, dict):
        raise ModelError(f"{where} must be a table of entries. Got {type(data).__name__}.")
    _check_depth(data, where)
    return data, name


def parse(text: str, where: str) -> Any:
    """Return JSON or YAML text as plain data; aliases and tags of YAML build nothing."""
    try:
        if ".json" in where.split(" of ")[0]:
            return json.loads(text)
        return _yaml(text)
    except ImportError:
        raise ModelError(f'{where} needs PyYAML: pip install "inspection-suite[bundles]".') from None
    except ModelError:
        raise
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{where} is no valid JSON: {error}.") from error
    except Exception as error:
        if type(error).__module__.startswith("yaml"):
            raise ModelError(f"{where} is no valid YAML: {' '.join(str(error).split())}.") from error
        raise


def _yaml(text: str) -> Any:
    import yaml

    class Plain(yaml.SafeLoader):  # type: ignore[misc]
        """Builds plain data only; aliases of aliases would grow without limit, and no bundle needs them."""

        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.YAMLError("aliases are not read; write the entry out")
            return super().compose_node(parent, index)

    return yaml.load(text, Plain)  # noqa: S506 - a SafeLoader


def _check_depth(data: Any, where: str, depth: int = 0) -> None:
    if depth > MAX_DEPTH:
        raise ModelError(f"{where} is nested more than {MAX_DEPTH} deep.")
    for inner in data.values() if isinstance(data, dict) else data if isinstance(data, list) else ():
        _check_depth(inner, where, depth + 1)


class SafeConfig:
    """A configuration of which only what is known to be harmless is built.

    Parameters
    ----------
    data
        Plain data.
    where
        Names the file in errors.
    given
        Values of entries that the suite decides, such as ``device``, in place of the configuration's own.
    functions
        What some names mean here, in place of or beside those of `expressions.FUNCTIONS`.
    """

    def __init__(
        self, data: Mapping[str, Any], where: str, given: Mapping[str, Any], functions: Mapping[str, Any]
    ) -> None:
        self.data = data
        self.where = where
        self._values: dict[str, Any] = dict(given)
        self._open: list[str] = []
        self._functions = {**expressions.FUNCTIONS, **functions}

    def get(self, entry: str, default: Any = None) -> Any:
        """Return the value of an entry, built and evaluated; see `Config`."""
        return self.resolve(entry) if entry in self._values or entry.split("#")[0] in self.data else default

    def resolve(self, entry: str) -> Any:
        """Return the value that ``@entry`` refers to; each is made once."""
        entry = entry.replace("::", "#")
        if entry in self._values:
            return self._values[entry]
        if entry in self._open or len(self._open) > MAX_DEPTH:
            raise ModelError(f"{self.where}: entries refer to each other in a circle: {' -> '.join(self._open)}.")
        self._open.append(entry)
        try:
            value = self._made(self.raw(entry), entry)
            self._values[entry] = None if value is _MISSING else value
        finally:
            self._open.pop()
        return self._values[entry]

    def raw(self, entry: str) -> Any:
        """Return an entry as it stands in the file."""
        value: Any = self.data
        for key in entry.replace("::", "#").split("#"):
            inside = _MISSING
            if isinstance(value, dict):
                inside = value.get(key, _MISSING)
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                inside = value[int(key)]
            if inside is _MISSING:
                raise ModelError(f"{self.where} refers to {entry!r}, which it does not hold.")
            value = inside
        return value

    def _made(self, node: Any, where: str, depth: int = 0) -> Any:
        if depth > MAX_DEPTH:
            raise ModelError(f"{self.where}: {where[:60]} is nested too deeply.")
        if isinstance(node, str):
            return self._text(node, where, depth)
        if isinstance(node, list):
            made = [self._part(n, f"{where}#{i}", depth) for i, n in enumerate(node)]
            return [m for m in made if m is not _MISSING]
        if not isinstance(node, dict):
            return node
        if "_target_" not in node:
            table = {k: self._part(v, f"{where}#{k}", depth) for k, v in node.items()}
            return {k: v for k, v in table.items() if v is not _MISSING}
        return self._built(node, where, depth)

    def _part(self, node: Any, where: str, depth: int) -> Any:
        """Return a part of a list or table; what stands in it can be referred to, so it is made once too."""
        if where in self._values:
            return self._values[where]
        value = self._made(node, where, depth + 1)
        if isinstance(node, dict) and "_target_" in node:
            self._values[where] = value
        return value

    def _text(self, text: str, where: str, depth: int) -> Any:
        if text.startswith("$"):
            return expressions.evaluate(text[1:], f"{self.where}: {where}", self.resolve, self._functions)
        if text.startswith("@"):
            if not expressions.REFERENCE.fullmatch(text):
                raise ModelError(f"{self.where}: {where} is no reference: {text[:60]!r}. Relative ones are not read.")
            return self.resolve(text[1:])
        if text.startswith("%"):
            if not _MACRO.fullmatch(text):
                raise ModelError(f"{self.where}: {where} copies from elsewhere, {text[:60]!r}, which is not read.")
            return self._made(copy.deepcopy(self.raw(text[1:])), where, depth + 1)
        return text

    def _built(self, node: Mapping[str, Any], where: str, depth: int) -> Any:
        target = node["_target_"]
        disabled = self._made(node.get("_disabled_", False), f"{where}#_disabled_", depth + 1)
        if disabled is True or str(disabled).lower() == "true":
            return _MISSING
        place = f"{self.where}: {where}"
        if not isinstance(target, str):
            raise ModelError(f"{place} builds {type(target).__name__}, where a name was expected.")
        if skipped(node):
            return _MISSING
        found = components.find(target, place)
        arguments = {k: self._part(v, f"{where}#{k}", depth) for k, v in node.items() if k not in _RESERVED}
        if "pretrained" in arguments:
            arguments["pretrained"] = False  # the bundle's weights come after, and nothing is to be downloaded
        mode = node.get("_mode_", "default")
        if mode not in ("default", "callable"):
            raise ModelError(f"{place} has the mode {mode!r}, which is not run.")
        try:
            return functools.partial(found, **arguments) if mode == "callable" else found(**arguments)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"{place}: {target} cannot be made: {_line(error)}.") from error


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300].rstrip(".") or type(error).__name__


def trusted(data: Mapping[str, Any], files: Files, given: Mapping[str, Any]) -> Config:
    """Return a configuration that MONAI's own parser resolves, running whatever it and the bundle's scripts say.

    Raises
    ------
    ModelError
        If the bundle is an archive.
    """
    import sys

    from monai.bundle.config_parser import ConfigParser

    if files.zipped:
        raise ModelError(f"A trusted bundle is a folder, so that its scripts can be imported. Unpack {files.path}.")
    if str(files.path) not in sys.path:
        sys.path.insert(0, str(files.path))  # as MONAI's own documentation says for a bundle's scripts
    whole = {**_disabled(data), **given}
    return _Trusted(whole, ConfigParser(whole))


class _Trusted:
    def __init__(self, data: Mapping[str, Any], parser: Any) -> None:
        self.data = data
        self.parser = parser

    def get(self, entry: str, default: Any = None) -> Any:
        if entry.split("#")[0] not in self.data:
            return default
        try:
            return self.parser.get_parsed_content(entry)
        except Exception as error:
            raise ModelError(f"The bundle's entry {entry!r} cannot be made: {_line(error)}.") from error


def _disabled(node: Any) -> Any:
    """Return a configuration whose transforms that the suite does itself are switched off, in MONAI's own way."""
    if isinstance(node, Mapping):
        made = {k: _disabled(v) for k, v in node.items()}
        return {**made, "_disabled_": True} if skipped(node) else made
    return [_disabled(n) for n in node] if isinstance(node, list) else node


def skipped(node: Any) -> bool:
    """Tell whether a node of a configuration is a transform that the suite does itself."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    return isinstance(target, str) and components.plain(target.rpartition(".")[2]) in components.SKIPPED


def nodes(data: Any, name: str, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the place and the node of everything in a configuration that builds `name`, such as ``"LoadImage"``."""
    if isinstance(data, Mapping):
        target = data.get("_target_")
        if isinstance(target, str) and components.plain(target.rpartition(".")[2]) == name:
            yield where, data
    if isinstance(data, (Mapping, list)):
        for key, value in data.items() if isinstance(data, Mapping) else enumerate(data):
            yield from nodes(value, name, f"{where}#{key}" if where else str(key))
