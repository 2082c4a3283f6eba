"""What a simulated item is called, how it is described, and what is typed to find it."""

from __future__ import annotations

from typing import Any

from orchestration.simulate.catalogue import BRANDS_PER_DEPARTMENT, Catalogue, tier_of
from orchestration.simulate.vocabulary import (
    BRAND_ENDINGS,
    BRAND_STEMS,
    COLOURS,
    MATERIALS,
    MODELS,
    STYLES,
    TIERS,
)

QUERY_FORMS = 5
_STYLE_NAMES = tuple(STYLES)


def brand_name(brand: int) -> str:
    """Return the name of a brand; each department has its own."""
    return BRAND_STEMS[brand // BRANDS_PER_DEPARTMENT] + BRAND_ENDINGS[brand % BRANDS_PER_DEPARTMENT]


def item_record(catalogue: Catalogue, item: int) -> dict[str, Any]:
    """Return title, description, brand, categories and attributes of an item, as its landing line holds them."""
    leaf = catalogue.leaves[catalogue.leaf[item]]
    department, category, _ = leaf.path
    brand, style = brand_name(int(catalogue.brand[item])), _STYLE_NAMES[catalogue.style[item]]
    colour, material = COLOURS[catalogue.colour[item]], MATERIALS[department][catalogue.material[item]]
    tier = tier_of(int(catalogue.brand[item]))
    number = int(catalogue.model[item])
    kept = number % len(leaf.features)
    features = [feature for i, feature in enumerate(leaf.features) if i != kept]
    noun = _bare(leaf.noun)
    title = f"{brand} {MODELS[number % len(MODELS)]} {number % 90 + 10} {style} {material} {noun} in {colour}"
    description = (
        f"{_article(style)} {style} {leaf.noun} for {category.lower()}, with {features[0]} and {features[1]}. "
        f"{STYLES[style]}. Made with {material}, in {colour}. {TIERS[tier][0]} by {brand}."
    )
    return {
        "title": title,
        "description": description,
        "brand": brand,
        "categories": list(leaf.path),
        "attributes": {"style": style, "colour": colour, "material": material, "tier": tier},
    }


def query_text(catalogue: Catalogue, item: int, form: int) -> str:
    """Return what somebody types who wants this item; ``form`` below ``QUERY_FORMS`` says how they put it."""
    leaf = catalogue.leaves[catalogue.leaf[item]]
    wish = (
        "",
        _STYLE_NAMES[catalogue.style[item]],
        COLOURS[catalogue.colour[item]],
        MATERIALS[leaf.path[0]][catalogue.material[item]],
        brand_name(int(catalogue.brand[item])).lower(),
    )[form]
    return f"{wish} {_bare(leaf.noun)}".strip()


def _bare(noun: str) -> str:
    """Return a noun without its measure word: a pair of shoes is looked for as shoes."""
    return noun.partition(" of ")[2] or noun


def _article(word: str) -> str:
    return "An" if word[0] in "aeiou" else "A"
