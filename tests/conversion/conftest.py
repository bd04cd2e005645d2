from __future__ import annotations

import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _seeded():
    import keras

    keras.utils.set_random_seed(7)


@pytest.fixture
def randomized():
    """Give every weight noise: Keras starts biases at zero, where a mistaken bias would not show."""

    def fill(model, scale=0.3):
        random = np.random.default_rng(11)
        for weight in model.trainable_weights:
            if "bias" in weight.path:
                weight.assign(random.normal(0, scale, weight.shape))
        return model

    return fill
