"""Guards the rules of the house that no linter knows. Prints each breach; 1 if there is one."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from estoria import core

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "packages" / "estoria-core"
FILES = ("pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "changes", "src", "tests")
SUITES = (
    core.EventStore,
    core.GlobalReader,
    core.StreamDeleter,
    core.StreamTruncator,
    core.StreamLister,
    core.TransactionSharing,
    core.SnapshotStore,
    core.AggregateCache,
    core.CheckpointStore,
)
OPTIONAL_KEYS = re.compile(r"project\.(entry-points|optional-dependencies)(\.|$)")
"""A package has the extras and entry points that it needs."""

CORE_DEPENDENCIES = {"msgspec"}


def main() -> int:
    """Check every package."""
    breaches = [breach for package in packages(ROOT) for breach in check(package)]
    for breach in breaches:
        print(breach)  # noqa: T201 - what the command is for
    return 1 if breaches else 0


def packages(root: Path) -> list[Path]:
    """The folders of the packages."""
    return sorted(path for path in (root / "packages").iterdir() if path.is_dir())


def check(package: Path) -> Iterator[str]:
    """What this package breaks."""
    yield from check_files(package)
    yield from check_keys(package)
    yield from check_imports(package)
    yield from check_suites(package)
    yield from check_waivers(package)


def leaf(package: Path) -> Path:
    """The one folder that the distribution owns."""
    return package / "src" / "estoria" / package.name.removeprefix("estoria-")


def check_files(package: Path) -> Iterator[str]:
    """One namespace, one owner; each package of the same shape."""
    namespace = package / "src" / "estoria"
    if (namespace / "__init__.py").exists():
        yield f"{namespace}/__init__.py breaks every other package: delete it"
    if not (leaf(package) / "py.typed").exists():
        yield f"{leaf(package)} has no py.typed"
    for found in namespace.iterdir():
        if found.name not in (leaf(package).name, "__init__.py", "__pycache__"):
            yield f"{found} is not {package.name}'s to own"
    for name in FILES:
        if not (package / name).exists():
            yield f"{package} has no {name}"


def check_keys(package: Path) -> Iterator[str]:
    """The same keys in the same order in each pyproject.toml."""
    expected = [key for key in keys(MODEL) if not OPTIONAL_KEYS.match(key)]
    found = [key for key in keys(package) if not OPTIONAL_KEYS.match(key)]
    if expected != found:
        odd = [key for key in found if key not in expected]
        odd += [key for key in expected if key not in found]
        yield f"{package}/pyproject.toml: keys differ from estoria-core's in {odd or 'order'}"
    project = tomllib.loads((package / "pyproject.toml").read_text())["project"]
    if project["name"] != package.name:
        yield f"{package}/pyproject.toml: the name is {project['name']}"
    names = {requirement.split(">")[0] for requirement in project["dependencies"]}
    if package == MODEL and names != CORE_DEPENDENCIES:
        yield f"{package}/pyproject.toml: core depends on {sorted(CORE_DEPENDENCIES)} alone"


def keys(package: Path) -> list[str]:
    """The keys of its pyproject.toml, in order, down to those of the tables below a table."""
    tables = tomllib.loads((package / "pyproject.toml").read_text())
    found = []
    for name, table in tables.items():
        for key, value in table.items():
            found.append(f"{name}.{key}")
            if isinstance(value, dict):
                found += [f"{name}.{key}.{inner}" for inner in value]
    return found


def check_imports(package: Path) -> Iterator[str]:
    """Arrows point at core, and only at what core makes public."""
    own = f"estoria.{leaf(package).name}"
    for path in sorted((package / "src").rglob("*.py")):
        for module in imported(path):
            if not module.startswith("estoria.") or is_within(module, own):
                continue
            if package == MODEL or not is_within(module, "estoria.core"):
                yield f"{path} imports {module}: only core may be imported"
            elif any(part.startswith("_") for part in module.split(".")):
                yield f"{path} imports {module}: it is private to core"


def imported(path: Path) -> Iterator[str]:
    """The names of the modules that this file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            if node.module == "estoria":
                yield from (f"estoria.{name.name}" for name in node.names)
            else:
                yield node.module


def is_within(module: str, package: str) -> bool:
    """Whether it is this package or something below it."""
    return module == package or module.startswith(package + ".")


def check_suites(package: Path) -> Iterator[str]:
    """A store that has an ability runs that ability's suite."""
    tested = list(acceptance_tests(package))
    for store in public_classes(f"estoria.{leaf(package).name}"):
        for protocol in SUITES:
            suite = f"{protocol.__name__}Acceptance"
            if issubclass(store, protocol) and not any(
                suite in bases and store.__name__ in names for bases, names in tested
            ):
                yield f"{package}: {store.__name__} is a {protocol.__name__} without {suite}"


def public_classes(module_name: str) -> Iterator[type]:
    """The classes of the package and of its public subpackages, protocols and aggregates apart."""
    module = import_module(module_name)
    for name in getattr(module, "__all__", ()):
        item = getattr(module, name)
        if (
            isinstance(item, type)
            and not getattr(item, "_is_protocol", False)
            and not issubclass(item, core.AggregateStore)
        ):
            yield item
    for found in iter_modules(module.__path__):
        if found.ispkg and not found.name.startswith("_") and found.name != "testing":
            yield from public_classes(f"{module_name}.{found.name}")


def acceptance_tests(package: Path) -> Iterator[tuple[set[str], set[str]]]:
    """For each test class: the names of its bases, and all names that its module mentions."""
    for path in sorted((package / "tests").rglob("test_*.py")):
        tree = ast.parse(path.read_text())
        names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield {base.id for base in node.bases if isinstance(base, ast.Name)}, names


def check_waivers(package: Path) -> Iterator[str]:
    """What is waived stands in the README."""
    readme = package / "README.md"
    listed = readme.read_text() if readme.exists() else ""
    for path in sorted((package / "tests").rglob("test_*.py")):
        for clause in waived(ast.parse(path.read_text())):
            if clause not in listed:
                yield f"{readme} doesn't list the waiver of {clause}"


def waived(module: ast.Module) -> Iterator[str]:
    """The clauses that the test classes of this module waive."""
    for test_class in module.body:
        if not isinstance(test_class, ast.ClassDef):
            continue
        for node in test_class.body:
            if isinstance(node, ast.Assign) and isinstance(node.value, ast.Dict):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
                if names == ["waived"]:
                    yield from (str(getattr(key, "value", "")) for key in node.value.keys)


if __name__ == "__main__":
    sys.exit(main())
