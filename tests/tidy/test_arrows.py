"""The map's arrows and the rules' purity, read from the source with `ast`: an import that points up is a
defect.
"""

import ast
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src" / "suan"
FILES = sorted(SOURCE.rglob("*.py"))

# folder (or file) -> what it may import of suan, besides itself
ALLOWED = {
    "grid": set(),
    "rules": {"grid"},
    "estimate": {"grid"},
    "ports": {"grid"},
    "engines": {"grid", "ports", "stores", "feeds", "doors.client"},  # an agent dials out through the client
    "stores": {"grid", "ports"},
    "feeds": {"grid", "ports"},
    "journals": {"grid", "ports"},
    "recipes": {"grid"},
    "control": {"grid", "rules", "estimate", "ports"},
    "doors": {"grid", "rules", "estimate", "ports", "control", "recipes", "stores"},
    "sim": {"grid", "rules", "estimate", "ports", "control", "journals", "feeds"},
}
# the two places that put the parts together, and the door that starts them
COMPOSERS = {"control/config.py": {"journals", "stores", "engines", "feeds", "doors"}}
LATE = {  # imports allowed inside functions only
    "doors": {"sim", "engines", "feeds", "journals"},
    "control": {"stores"},
}
IMPURE = {
    "time", "random", "os", "io", "logging", "secrets", "socket", "subprocess", "threading", "asyncio",
    "pathlib", "tempfile", "shutil", "uuid", "sys", "urllib", "http", "httpx", "sqlite3", "obstore",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "eval", "exec"}
IMPURE_METHODS = {("datetime", "now"), ("datetime", "today"), ("datetime", "utcnow"), ("date", "today")}


def folder(path: Path) -> str:
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return parts[0]


def suan_imports(tree: ast.AST) -> list[tuple[str, bool, int]]:
    """(module below suan, whether it is inside a function, line) of every import of suan."""
    found = []

    def walk(node: ast.AST, inside: bool) -> None:
        for child in ast.iter_child_nodes(node):
            deeper = inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            if isinstance(child, ast.ImportFrom) and child.module and child.module.split(".")[0] == "suan":
                base = child.module.split(".")[1:]
                names = [".".join(base)] if base else [alias.name for alias in child.names]
                found.extend((name, inside, child.lineno) for name in names)
            elif isinstance(child, ast.Import):
                found.extend(
                    (alias.name.removeprefix("suan."), inside, child.lineno)
                    for alias in child.names
                    if alias.name.split(".")[0] == "suan"
                )
            if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
                continue
            walk(child, deeper)

    walk(tree, False)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_arrows_point_down(path: Path) -> None:
    here = folder(path)
    if here == "__init__":
        return
    relative = path.relative_to(SOURCE).as_posix()
    allowed = ALLOWED[here] | COMPOSERS.get(relative, set())
    wrong = []
    for name, inside, line in suan_imports(ast.parse(path.read_text("utf-8"))):
        target = name.split(".")[0]
        if target in (here, "__version__") or target in allowed or ".".join(name.split(".")[:2]) in allowed:
            continue
        if inside and target in LATE.get(here, set()):
            continue
        wrong.append(f"line {line}: suan.{name}")
    assert not wrong, f"{relative} may import {sorted(allowed)}, and imports {wrong}"


@pytest.mark.parametrize(
    "path",
    [p for p in FILES if folder(p) in ("rules", "estimate")],
    ids=lambda path: str(path.relative_to(SOURCE)),
)
def test_rules_are_pure(path: Path) -> None:
    tree = ast.parse(path.read_text("utf-8"))
    wrong = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            wrong += [alias.name for alias in node.names if alias.name.split(".")[0] in IMPURE]
        elif isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in IMPURE:
            wrong.append(node.module)
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in IMPURE_CALLS:
                wrong.append(function.id)
            if isinstance(function, ast.Attribute) and isinstance(function.value, ast.Name | ast.Attribute):
                owner = function.value.id if isinstance(function.value, ast.Name) else function.value.attr
                if (owner, function.attr) in IMPURE_METHODS:
                    wrong.append(f"{owner}.{function.attr}")
        elif isinstance(node, ast.For | ast.comprehension):
            over = node.iter
            call = over.func if isinstance(over, ast.Call) else None
            if isinstance(over, ast.Set) or (isinstance(call, ast.Name) and call.id in ("set", "frozenset")):
                wrong.append(f"iterates over a set: {ast.unparse(over)}")
    assert not wrong, f"{path.name} is not pure: {wrong}"


def test_recipes_import_only_the_grid_at_their_top() -> None:
    light = {"suan", "msgspec", "__future__"}
    for path in FILES:
        if folder(path) != "recipes":
            continue
        for node in ast.parse(path.read_text("utf-8")).body:
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                root = name.split(".")[0]
                assert root in light or root in sys.stdlib_module_names, f"{path.name}: {name} at its top"
