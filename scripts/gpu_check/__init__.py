"""`scripts/gpu-check`: a set of models with golden answers, and what a machine's providers make of them."""
