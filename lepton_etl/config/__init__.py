"""The settings of a site as one tree, and its log sources."""
