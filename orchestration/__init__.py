"""The Dagster project: assets, checks, jobs, schedules and sensors. The only package that may import every other one."""
