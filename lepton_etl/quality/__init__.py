"""The quality gate: what the rows of a run's days must fulfil before anything is published from them."""
