"""The architecture as tests: who imports whom, how modules look, and what never is committed."""

from __future__ import annotations

import ast
import functools
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("api", "ingest", "queries", "schema")
MODEL_LIBRARIES = {"open_clip", "safetensors", "timm", "torch", "torchvision"}
HEAVY_LIBRARIES = {"datasets", "matplotlib", "pandas", "polars", "webdataset"}
MAY_IMPORT = {
    "api": {"api", "queries", "schema"},  # ingest only where it is called
    "ingest": {"ingest", "queries", "schema"},  # api only where it is called
    "queries": {"queries", "schema"},
    "schema": {"schema"},
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def modules(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


@functools.cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def at(path: Path, line: int = 1) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def none_of(offenders: list[str], rule: str) -> None:
    assert not offenders, "\n  ".join([rule, *offenders])


# Imports


def imports(path: Path, *, when_called: bool) -> Iterator[tuple[str, ast.Import | ast.ImportFrom]]:
    """Absolute dotted names that a module imports; `when_called` takes in functions' bodies."""
    package = ("lensbase", *path.relative_to(ROOT).parent.parts)
    pending: list[ast.AST] = list(parsed(path).body)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*start, *filter(None, [node.module])])
            # `from .. import schema` names the module in the alias.
            yield from ((f"{module}.{alias.name}", node) for alias in node.names)
        elif when_called or not (isinstance(node, Function | ast.Lambda) or is_typing_only(node)):
            pending.extend(ast.iter_child_nodes(node))


def is_typing_only(node: ast.AST) -> bool:
    """`if TYPE_CHECKING:` never runs."""
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def test_rooms_import_only_what_stands_below_them() -> None:
    offenders: list[str] = []
    for room, allowed in MAY_IMPORT.items():
        lazily = room in ("api", "ingest")
        for path in modules(room):
            for name, node in imports(path, when_called=not lazily):
                parts = name.split(".")
                if parts[0] == "lensbase" and not allowed.intersection(parts[1:2]):
                    offenders.append(f"{at(path, node.lineno)} imports {name}")
    none_of(offenders, f"a room imports at most {MAY_IMPORT}:")


def test_imports_between_our_modules_are_relative() -> None:
    offenders = [
        f"{at(path, node.lineno)} imports {name}"
        for path in modules(*ROOMS)
        for name, node in imports(path, when_called=True)
        if name.split(".")[0] in ("lensbase", *ROOMS)
        and not (isinstance(node, ast.ImportFrom) and node.level)
    ]
    none_of(offenders, "write `from ..schema.components import Head`, not an absolute import:")


def test_the_query_side_imports_no_model_library_at_module_level() -> None:
    offenders = [
        f"{at(path, node.lineno)} imports {name}"
        for path in modules("api", "queries", "schema")
        for name, node in imports(path, when_called=False)
        if name.split(".")[0] in MODEL_LIBRARIES
    ]
    none_of(offenders, "import torch and its kin inside the function that needs them:")


def test_heavy_libraries_are_imported_where_they_are_used() -> None:
    offenders = [
        f"{at(path, node.lineno)} imports {name}"
        for path in modules(*ROOMS)
        for name, node in imports(path, when_called=False)
        if name.split(".")[0] in HEAVY_LIBRARIES
    ]
    none_of(offenders, "import these inside the function that needs them:")


def loaded_after(code: str) -> set[str]:
    script = f"{code}\nimport sys; print(*sorted(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {name.split(".")[0] for name in done.stdout.split()}


def test_importing_the_api_loads_neither_torch_nor_heavy_libraries() -> None:
    loaded = loaded_after("import lensbase.api")
    assert not loaded & (MODEL_LIBRARIES | HEAVY_LIBRARIES)


def test_no_module_of_the_query_side_loads_torch() -> None:
    names = [
        ".".join(("lensbase", *path.relative_to(ROOT).with_suffix("").parts))
        for path in modules("api", "queries", "schema")
        if path.name not in ("__init__.py", "__main__.py")
    ]
    loaded = loaded_after("\n".join(f"import {name}" for name in ["lensbase.api", *names]))
    assert not loaded & MODEL_LIBRARIES


