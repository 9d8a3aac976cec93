"""The walls of the house: floors, sizes, signatures, command lines."""

import ast
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parent.parent
SRC = TOP / "src"
# from the ground up; a file imports only from lower floors
FLOORS = (
    "errors memory yamls",
    "config",
    "records competitions digits runs settings disk children",
    "rle instances losses metrics runtime strata tables terrain districts unet decoders depthwise norms upsampling",
    "artifacts matching surfaces",
    "cli layouts stages listing images detections stores transforms augmentations scenes microct rules zips "
    "kaggle_site",
    "lanes faults archives index labels points models inference postprocess scoring strips",
    "formats fitting pseudo predictions pictures answers",
    "dataset semi folders contests sheets trouble",
    "engine sources",
    "validation",
    "members foresight",
    "prepare make_folds train predict make_pseudo_labels ensemble evaluate make_submission submit infer make_report "
    "make_bundle run_stages",
)
FLOOR = {name: floor for floor, names in enumerate(FLOORS) for name in names.split()}
SCRIPTS = set(FLOORS[-1].split())
LONGEST_FILE, LONGEST_FUNCTION = 350, 80

FILES = sorted(SRC.glob("*.py"))
OTHERS = [path for folder in ("bench", "tests") for path in sorted((TOP / folder).glob("*.py"))]
SCRIPT_FILES = [path for path in FILES if path.stem in SCRIPTS]
HEAVY = ("torch", "torchvision", "albumentations", "pandas", "matplotlib", "segmentation_models_pytorch", "sklearn")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def functions(tree: ast.Module) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


