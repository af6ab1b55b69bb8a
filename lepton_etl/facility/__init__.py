"""Facility: the model of cooling and management, fitted on earlier days, and what it is used for."""