def test_the_query_side_works_where_torch_is_not_installed() -> None:
    blocked = f"import sys; sys.modules.update(dict.fromkeys({sorted(MODEL_LIBRARIES)}))"
    assert "lensbase" in loaded_after(f"{blocked}\nimport lensbase.api")


def test_importing_the_api_takes_under_half_a_second() -> None:
    # Processor seconds of the whole process, interpreter included, because cores are shared: on a
    # free one that is the time it takes.
    measure = (
        "import lensbase.api, resource; used = resource.getrusage(resource.RUSAGE_SELF); "
        "print(used.ru_utime + used.ru_stime)"
    )
    command = [sys.executable, "-c", measure]
    seconds = [
        float(subprocess.run(command, check=True, capture_output=True).stdout) for _ in range(5)
    ]
    assert min(seconds) < 0.5, f"best of five: {min(seconds):.3f} s"


# Modules


def test_the_namespace_has_no_init_file() -> None:
    assert not (ROOT / "__init__.py").exists()
    missing = [room for room in ROOMS if not (ROOT / room / "__init__.py").exists()]
    assert not missing


def test_every_folder_of_modules_is_packaged() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    packaged = set(settings["tool"]["setuptools"]["packages"])
    folders = {
        ".".join(("lensbase", *path.relative_to(ROOT).parent.parts)) for path in modules(*ROOMS)
    }
    assert packaged == folders, "name every folder of modules in [tool.setuptools] packages"
    none_of(
        [
            f"{name} has no __init__.py"
            for name in sorted(folders)
            if not ROOT.joinpath(*name.split(".")[1:], "__init__.py").exists()
        ],
        "a packaged folder needs an __init__.py:",
    )


def test_a_module_has_one_job() -> None:
    offenders = [
        f"{at(path)} has {lines} lines"
        for path in modules(*ROOMS, "tests", "benchmarks", "examples")
        if (lines := len(path.read_text(encoding="utf-8").splitlines())) > 400
    ]
    none_of(offenders, "a module past 400 lines has two jobs:")


def test_a_module_is_named_by_its_job() -> None:
    vague = re.compile(r"_?(utils?|helpers?|commons?|misc|base)")
    offenders = [
        at(path)
        for path in modules(*ROOMS, "tests", "benchmarks", "examples")
        if vague.fullmatch(path.stem) or vague.fullmatch(path.parent.name)
    ]
    none_of(offenders, "these names say nothing:")


def test_annotations_are_never_evaluated_at_import() -> None:
    wanted = "from __future__ import annotations"
    offenders = [
        at(path)
        for path in modules(*ROOMS)
        if path.name != "__init__.py" and wanted not in path.read_text(encoding="utf-8")
    ]
    none_of(offenders, f"`{wanted}` is missing:")


# Public functions


def decorators(node: Function) -> set[str]:
    """Last names of a function's decorators: `app.command(...)` is `command`."""
    called = (item.func if isinstance(item, ast.Call) else item for item in node.decorator_list)
    return {ast.unparse(item).split(".")[-1] for item in called}


def commands() -> set[str]:
    """Functions made commands by a call, `app.command("info")(looking.info)`: module and name."""
    return {
        f"{path.stem}.{ast.unparse(item)}".split(".", 1)[isinstance(item, ast.Attribute)]
        for path in modules("api")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Call)
        if ast.unparse(node.func.func).endswith((".callback", ".command"))
        for item in node.args
    }


def public(path: Path) -> Iterator[tuple[str, Function | ast.ClassDef, bool]]:
    """Public functions, classes and their methods: dotted name, node, whether it is a method."""
    if path.stem.startswith("_") and path.stem != "__init__":
        return
    pending: list[tuple[str, ast.stmt, bool]] = [("", node, False) for node in parsed(path).body]
    while pending:
        prefix, node, in_class = pending.pop()
        if isinstance(node, ast.If):
            pending += [(prefix, child, in_class) for child in [*node.body, *node.orelse]]
        if not isinstance(node, Function | ast.ClassDef) or node.name.startswith("_"):
            continue
        if isinstance(node, Function) and "overload" in decorators(node):
            continue
        yield prefix + node.name, node, in_class
        if isinstance(node, ast.ClassDef):
            pending += [(f"{prefix}{node.name}.", child, True) for child in node.body]


