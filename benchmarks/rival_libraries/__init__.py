"""One module a library that can run a Keras sequence model; `registry.RIVALS` has them all."""
