"""Files of Keras 1 and 2, opened with the meaning they were trained with. `file` is the way in."""
