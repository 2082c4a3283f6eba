"""Landing files to lake: source specs, readers, the contract and the quarantine. Knows no Dagster."""
