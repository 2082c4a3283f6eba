"""Recipes: one YAML a published system, naming its part, its parameters and the numbers of its paper.

Recommenders stand in this folder; those of ``tokenizers/`` are read by `ml.tokenizers.recipes`, as training knows no tokenizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

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
    recommender
        ``kind`` and parameters; those that the file leaves out are filled in, so that a recipe is complete.
    """

    published: dict[str, dict[str, float]] = Field(default_factory=dict)
    recommender: dict[str, Any]

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
    """Read a recommender's recipe by name, or from a YAML file of one's own.

    Raises
    ------
    RecipeError
        If there is no such recipe, or if it is not valid; the message is one line and lists what is known.
    """
    return load(name_or_path, _FOLDER, "recipe", Recipe)


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
    try:
        return model.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise RecipeError(f"{path}: {_one_line(error)}") from None


def complete(given: dict[str, Any], kind: str, params: type[BaseModel]) -> dict[str, Any]:
    """Return kind and all parameters, those that were not given filled in."""
    given = {name: value for name, value in given.items() if name != "kind"}
    if unknown := sorted(set(given) - set(params.model_fields)):
        known = ", ".join(params.model_fields)
        raise ValueError(f"{kind} has no parameter {unknown[0]!r}; known: {known}")
    return {"kind": kind, **params.model_validate(given).model_dump(mode="json")}


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"])
    return f"{place}: {first['msg'].removeprefix('Value error, ')}"
