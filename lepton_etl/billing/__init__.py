"""Tariffs, hourly costs, and the supplier's invoices."""