def parameters(node: Function, *, method: bool) -> tuple[list[ast.arg], list[ast.arg]]:
    """Positional and all parameters of a function, without `self` and `cls`."""
    positional = [*node.args.posonlyargs, *node.args.args]
    if method and "staticmethod" not in decorators(node):
        positional = positional[1:]
    rest = [node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
    return positional, [*positional, *(item for item in rest if item is not None)]


def test_public_names_have_docstrings() -> None:
    offenders = [
        f"{at(path, node.lineno)} {name}"
        for path in modules(*ROOMS)
        for name, node, _ in public(path)
        if not ast.get_docstring(node) and not (isinstance(node, Function) and is_setter(node))
    ]
    none_of(offenders, "a public name needs a docstring:")


def is_setter(node: Function) -> bool:
    return bool(decorators(node) & {"deleter", "setter"})


def test_public_functions_are_annotated() -> None:
    offenders: list[str] = []
    for path in modules(*ROOMS):
        for name, node, method in public(path):
            if isinstance(node, ast.ClassDef):
                continue
            _, every = parameters(node, method=method)
            bare = [item.arg for item in every if item.annotation is None]
            if node.returns is None:
                bare.append("return")
            if bare:
                offenders.append(f"{at(path, node.lineno)} {name}: {', '.join(bare)}")
    none_of(offenders, "a public function needs types:")


def test_public_functions_have_at_most_three_positional_parameters() -> None:
    offenders: list[str] = []
    from_the_shell = commands()  # where a command line gives every parameter its name
    for path in modules(*ROOMS):
        for name, node, method in public(path):
            if isinstance(node, ast.ClassDef) or decorators(node) & {"callback", "command"}:
                continue
            if f"{path.stem}.{name}" in from_the_shell:
                continue
            positional, _ = parameters(node, method=method)
            if len(positional) > 3:
                offenders.append(f"{at(path, node.lineno)} {name}: {len(positional)}")
    none_of(offenders, "make the fourth and later parameters keyword-only:")


# What is committed


FORBIDDEN = {
    "an absolute path of somebody's machine": r"(?<![\w.])/(home|root|opt|mnt|work|Users)/",
    "a package registry's host": r"pypi[.]org|pythonhosted[.]org|npmjs[.](org|com)|deb[.]debian",
    "a package registry's setting": r"index-url\b|find-links\b|trusted-host\b",
    "a document that readers don't have": r"\b(DESIGN|FIDELITY|STYLE)[.]md|\bthesis[.]txt",
}


def committed() -> list[Path]:
    """Files that git tracks, or would if all were added now."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    paths = (ROOT / os.fsdecode(name) for name in listed.split(b"\0") if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


def test_nothing_of_a_machine_is_committed() -> None:
    this = Path(__file__).resolve()
    offenders: list[str] = []
    for path in committed():
        content = path.read_bytes()
        if b"\0" in content or path == this:
            continue
        for number, line in enumerate(content.decode("utf-8", "replace").splitlines(), start=1):
            offenders += [
                f"{at(path, number)} has {what}"
                for what, pattern in FORBIDDEN.items()
                if re.search(pattern, line)
            ]
    none_of(offenders, "this must not be committed:")


def test_constraints_are_names_and_versions() -> None:
    path = ROOT / "constraints.txt"
    exact = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*==[A-Za-z0-9.!]+")
    offenders = [
        f"{at(path, number)} {line}"
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if not exact.fullmatch(line)
    ]
    none_of(offenders, "a constraint is `name==version`, without local versions and hosts:")


def test_committed_files_are_small() -> None:
    offenders = [
        f"{at(path)} has {path.stat().st_size / 1e6:.1f} MB"
        for path in committed()
        if path.stat().st_size > 5_000_000
    ]
    none_of(offenders, "shipped weights stay under 5 MB, everything else far under that:")
