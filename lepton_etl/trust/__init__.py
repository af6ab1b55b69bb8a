"""Show that figures are right and fair, and that nobody learns about a person from them."""
