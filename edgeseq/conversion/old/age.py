"""Which Keras wrote a file, and what that Keras did differently from the one that runs."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Age:
    """The version of Keras that wrote a model or its weights."""

    text: str
    """As the file has it, such as ``2.0.5`` or ``2.2.4-tf``."""
    version: tuple[int, ...]
    """Its numbers; TensorFlow's own Keras counts on from 2.4 alone."""
    tensorflow: bool
    """Whether TensorFlow's own Keras wrote it, rather than the package that also ran on Theano and CNTK."""

    @staticmethod
    def parse(text: str) -> Age | None:
        """The age that a version says; None for what is not a version."""
        numbers = re.match(r"\d+(\.\d+)*", text)
        if numbers is None:
            return None
        version = tuple(int(number) for number in numbers.group().split("."))
        return Age(text=text, version=version, tensorflow="-tf" in text or version >= (2, 4))

    @property
    def old(self) -> bool:
        """Whether Keras 3 gives its files another meaning."""
        return self.version < (3,)

    @property
    def first(self) -> bool:
        """Whether it is Keras 1, whose names of options and layouts of weights are its own."""
        return self.version < (2,)

    @property
    def gates_are_hard(self) -> bool | None:
        """Whether an LSTM or GRU that does not say has hard_sigmoid gates; None where TensorFlow 1 and 2 differ."""
        if self.version >= (2, 3):
            return False
        return None if self.tensorflow else True

    @property
    def masks_like_keras_3(self) -> bool:
        """Whether masked steps of recurrent layers put out what they do today.

        Before, the first masked steps of a sequence put out the initial state, and a Bidirectional layer its last
        output (`tf.where(mask, output, states[0])` in `K.rnn` of Keras 2.0 to 2.3). TensorFlow's Keras 2.1 is not told
        apart from that, and its 2.2 covers TensorFlow 1.13 to 2.1.
        """
        return self.tensorflow and self.version >= (2, 2, 4)


KERAS_1 = Age(text="1", version=(1,), tensorflow=False)
"""Where nothing is said: Keras 2 and 3 put their version into every file, Keras 1 not into weights."""
