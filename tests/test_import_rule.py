"""House rule: orchestration -> serving -> ml, never back; training runs with little installed."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGINES = {"dagster", "dagster_dbt", "dbt", "duckdb", "feast", "great_expectations"}
LEARNING = {"torch", "lightning", "faiss", "sklearn", "scipy", "mlflow", "sentence_transformers"}
#: Package -> what it must not import, at any depth of its code.
FORBIDDEN = {
    "ml": ENGINES | {"orchestration", "serving", "feature_repo"},
    "serving": {"dagster", "dagster_dbt", "dbt", "great_expectations", "orchestration"},
    "feature_repo": ENGINES - {"feast", "duckdb"} | LEARNING | {"orchestration", "serving", "ml"},
    "dbt_project": ENGINES | LEARNING | {"orchestration", "serving", "ml", "feature_repo"},
}
#: What `python -m ml.train` may import of the outside world, at any depth of its code.
TRAINING_NEEDS = {"torch", "lightning", "numpy", "pyarrow", "safetensors", "pydantic", "yaml"}
#: What single recommenders need beside that, of an extra.
OF_EXTRAS = {
    "ml/recommenders/generative/language_model.py": {"transformers"},
    "ml/recommenders/collaborative/als.py": {"implicit", "scipy", "threadpoolctl"},
}
TRAINING_PATH = (
    "train.py",
    "snapshot.py",
    "tensors.py",
    "histories.py",
    "artifacts.py",
    "evaluation",
    "recipes",
    "recommenders",
)


def imports(path: Path) -> set[str]:
    """Return the full names of all modules that a file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            found.add(node.module or "")
    return found


def offences(files: list[Path], forbidden: set[str]) -> list[str]:
    return [
        f"{path}: {name}"
        for path in files
        for name in sorted(imports(path))
        if name.split(".")[0] in forbidden
    ]


@pytest.mark.parametrize("package", sorted(FORBIDDEN))
def test_nothing_is_imported_against_the_flow(package: str) -> None:
    assert offences(sorted((ROOT / package).rglob("*.py")), FORBIDDEN[package]) == []


def test_an_offence_would_be_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import numpy\ndef f():\n    from dagster.core import x\n")
    assert offences([path], FORBIDDEN["ml"]) == [f"{path}: dagster.core"]


def test_training_needs_little() -> None:
    usual = TRAINING_NEEDS | set(sys.stdlib_module_names)
    for part in TRAINING_PATH:
        root = ROOT / "ml" / part
        for path in [root] if root.is_file() else sorted(root.rglob("*.py")):
            allowed = usual | OF_EXTRAS.get(path.relative_to(ROOT).as_posix(), set())
            for name in imports(path):
                own = name.split(".")[0] == "ml"
                inside = own and name.split(".")[1:2] and (ROOT / "ml" / name.split(".")[1]).with_suffix("")
                told = f"{path.relative_to(ROOT)} imports {name}"
                if inside:
                    assert any(inside.name == Path(p).stem for p in TRAINING_PATH), told
                elif not own:
                    assert name.split(".")[0] in allowed, told


def test_training_starts_without_the_rest() -> None:
    """A fresh interpreter, every recommender imported."""
    forbidden = [
        *("dagster", "dbt", "feast", "duckdb", "pandas", "sklearn", "scipy", "faiss", "mlflow"),
        *("orchestration", "serving", "feature_repo", "great_expectations", "sentence_transformers"),
    ]
    program = (
        "import sys, ml.train\n"
        "from ml.recipes import load_recipe, recipe_names\n"
        "for name in recipe_names(): load_recipe(name)\n"
        f"print([m for m in {forbidden} if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True, timeout=120
    )
    assert ran.stdout.strip() == "[]"
