"""Recipes: one YAML a published system, naming its part, its parameters and the numbers of its paper.

Recommenders stand in this folder; those of ``tokenizers/`` are read by `ml.tokenizers.recipes`, as training knows no tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ml.artifacts import hash_json
from ml.recommenders import recommender_class

_FOLDER = Path(__file__).parent


class RecipeError(Exception):
    """A recipe does not exist or is not valid; the message is one line."""


class Published(BaseModel):
    """What every recipe tells.

    Parameters
    ----------
    name
        The file's name without its ending.
    title
        One line for people.
    paper
        Who published it and where; None for folklore.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    paper: str | None = None


class Recipe(Published):
    """A published recommender as data.

    Parameters
    ----------
    published
        Dataset to metric to the paper's number, for reference.
    like
        A recipe of this folder from whose ``recommender`` this one differs in nothing but what its own says.
    recommender
        ``kind`` and parameters; those that the file leaves out are filled in, so that a recipe is complete.
    tokenizer
        Recipe of the semantic IDs that it is to be trained on; None for any, or for none.
    ablations
        Name to what is set otherwise in ``recommender``, part by part: what the paper's claim lives on, taken away.
        `load_recipe` knows each as ``RECIPE@NAME``.
    """

    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    like: str | None = None
    recommender: dict[str, Any]
    tokenizer: str | None = None
    ablations: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _take_over(cls, told: dict[str, Any]) -> dict[str, Any]:
        if (like := told.get("like")) is None:
            return told
        _, other = _read(str(like), _FOLDER, "recipe")
        if "like" in other:
            raise ValueError(f"recipe {like!r} is itself like {other['like']!r}: name that one")
        return told | {"recommender": _merged(other["recommender"], told.get("recommender", {}))}

    @field_validator("recommender")
    @classmethod
    def _fill(cls, value: dict[str, Any]) -> dict[str, Any]:
        kind = str(value.get("kind"))
        return complete(value, kind, recommender_class(kind).Params)

    @property
    def training_free(self) -> bool:
        """Whether its recommender only counts."""
        return recommender_class(self.recommender["kind"]).training_free

    @property
    def hash(self) -> str:
        """Name of what it computes: kind and all parameters, not its prose."""
        return hash_json(self.recommender)


R = TypeVar("R", bound=Published)


def recipe_names() -> list[str]:
    """Return the names of the recommenders' recipes that come with Tessera; imports no recommender."""
    return names(_FOLDER)


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recommender's recipe by name, or from a YAML file of one's own; ``RECIPE@NAME`` is an ablation of it.

    Raises
    ------
    RecipeError
        If there is no such recipe or ablation, or if it is not valid; the message is one line and lists what is known.
    """
    whole, _, ablation = str(name_or_path).partition("@")
    recipe = load(whole, _FOLDER, "recipe", Recipe)
    return _ablated(recipe, ablation) if ablation else recipe


def names(folder: Path) -> list[str]:
    """Return the names of the recipes of a folder."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def load(name_or_path: str | Path, folder: Path, what: str, model: type[R]) -> R:
    """Read a recipe of a folder by name, or from a YAML file of one's own.

    Raises
    ------
    RecipeError
        If there is no such recipe, or if it is not valid; the message is one line and lists what is known.
    """
    path, content = _read(name_or_path, folder, what)
    try:
        return model.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None


def _read(name_or_path: str | Path, folder: Path, what: str) -> tuple[Path, dict[str, Any]]:
    """Return the file of a recipe, and what it says."""
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        if str(name_or_path) not in names(folder):
            raise RecipeError(f"unknown {what} {str(name_or_path)!r}; known: {', '.join(names(folder))}")
        path = folder / f"{name_or_path}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe: it must map names to values")
    return path, content


def complete(given: dict[str, Any], kind: str, params: type[BaseModel]) -> dict[str, Any]:
    """Return kind and all parameters, those that were not given filled in."""
    given = {name: value for name, value in given.items() if name != "kind"}
    if unknown := sorted(set(given) - set(params.model_fields)):
        known = ", ".join(params.model_fields)
        raise ValueError(f"{kind} has no parameter {unknown[0]!r}; known: {known}")
    return {"kind": kind, **params.model_validate(given).model_dump(mode="json")}


def _ablated(recipe: Recipe, name: str) -> Recipe:
    """Return a recipe with what an ablation sets otherwise; it has no published numbers."""
    if name not in recipe.ablations:
        known = ", ".join(recipe.ablations) or "none"
        raise RecipeError(f"recipe {recipe.name!r} has no ablation {name!r}; known: {known}")
    told = {"name": f"{recipe.name}@{name}", "title": f"{recipe.title}: {name}", "paper": recipe.paper}
    try:
        changed = _merged(recipe.recommender, recipe.ablations[name])
        return Recipe(**told, recommender=changed, tokenizer=recipe.tokenizer)
    except ValidationError as error:
        raise RecipeError(f"{recipe.name}@{name}: {_one_line(error)}") from None


def _merged(given: Any, other: Any) -> Any:
    """Return ``given`` with ``other`` in it: mappings name by name, but a part of another kind takes nothing over."""
    if not isinstance(given, dict) or not isinstance(other, dict):
        return other
    if "kind" in other and other["kind"] != given.get("kind"):
        return other
    return given | {name: _merged(given.get(name), value) for name, value in other.items()}


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
