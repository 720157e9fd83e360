"""The shape of the house: who imports whom, what an import loads, what is installed, how long."""

import ast
import configparser
import importlib
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase as fnmatch
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = {"zstream": ROOT / "zstream", "zstreamd": ROOT / "daemon" / "zstreamd"}

MODULE_LINES = 300
FUNCTION_LINES = 40

#: Who may import a library: a module, a package with all that is in it, or a pattern.
ALLOWED = {
    "zmq": {"zstream.link", "zstreamd"},
    "msgpack": {"zstream.wire"},
    "msgspec": {"zstreamd"},
    "click": {"zstream.cli", "zstreamd.cli"},
    "sqlalchemy": {"zstream.backends.sqlite*", "zstream.backends.sql"},
    "psycopg": {"zstream.backends.postgres*"},
    "pymysql": {"zstream.backends.mysql*"},
    "redis": {"zstream.backends.redis*"},
    "pytest": {"zstream.testing"},
    "hypothesis": {"zstream.testing.model*"},
    "asyncio": {"zstream.aio"},
    "signal": {"zstreamd.cli", "zstream.cli", "zstream.testing"},
}  # fmt: skip
THIRD_PARTY = set(ALLOWED) - {"asyncio", "signal"}
#: What an extra brings.
EXTRA = {"hypothesis", "pytest", "psycopg", "pymysql", "redis"}


def modules() -> Iterator[tuple[str, Path]]:
    for package, folder in PACKAGES.items():
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            yield ".".join((package, *parts)).removesuffix(".__init__"), path


MODULES = dict(modules())


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


@cache
def imports(module: str, *, top_only: bool = False) -> frozenset[str]:
    """What a module imports; with ``top_only`` without what functions import late."""
    found: set[str] = set()
    todo: list[ast.AST] = [tree(module)]
    while todo:
        node = todo.pop()
        if isinstance(node, ast.Import):
            found |= {each.name for each in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            assert node.module is not None
            found |= {node.module} | {
                name for each in node.names if (name := f"{node.module}.{each.name}") in MODULES
            }
        late = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not (top_only and (late or typing_only)):
            todo += ast.iter_child_nodes(node)
    return frozenset(found)


def within(module: str, allowed: set[str]) -> bool:
    return any(fnmatch(module, each) or fnmatch(module, each + ".*") for each in allowed)


# ---------------------------------------------------------------- imports


def test_there_is_something_to_check() -> None:
    assert {"zstream", "zstream.wire", "zstreamd.cli", "zstreamd.settings"} <= set(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_only_who_may_imports_a_library(module: str) -> None:
    for name in imports(module):
        library = name.partition(".")[0]
        if library in ALLOWED:
            assert within(module, ALLOWED[library]), f"{module} must not import {library}"
        else:
            assert library in sys.stdlib_module_names | set(PACKAGES), f"{module}: what is {name}?"


@pytest.mark.parametrize("module", [name for name in MODULES if within(name, {"zstream"})])
def test_the_client_side_never_imports_the_daemon(module: str) -> None:
    assert not [name for name in imports(module) if within(name, {"zstreamd"})]


@pytest.mark.parametrize("module", MODULES)
def test_nobody_imports_a_command(module: str) -> None:
    commands = {"zstream.cli", "zstreamd.cli"}
    if not within(module, commands | {"zstreamd.__main__"}):
        assert not [name for name in imports(module) if within(name, commands)]


def test_heavy_libraries_are_imported_late() -> None:
    """What a backend needs is loaded when that backend is opened, not before."""
    for module in MODULES:
        if not within(module, ALLOWED["sqlalchemy"] | {"zstream.testing"}):
            for name in imports(module, top_only=True):
                assert not within(name, ALLOWED["sqlalchemy"]), f"{module} imports {name} early"


def test_no_import_goes_in_a_circle() -> None:
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join((*path[path.index(module) :], module))
        if module not in done:
            for name in sorted(imports(module, top_only=True) & set(MODULES)):
                # A package is loaded before its modules whoever imports them.
                if name != module and not module.startswith(name + "."):
                    visit(name, (*path, module))
            done.add(module)

    for module in MODULES:
        visit(module, ())


def test_importing_zstream_loads_little() -> None:
    code = (
        "import sys; before = set(sys.modules); import zstream; "
        "print(*sorted({name.partition('.')[0] for name in set(sys.modules) - before}))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    loaded = set(ran.stdout.split()) - sys.stdlib_module_names
    assert "zstream" in loaded
    # How an editable installation is found, and what compiled modules bring with them.
    helpers = ("__editable__", "_cython_", "cython_runtime")
    assert {name for name in loaded if not name.startswith(helpers)} <= {
        "zstream", "zmq", "msgpack",
    }  # fmt: skip
    assert not {"asyncio", "sqlite3"} & set(ran.stdout.split())


def test_asking_for_help_loads_no_server() -> None:
    code = (
        "import sys, zstreamd.cli; "
        "print(*sorted({'msgspec', 'sqlalchemy', 'zstreamd.server'} & set(sys.modules)))"
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd="/"
    )
    assert ran.stdout.split() == []


# ---------------------------------------------------------------- what is installed


def config() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def test_every_package_is_listed() -> None:
    """Every folder with Python in it; a forgotten one would be missing from the wheel, silently."""
    found = {name.rpartition(".")[0] for name, path in MODULES.items() if path.stem != "__init__"}
    found |= {name for name, path in MODULES.items() if path.stem == "__init__"}
    assert config()["options"]["packages"].split() == sorted(found)
    for package in found:
        assert package in MODULES, f"{package} has no __init__.py"


def test_the_base_installation_brings_five_libraries() -> None:
    wanted = config()["options"]["install_requires"].split("\n")
    names = {line.partition(">=")[0] for line in wanted if line}
    assert names == {"pyzmq", "msgpack", "SQLAlchemy", "click", "msgspec"}
    assert {name.lower() for name in names - {"pyzmq"}} | {"zmq"} == THIRD_PARTY - EXTRA


def test_the_packages_are_typed() -> None:
    data = config()["options.package_data"]
    for package, folder in PACKAGES.items():
        assert (folder / "py.typed").is_file()
        assert "py.typed" in data[package]


def test_every_entry_point_is_there() -> None:
    for lines in dict(config()["options.entry_points"]).values():
        for line in lines.split("\n"):
            if line:
                module, _, name = line.partition("=")[2].strip().partition(":")
                loaded = importlib.import_module(module)
                assert not name or getattr(loaded, name)


def test_the_python_that_is_asked_for_is_said_once_only() -> None:
    least = config()["options"]["python_requires"].removeprefix(">=")
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]
    assert config()["mypy"]["python_version"] == least
    assert ruff["target-version"] == "py" + least.replace(".", "")
    assert f"sys.version_info < ({least.replace('.', ', ')})" in (ROOT / "Makefile").read_text()


# ---------------------------------------------------------------- how long


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_stay_short(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= MODULE_LINES, f"{module} has {lines} lines"
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES, f"{module}.{node.name} has {length} lines"


@pytest.mark.parametrize("module", MODULES)
def test_no_failure_is_swallowed(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler):
            kind = None if node.type is None else ast.unparse(node.type)
            assert kind is not None, f"{module}:{node.lineno} has a bare except"
            if kind in ("Exception", "BaseException"):
                silent = all(isinstance(each, ast.Pass) for each in node.body)
                assert not silent, f"{module}:{node.lineno} swallows {kind}"


def test_no_test_sleeps() -> None:
    for path in sorted((ROOT / "tests").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert called != "time.sleep", f"{path.name}:{node.lineno}: wait for the condition"
