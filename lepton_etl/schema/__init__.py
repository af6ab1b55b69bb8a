"""The field dictionary and the tables, a module a domain; types, comments and constraints come from here."""
