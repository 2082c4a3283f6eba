"""Recipes: one YAML a published system, naming its recommender, its parameters and the numbers of its paper."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from ml.artifacts import hash_json
from ml.recommenders import recommender_class

_FOLDER = Path(__file__).parent


class RecipeError(Exception):
    """A recipe does not exist or is not valid; the message is one line."""


class Recipe(BaseModel):
    """A published system as data.

    Parameters
    ----------
    name
        The file's name without its ending.
    title
        One line for people.
    paper
        Who published it and where; None for folklore.
    published
        Dataset to metric to the paper's number, for reference.
    recommender
        ``kind`` and parameters; those that the file leaves out are filled in, so that a recipe is complete.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    paper: str | None = None
    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    recommender: dict[str, Any]

    @field_validator("recommender")
    @classmethod
    def _complete(cls, value: dict[str, Any]) -> dict[str, Any]:
        given = dict(value)
        kind = given.pop("kind", None)
        params = recommender_class(str(kind)).Params
        if unknown := sorted(set(given) - set(params.model_fields)):
            known = ", ".join(params.model_fields)
            raise ValueError(f"{kind} has no parameter {unknown[0]!r}; known: {known}")
        return {"kind": kind, **params.model_validate(given).model_dump(mode="json")}

    @property
    def training_free(self) -> bool:
        """Whether its recommender only counts."""
        return recommender_class(self.recommender["kind"]).training_free

    @property
    def hash(self) -> str:
        """Name of what it computes: kind and all parameters, not its prose."""
        return hash_json(self.recommender)


def recipe_names() -> list[str]:
    """Return the names of the recipes that come with Tessera; imports no recommender."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Read a recipe by name, or from a YAML file of one's own.

    Raises
    ------
    RecipeError
        If there is no such recipe, or if it is not valid; the message is one line and lists what is known.
    """
    path = Path(name_or_path)
    if path.suffix not in {".yaml", ".yml"}:
        if str(name_or_path) not in recipe_names():
            raise RecipeError(f"unknown recipe {str(name_or_path)!r}; known: {', '.join(recipe_names())}")
        path = _FOLDER / f"{name_or_path}.yaml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise RecipeError(f"{path} is not a recipe: it must map names to values")
    try:
        return Recipe.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
