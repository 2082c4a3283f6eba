"""Everything that learns. Imports neither Dagster, dbt, Feast nor DuckDB."""
