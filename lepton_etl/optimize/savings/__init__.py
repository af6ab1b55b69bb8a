"""Whether a change saved energy: expected against realised, by baselines normalised for work and weather."""
