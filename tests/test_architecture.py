"""The layout and the import rules of ARCHITECTURE.md, read from the sources."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("ddspx", "vae", "styletransfer")
SOURCES = sorted(p for name in PACKAGES for p in (ROOT / name).rglob("*.py"))
# Level of a ddspx module: it may import only modules of a lower level, or of its
# own family (effects, data, training are folders of one level).
LEVELS = {
    "types": 0,
    "units": 0,
    "parameters": 1,
    "rates": 1,
    "signal": 1,
    "filters": 1,
    "oscillators": 1,
    "audio": 1,
    "cache": 2,
    "data": 2,
    "delay_lines": 2,
    "comb_filters": 2,
    "envelopes": 2,
    "oversampling": 2,
    "waveshaping": 2,
    "effects": 3,
    "filterbank": 2,
    "features": 2,
    "constant_q": 2,
    "pitch": 3,
    "curves": 2,
    "control_gains": 3,
    "notes": 3,
    "timbre": 3,
    "losses": 3,
    "spectral_terms": 3,
    "parameter_losses": 3,
    "plotting": 3,
    "training": 3,
    "synths": 4,
    "models": 5,
    "tasks": 6,
    "resynthesis": 7,
}
OWN_ORDER = {"vae": 1, "styletransfer": 2, "ddspx": 0}


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the full name"
            assert node.module is not None
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(path: Path) -> set[str]:
    return {name.split(".")[0] for name in imports(path)}


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_imports_point_one_way(path):
    name = module_name(path)
    package = name.split(".")[0]
    for other in roots(path) & set(PACKAGES):
        assert OWN_ORDER[other] <= OWN_ORDER[package], f"{name} imports {other}"
    assert not roots(path) & {"scripts", "tests"}, f"{name} imports scripts or tests"
    if package == "ddspx" and name.count("."):
        own = name.split(".")[1]
        assert own in LEVELS, f"{name}: give it a level here and in ARCHITECTURE.md"
        used = {n.split(".")[1] for n in imports(path) if n.startswith("ddspx.")}
        for other in used - {own}:
            assert LEVELS[other] < LEVELS[own], f"{name} imports ddspx.{other}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_libraries_stay_in_their_place(path):
    name = module_name(path)
    used = roots(path)
    if "flax" in used:
        assert any(w in name for w in ("models", "proxy")), f"{name} imports flax"
    if used & {"pedalboard", "lilv", "dawdreamer"}:
        assert name.startswith("styletransfer.hosts"), f"{name} imports a plug-in host"
    if "orbax" in used:
        assert name == "ddspx.training.checkpoint", f"{name} imports orbax"
    if "tensorboard" in used:
        assert name == "ddspx.training.logging", f"{name} imports tensorboard"
    if name.startswith(("ddspx.audio", "ddspx.data", "styletransfer.hosts")):
        assert not used & {"jax", "flax", "optax"}, f"{name} imports JAX"
    assert not used & {"tensorflow", "torch", "argparse", "absl"}, f"{name}: {used}"
    if name.startswith("ddspx.training"):
        known = {"effects", "losses", "models", "synths", "filterbank", "tasks"}
        seen = {n.split(".")[1] for n in imports(path) if n.startswith("ddspx.")}
        assert not seen & known, f"{name} knows {seen & known}"


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_environment_stays_in_scripts(path):
    source = path.read_text()
    for phrase in ("sys.argv", "jax.config.update"):
        assert phrase not in source, f"{path}: {phrase} belongs in scripts"
    if "os.environ" in source:
        # A worker process inherits a prepared environment: the one reason to read it.
        assert module_name(path).startswith("styletransfer.hosts"), path


@pytest.mark.parametrize("path", SOURCES, ids=module_name)
def test_modules_have_a_docstring_and_a_bounded_size(path):
    text = path.read_text()
    assert ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= 500, f"{path} is over 500 lines: split by concept"
    assert path.stem not in {"utils", "util", "misc", "common", "helpers", "helper"}


def test_top_level_is_as_designed():
    allowed = {
        "ddspx", "vae", "styletransfer", "scripts", "tests", "configs", "checkpoints",
        "setup.py", "README.md", "ARCHITECTURE.md", "pyproject.toml", "constraints.txt",
        "Makefile", "CHANGELOG.md", "LICENSE", "docs",
    }  # fmt: skip
    built = {"build", "dist", "runs", "practice", "demo_output"}
    names = {p.name for p in ROOT.iterdir() if not p.name.startswith(".")}
    names = {n for n in names if not n.endswith(".egg-info") and n not in built}
    assert names <= allowed, f"not in the layout: {sorted(names - allowed)}"
