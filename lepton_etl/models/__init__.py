"""Models of energy: features, forward split, candidates, errors, gate, and the one door to the registry.

Importing this package loads neither MLflow nor scikit-learn: both cost seconds, and two stages need them.
"""
