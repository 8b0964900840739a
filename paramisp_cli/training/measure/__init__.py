"""Quality of models and baselines on aligned pairs."""
