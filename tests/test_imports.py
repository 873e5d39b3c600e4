"""What importing costs, what it brings in, and which folder may import which."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
import tomllib
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import tracescribe as ts

ROOT = Path(__file__).resolve().parents[1]
HEAVY = ("torch", "transformers", "open_clip", "nnsight", "transformer_lens", "peft", "plotly", "pandas", "matplotlib")
NAMED = {
    "torch": "torch",
    "transformer_lens": "transformer_lens",
    "nnsight": "nnsight",
    "open_clip_torch": "open_clip",
    "peft": "peft",
    "plotly": "plotly",
    "numpy": "numpy",
}
# Each folder may import those before it: patching <- tracer <- {viz, benchmark} <- finetune <- tracescribe (cli, demo).
# What every folder may use; these modules import none of the folders.
SHARED = {
    "arguments",
    "cards",
    "checked",
    "contrastive",
    "errors",
    "io",
    "processes",
    "progress",
    "threads",
    "token_strings",
    "validation",
    "warn",
}
MAY_IMPORT: dict[str, set[str]] = {
    "patching": set(),
    "tracer": {"patching"},
    "viz": {"patching", "tracer"},
    "benchmark": {"patching", "tracer"},
    "finetune": {"patching", "tracer", "viz", "benchmark"},
}
# Inside a part: pairs <- results <- run; towers <- adapters <- loading, and towers <- resume <- engine;
# figure data <- {interactive, notebook, paper} <- reports; figure data <- explorer.
MAY_IMPORT_INSIDE: dict[str, set[str]] = {
    "tracer/pairs": set(),
    "tracer/results": {"pairs"},
    "tracer/run": {"pairs", "results"},
    "patching/towers": set(),
    "patching/resume": {"towers"},
    "patching/engine": {"towers", "resume"},
    "patching/adapters": {"towers"},
    "patching/loading": {"towers", "adapters"},
    "viz/figure_data": set(),
    "viz/interactive": {"figure_data"},
    "viz/notebook": {"figure_data"},
    "viz/paper": {"figure_data"},
    "viz/reports": {"figure_data", "interactive", "paper"},
    "viz/explorer": {"figure_data", "interactive", "paper"},
}
# Exceptions, imported when they are called: `trace.heatmap()` and its like hand a result to the part that draws it, and
# the explorer, an application over all parts, prescribes and draws phantom films.
HANDS_TO = {
    "tracer/results/circuit.py": {"viz"},
    "tracer/results/comparison.py": {"viz"},
    "tracer/results/faithfulness.py": {"viz"},
    "tracer/results/head_edges.py": {"viz"},
    "tracer/results/knockout.py": {"viz"},
    "tracer/results/negator_attention.py": {"viz"},
    "tracer/results/neurons.py": {"viz"},
    "tracer/results/views.py": {"viz"},
    "tracer/results/maps.py": {"viz"},
    "viz/explorer/prescribing.py": {"finetune"},
    "viz/explorer/targets.py": {"benchmark"},
}
# The same inside a part: `trace.circuit()` runs the model.
HANDS_TO_INSIDE = {"tracer/results/views.py": {"run"}}


def modules(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


def module_level(tree: ast.Module) -> Iterable[ast.AST]:
    """Statements that run at import: what is not inside a function."""
    outside = [node for node in tree.body if not isinstance(node, ast.ClassDef | ast.FunctionDef)]
    return [inner for node in outside for inner in ast.walk(node)]


def imported_parts(path: Path, nodes: Callable[[ast.Module], Iterable[ast.AST]] = ast.walk) -> set[str]:
    """The parts of tracescribe that a module of a part imports, relatively or absolutely, at any depth of its code."""
    return {name[1] for name in imported_names(path, nodes) if name[0] == "tracescribe" and len(name) > 1}


def imported_names(path: Path, nodes: Callable[[ast.Module], Iterable[ast.AST]] = ast.walk) -> list[list[str]]:
    """The full dotted names that a module of a part imports."""
    inside = ("tracescribe", *path.relative_to(ROOT).parts[:-1])
    found: list[list[str]] = []
    for node in nodes(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            base = list(inside[: len(inside) - node.level + 1]) if node.level else []
            full = [*base, *(node.module or "").split(".")] if node.module else base
            found += [[*full, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [alias.name.split(".") for alias in node.names]
    return found


def top_level_imports(path: Path) -> set[str]:
    """The first part of every absolute import in a module."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
            found.add(node.module.split(".")[0])
    return found


