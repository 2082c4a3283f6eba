"""What Dagster loads: everything below ``defs/``, and the policy that holds for all of it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg
from dagster_shared.record import replace

from orchestration.settings import get_settings


@dg.definitions
def defs() -> dg.Definitions:
    """Load one folder per stage, and let the owner of the settings own every asset that names none."""
    loaded = dg.load_from_defs_folder(path_within_project=Path(__file__).parent)
    owner = get_settings().owner
    if owner is None:
        return loaded
    # A module that imports another one's asset brings it along: each asset once, or its copies would clash.
    every = {id(asset): asset for asset in loaded.assets or ()}.values()
    assets = [asset for asset in every if isinstance(asset, dg.AssetsDefinition | dg.AssetSpec)]
    owned = dg.map_asset_specs(
        lambda spec: spec if spec.owners else spec.replace_attributes(owners=[owner]), assets
    )
    rest = [asset for asset in every if not isinstance(asset, dg.AssetsDefinition | dg.AssetSpec)]
    return replace(loaded, assets=[*owned, *rest])
