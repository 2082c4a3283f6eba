from __future__ import annotations

from pathlib import Path

import pytest

from ml.artifacts import ArtifactError
from ml.recipes import RecipeError
from orchestration.models import check_recipes
from orchestration.settings import Settings


def test_recipes_that_cannot_be_trained_are_refused_before_others_are(tmp_path: Path) -> None:
    own = tmp_path / "mine.yaml"
    own.write_text("title: Mine\ntokenizer: fsq\nrecommender: {kind: popularity}\n")

    def check(*recipes: str, **changes: str) -> None:
        check_recipes(Settings(home=tmp_path, data=None, recipes=recipes, **changes))

    check("transitions", str(own), tokenizer="fsq")
    with pytest.raises(ArtifactError, match="is of semantic IDs by 'fsq': set TESSERA_TOKENIZER=fsq"):
        check("transitions", str(own))
    with pytest.raises(ArtifactError, match="must name 'transitions'"):
        check("popularity")
    with pytest.raises(RecipeError, match="unknown recipe 'magic'"):
        check("transitions", "magic")