def fresh_process(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("part", MAY_IMPORT)
def test_dependencies_between_folders_point_one_way(part: str) -> None:
    allowed = MAY_IMPORT[part] | {part, *SHARED}
    for path in modules(part):
        found = imported_parts(path)
        handed = HANDS_TO.get(path.relative_to(ROOT).as_posix(), set())
        assert found <= allowed | handed, path
        assert not handed & imported_parts(path, nodes=module_level), path


@pytest.mark.parametrize("folder", MAY_IMPORT_INSIDE)
def test_dependencies_inside_a_part_point_one_way(folder: str) -> None:
    part, inner = folder.split("/")
    siblings = {path.name for path in (ROOT / part).iterdir() if path.is_dir()}
    seen = set()
    for path in modules(folder):
        found, at_import = (
            {name[2] for name in imported_names(path, nodes) if name[:2] == ["tracescribe", part] and len(name) > 2}
            for nodes in (ast.walk, module_level)
        )
        handed = HANDS_TO_INSIDE.get(path.relative_to(ROOT).as_posix(), set())
        assert found & siblings <= MAY_IMPORT_INSIDE[folder] | {inner} | handed, path
        assert not handed & at_import, path
        seen |= found
    assert seen >= MAY_IMPORT_INSIDE[folder]  # the test sees imports


def test_no_module_imports_itself_through_others() -> None:
    """Of what runs at import: no module is needed to import another that it needs itself."""

    def at_import(tree: ast.Module) -> Iterable[ast.AST]:
        return [node for node in tree.body if not isinstance(node, ast.If)]  # if TYPE_CHECKING

    files = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts): path for part in MAY_IMPORT for path in modules(part)
    }
    needs = {
        name: {
            target
            for full in imported_names(path, nodes=at_import)
            for target in (".".join(full[1:]), ".".join(full[1:-1]))
            if target in files
        }
        for name, path in files.items()
    }
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for target in sorted(needs[name]):
                visit(target, (*trail, name))
            done.add(name)

    for name in files:
        visit(name, ())
    assert "patching.towers.tower" in needs["patching.engine.engine"]  # imports are seen


@pytest.mark.parametrize(
    ("part", "foreign"), [("figure_data", "plotly matplotlib"), ("interactive", "matplotlib"), ("paper", "plotly")]
)
def test_each_part_of_viz_draws_with_its_own_library(part: str, foreign: str) -> None:
    for path in modules(f"viz/{part}"):
        assert not top_level_imports(path) & set(foreign.split()), path


def test_the_direction_test_sees_imports() -> None:
    assert {"tracer"} <= set().union(*map(imported_parts, modules("viz")))
    assert {"patching"} <= set().union(*map(imported_parts, modules("tracer")))


def test_importing_tracescribe_is_quick_and_loads_nothing_heavy() -> None:
    # seconds of processor time, best of three: wall-clock time would measure what else the machine does
    code = f"""
import json, sys, time
start = time.process_time()
import tracescribe
seconds = time.process_time() - start
print(json.dumps([seconds, [name for name in {HEAVY!r} if name in sys.modules]]))
"""
    seconds, loaded = min(
        json.loads(fresh_process(code)) for _ in range(3)
    )  # the best of three: others use the machine
    assert loaded == []
    assert seconds <= 0.5


def test_loading_the_miniature_imports_no_library_of_models() -> None:
    """They took two thirds of the time; torch takes most of the rest."""
    libraries = ("open_clip", "torchvision", "timm", "transformers", "torch._dynamo")
    code = f"""
import json, sys
import tracescribe as ts
model = ts.load("phantom")
model.encode_texts(["There is no effusion."])
print(json.dumps([name for name in {libraries!r} if name in sys.modules]))
"""
    assert json.loads(fresh_process(code)) == []


def test_help_needs_no_numpy() -> None:
    """It was half of the time that the list of commands took."""
    code = """
import contextlib, io, json, sys
from tracescribe.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["--help"])
print(json.dumps([name for name in ("numpy", "pydantic", "jaxtyping") if name in sys.modules]))
"""
    assert json.loads(fresh_process(code)) == []


def test_help_and_reading_results_need_no_torch() -> None:
    code = f"""
import contextlib, io, json, sys
import tracescribe.viz
from tracescribe.cli import main
from tracescribe import CausalTrace, LayerProfile, load_trace
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main(["trace", "--help"])
print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))
"""
    assert json.loads(fresh_process(code)) == []


def test_the_public_names_are_those_declared() -> None:
    for package in (ts, ts.tracer, ts.finetune):
        for name in package.__all__:
            assert getattr(package, name) is not None
        assert set(dir(package)) <= set(package.__all__) | {name for name in vars(package) if name.startswith("_")}


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="trase"):
        _ = ts.trase


def test_the_named_packages_are_plain_dependencies() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    plain = {line.split(">")[0].strip() for line in project["dependencies"]}
    assert set(NAMED) <= plain


@pytest.mark.parametrize("module", NAMED.values())
def test_each_named_package_is_really_used(module: str) -> None:
    users = [path for part in MAY_IMPORT for path in modules(part) if module in top_level_imports(path)]
    assert users, f"nothing imports {module}"


def test_a_module_and_a_function_never_share_a_name() -> None:
    """They would hide each other: which one `part.name` is would depend on what was imported before."""
    for part in MAY_IMPORT:
        package = getattr(ts, part)
        for module in {path.stem for path in (ROOT / part).glob("*.py")} & set(getattr(package, "__all__", ())):
            assert isinstance(getattr(package, module), types.ModuleType), f"{part}.{module}"
