"""Everything that learns. Imports neither Dagster, dbt, Feast nor DuckDB."""

import os

# Read when torch is first loaded. Threads that wait by spinning take the cores from the process they wait for: two
# trainings side by side on two cores, or one beside a database, ran fifteen times slower than one thread would have.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