def imported(tree: ast.Module) -> set[str]:
    """The top names of every import, those inside functions too; a relative import shows as an empty name."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add("" if node.level else node.module.split(".")[0])
    return names


def faulty_imports(name: str, tree: ast.Module) -> list[str]:
    """What file `name` imports from its own floor or from above."""
    return sorted(other for other in imported(tree) if not other or FLOOR.get(other, -1) >= FLOOR[name])


def missing_types(function: ast.FunctionDef) -> list[str]:
    """The arguments (and "return") of a function that have no annotation."""
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *filter(None, (a.vararg, a.kwarg))]
    missing = [one.arg for one in every if one.annotation is None and one.arg not in ("self", "cls")]
    return missing if function.returns is not None else [*missing, "return"]


def public_functions(tree: ast.Module) -> list[ast.FunctionDef]:
    """Functions of the file and methods of its classes whose names, and whose class's, start without an underscore."""
    bodies = [tree.body, *(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name[0] != "_")]
    return [
        node
        for body in bodies
        for node in body
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_")
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_file_has_a_floor_and_imports_only_from_below(path: Path) -> None:
    assert path.stem in FLOOR, f"{path.name} is on no floor; give it one here and in the README's map"
    assert not faulty_imports(path.stem, parse(path)), f"{path.name} imports from its own floor or from above"


def test_the_readmes_map_shows_every_file_on_its_floor() -> None:
    _, _, house = (TOP / "README.md").read_text(encoding="utf-8").partition("| floor | files |")
    rows = [line for line in house.partition("\n\n")[0].splitlines() if "`" in line]
    shown = [set(re.findall(r"`(\w+)`", row)) & FLOOR.keys() for row in rows]
    assert shown == [set(names.split()) for names in reversed(FLOORS)]


def test_the_floors_would_be_missed() -> None:
    assert faulty_imports("train", ast.parse("def f():\n    from predict import main")) == ["predict"]
    assert faulty_imports("rle", ast.parse("import numpy, images.x, errors, losses")) == ["images", "losses"]
    assert faulty_imports("cli", ast.parse("from artifacts import Paths\nfrom .config import Config")) == [""]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_files_and_functions_are_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE
    for function in functions(parse(path)):
        assert function.end_lineno - function.lineno < LONGEST_FUNCTION, f"{path.name}: {function.name} is too long"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_public_functions_name_their_types(path: Path) -> None:
    faults = {one.name: missing_types(one) for one in public_functions(parse(path)) if missing_types(one)}
    assert not faults


def test_missing_types_are_found() -> None:
    tree = ast.parse("class A:\n    def f(self, a, *b, c: int = 1, **d): ...\n    def _g(x): ...")
    assert [missing_types(one) for one in public_functions(tree)] == [["a", "b", "d", "return"]]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_nothing_happens_on_import(path: Path) -> None:
    """Only definitions, imports, constants and the script's last lines stand at the top of a file."""
    quiet = (ast.Import, ast.ImportFrom, ast.FunctionDef, ast.ClassDef, ast.Assign, ast.AnnAssign, ast.If)
    tree = parse(path)
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    loud = [node.lineno for node in tree.body[1:] if not isinstance(node, quiet)]
    assert not loud, f"{path.name} does something on import, lines {loud}"
    tests = [ast.unparse(node.test) for node in tree.body if isinstance(node, ast.If)]
    assert set(tests) <= {"__name__ == '__main__'", "TYPE_CHECKING"}


@pytest.mark.parametrize("path", SCRIPT_FILES, ids=lambda path: path.stem)
def test_a_script_opens_with_its_command(path: Path) -> None:
    lines = ast.get_docstring(parse(path)).splitlines()
    commands = [line.strip() for line in lines if line.startswith("    ")]
    assert commands
    assert commands[0].startswith(f"python src/{path.name}")


@pytest.mark.parametrize("path", SCRIPT_FILES, ids=lambda path: path.stem)
def test_help_answers_without_loading_the_heavy_libraries(path: Path) -> None:
    command = [sys.executable, "-X", "importtime", str(path), "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr[-2000:]
    assert path.name in answer.stdout
    loaded = {line.rpartition("|")[2].strip() for line in answer.stderr.splitlines()}
    assert "argparse" in loaded  # or else the listing was not read
    assert not loaded & set(HEAVY)


def test_help_is_quick(work: Callable[[], float]) -> None:
    start = work()
    subprocess.run([sys.executable, str(SRC / "train.py"), "--help"], check=True, stdout=subprocess.DEVNULL)
    assert work() - start < 1.5


def texts() -> list[Path]:
    """The files of the project that a person reads."""
    folders = ("", ".ci", "src", "tests", "configs", "bench")
    endings = {".py", ".sh", ".md", ".yaml", ".toml", ".txt", ""}
    found = [path for folder in folders for path in (TOP / folder).glob("*") if path.is_file()]
    return sorted(path for path in found if path.suffix in endings or path.name == ".gitignore")


@pytest.mark.parametrize("path", texts(), ids=lambda path: path.relative_to(TOP).as_posix())
def test_no_file_names_a_place_on_one_machine(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert not re.findall(r"(?<![\w.{}/])/(?:work|root|home|Users)/\S*", text)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_failure_is_swallowed(path: Path) -> None:
    for node in ast.walk(parse(path)):
        if isinstance(node, ast.ExceptHandler):
            names = {one.id for one in ast.walk(node.type) if isinstance(one, ast.Name)} if node.type else {""}
            assert not names & {"", "Exception", "BaseException"}, f"{path.name}:{node.lineno} catches everything"


def careless_calls(tree: ast.Module) -> list[str]:
    """Calls that misread what they are given, or drop some of it in silence."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            said = {one.arg: ast.unparse(one.value) for one in node.keywords}
            if said.get("type") == "bool":
                found.append(f"line {node.lineno} reads every word as True")
            if said.get("strict") == "False":
                found.append(f"line {node.lineno} drops what has no partner")
            if ast.unparse(node.func).endswith("load_state_dict") and len(node.args) != 1:  # the second is `strict`
                found.append(f"line {node.lineno} may drop weights that have no partner")
    return found


@pytest.mark.parametrize(
    "path",
    [*FILES, *OTHERS],
    ids=lambda path: path.stem,
)
def test_nothing_is_misread_or_dropped_in_silence(path: Path) -> None:
    assert not careless_calls(parse(path))


def test_careless_calls_are_found() -> None:
    code = "parser.add_argument('--x', type={})\nzip(a, b, strict={})\nmodel.load_state_dict({})"
    found = careless_calls(ast.parse(code.format("bool", "False", "state, False")))
    assert [one.split()[1] for one in found] == ["1", "2", "3"]
    assert not careless_calls(ast.parse(code.format("int", "True", "state")))
