"""Indicators of ISO/IEC 30134 and EN 50600-4, each with edition, category and period, and their exports."""
