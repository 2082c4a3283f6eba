"""Recipes of tokenizers: ``ml/recipes/tokenizers/NAME.yaml``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import field_validator

from ml import recipes
from ml.artifacts import ArtifactError
from ml.tokenizers import tokenizer_class

_FOLDER = Path(recipes.__file__).parent / "tokenizers"


class TokenizerRecipe(recipes.Published):
    """A published tokenizer as data.

    Parameters
    ----------
    tokenizer
        ``kind`` and parameters; those that the file leaves out are filled in.
    """

    tokenizer: dict[str, Any]

    @field_validator("tokenizer")
    @classmethod
    def _fill(cls, value: dict[str, Any]) -> dict[str, Any]:
        try:
            params = tokenizer_class(str(value.get("kind"))).Params
        except ArtifactError as error:
            raise ValueError(str(error)) from None
        return recipes.complete(value, str(value["kind"]), params)

    @property
    def kind(self) -> str:
        """The tokenizer's kind."""
        return str(self.tokenizer["kind"])

    @property
    def params(self) -> dict[str, Any]:
        """Its parameters, all of them."""
        return {name: value for name, value in self.tokenizer.items() if name != "kind"}


def tokenizer_recipe_names() -> list[str]:
    """Return the names of the tokenizers' recipes that come with Tessera; imports no tokenizer."""
    return recipes.names(_FOLDER)


def load_tokenizer_recipe(name_or_path: str | Path) -> TokenizerRecipe:
    """Read a tokenizer's recipe by name, or from a YAML file of one's own.

    Raises
    ------
    RecipeError
        If there is no such recipe, or if it is not valid; the message is one line and lists what is known.
    """
    return recipes.load(name_or_path, _FOLDER, "tokenizer recipe", TokenizerRecipe)
