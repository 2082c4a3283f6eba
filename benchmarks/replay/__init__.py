"""The nightly job run day by day over logs that have ended, and what its lists were worth on the day after each night."""
