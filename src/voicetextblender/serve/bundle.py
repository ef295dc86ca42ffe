"""Our own model code as a flat folder of modules that stands alone: what `trust_remote_code` loads.

The files are those of this package, found by following imports. Three things differ: imports of the package become
relative ones, shape annotations become optional, and what registers classes in this process is left out, since a
process may load several exported models.
"""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import voicetextblender

PACKAGE = voicetextblender.__name__
ROOTS = ("model.configuration", "model.modeling", "model.processing")
"""Modules whose classes `AUTO_MAP` names; all others follow from their imports."""
AUTO_MAP = {
    "AutoConfig": "model_configuration.VoiceTextBlenderConfig",
    "AutoModel": "model_modeling.VoiceTextBlenderModel",
    "AutoModelForCausalLM": "model_modeling.VoiceTextBlenderForConditionalGeneration",
    "AutoModelForMultimodalLM": "model_modeling.VoiceTextBlenderForConditionalGeneration",
    "AutoProcessor": "model_processing.VoiceTextBlenderProcessor",
}
"""For `config.json`: the library's auto classes and ours."""
FEATURE_EXTRACTOR_MAP = {"AutoFeatureExtractor": "model_processing.VoiceTextBlenderFeatureExtractor"}
"""For the feature extractor's part of `processor_config.json`."""


def write_bundle(folder: Path) -> list[Path]:
    """Write the modules of the model code into `folder`; returns their paths."""
    paths = []
    for module, source in bundle_sources().items():
        path = folder / f"{flat_name(module)}.py"
        path.write_text(f"# voicetextblender {voicetextblender.__version__}, Apache-2.0\n{source}", encoding="utf-8")
        paths.append(path)
    return paths


def bundle_sources() -> dict[str, str]:
    """Rewritten source by name of the module in this package (`audio.features`), in order of discovery."""
    sources: dict[str, str] = {}
    waiting = list(ROOTS)
    while waiting:
        module = waiting.pop(0)
        if module not in sources:
            sources[module], imported = rewrite(_read_source(module), module)
            waiting += imported
    return sources


def flat_name(module: str) -> str:
    """Name in the bundle of a module of this package: the library follows relative imports within one folder only."""
    return module.replace(".", "_")


def rewrite(source: str, module: str) -> tuple[str, list[str]]:
    """The source of `module` for the bundle, and the modules of this package that it imports."""
    lines = source.splitlines(keepends=True)
    imported = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            assert all(alias.name.split(".")[0] != PACKAGE for alias in node.names), f"{module}: import a name instead"
        elif isinstance(node, ast.ImportFrom) and (target := _own_module(node, module)):
            imported.append(target)
            first = node.lineno - 1
            written = f"from {'.' * node.level}{node.module}"
            lines[first] = lines[first].replace(written, f"from .{flat_name(target)}", 1)
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxtyping":
            assert node.lineno == node.end_lineno, f"{module}: jaxtyping is imported in one line"
            line = lines[node.lineno - 1].strip()
            lines[node.lineno - 1] = f"try:  # only named in annotations\n    {line}\nexcept ImportError:\n    pass\n"
        elif _is_registration(node):
            _blank(lines, node)
    return "".join(lines).rstrip() + "\n", imported


def _own_module(node: ast.ImportFrom, module: str) -> str | None:
    """The module of this package that `node` imports from, if it is one."""
    name = node.module or ""
    if node.level:
        name = importlib.util.resolve_name("." * node.level + name, f"{PACKAGE}.{module}".rpartition(".")[0])
    package, _, own = name.partition(".")
    if package != PACKAGE:
        return None
    assert own, f"{module}: import from a module, not from the package"
    return own


def _is_registration(node: ast.AST) -> bool:
    """Whether `node` is a statement like `AutoModel.register(...)`."""
    call = node.value if isinstance(node, ast.Expr) else None
    function = call.func if isinstance(call, ast.Call) else None
    return (
        isinstance(function, ast.Attribute) and function.attr == "register" and ast.unparse(function).startswith("Auto")
    )


def _blank(lines: list[str], node: ast.AST) -> None:
    assert isinstance(node, ast.stmt) and node.end_lineno is not None
    for number in range(node.lineno - 1, node.end_lineno):
        lines[number] = ""


def _read_source(module: str) -> str:
    spec = importlib.util.find_spec(f"{PACKAGE}.{module}")
    assert spec is not None and spec.origin is not None and not spec.submodule_search_locations, f"{module}: no module"
    return Path(spec.origin).read_text(encoding="utf-8")
