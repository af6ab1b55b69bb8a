"""Publication: what was said when, what changed since and why."""
