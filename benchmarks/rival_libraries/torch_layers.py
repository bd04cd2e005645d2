"""A Keras model as a PyTorch module with the same weights, layer by layer, in PyTorch's own where it has them."""

from __future__ import annotations

import keras
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

ACTIVATIONS = {
    "linear": nn.Identity(),
    "relu": nn.ReLU(),
    "sigmoid": nn.Sigmoid(),
    "softmax": nn.Softmax(dim=-1),
    "tanh": nn.Tanh(),
}


def translate(model):
    """A module that takes and returns what the Keras functional `model` (one input, one output) does."""
    if isinstance(model, keras.Sequential):
        model = model._functional
    return Graph(model)


class Graph(nn.Module):
    """The layers of a functional model, in their order, each with the numbers of the values it takes."""

    def __init__(self, model):
        super().__init__()
        self.layers, self.sources = nn.ModuleList(), []
        numbers = {id(model.inputs[0]): 0}
        for layer in model.layers:
            if isinstance(layer, keras.layers.InputLayer):
                continue
            node = layer._inbound_nodes[-1]
            # What is left out is the mask, which Keras hands on as a tensor too.
            self.sources.append([numbers[id(tensor)] for tensor in node.input_tensors if id(tensor) in numbers])
            self.layers.append(LAYERS[type(layer)](layer))
            numbers[id(node.outputs[0])] = len(self.layers)

    def forward(self, x):
        values, lengths = [x], None
        for layer, sources in zip(self.layers, self.sources, strict=True):
            taken = [values[source] for source in sources]
            if isinstance(layer, Masking):
                lengths = layer.lengths(*taken)
            if isinstance(layer, Recurrent) and lengths is not None:
                values.append(layer(*taken, lengths))
            else:
                values.append(layer(*taken))
        return values[-1]


class Masking(nn.Module):
    """Tells lengths instead of a mask: what is masked lies at the end."""

    def __init__(self, layer):
        super().__init__()
        self.value = float(layer.mask_value)

    def lengths(self, x):
        return (x != self.value).any(-1).sum(1)

    def forward(self, x):
        return x


class Recurrent(nn.Module):
    """`nn.LSTM` or `nn.GRU`, in one direction or two."""

    def __init__(self, layer):
        super().__init__()
        both = isinstance(layer, keras.layers.Bidirectional)
        directions = [layer.forward_layer, layer.backward_layer] if both else [layer]
        self.sequences = layer.return_sequences
        first = directions[0]
        kind = {keras.layers.LSTM: nn.LSTM, keras.layers.GRU: nn.GRU}[type(first)]
        width = first.cell.kernel.shape[0]
        self.rnn = kind(width, first.units, batch_first=True, bidirectional=both)
        for direction, suffix in zip(directions, ("", "_reverse"), strict=False):
            for name, value in weights(direction).items():
                getattr(self.rnn, f"{name}_l0{suffix}").data = value

    def forward(self, x, lengths=None):
        if lengths is not None:
            x = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        sequences, last = self.rnn(x)
        if self.sequences:
            return sequences
        hidden = last[0] if isinstance(last, tuple) else last
        return torch.cat(tuple(hidden), dim=-1)


def weights(layer):
    """Kernels and biases of one direction under PyTorch's names, transposed and in its order of gates."""
    kernel, recurrent, bias = (tensor(value) for value in layer.get_weights())
    if isinstance(layer, keras.layers.GRU):
        # Keras: update, reset, hidden; PyTorch: reset, update, hidden. Both biases, as reset comes after the product.
        kernel, recurrent, bias = (swapped(value) for value in (kernel, recurrent, bias))
        inner, outer = bias
    else:
        inner, outer = bias, torch.zeros_like(bias)
    return {
        "weight_ih": kernel.T.contiguous(),
        "weight_hh": recurrent.T.contiguous(),
        "bias_ih": inner.contiguous(),
        "bias_hh": outer.contiguous(),
    }


def swapped(value):
    update, reset, hidden = value.chunk(3, dim=-1)
    return torch.cat([reset, update, hidden], dim=-1)


def tensor(value):
    return torch.from_numpy(value.copy())


class OwnLstm(nn.Module):
    """An LSTM with another activation than tanh, which `nn.LSTM` does not have."""

    def __init__(self, layer):
        super().__init__()
        kernel, recurrent, bias = (tensor(value) for value in layer.get_weights())
        self.given = nn.Linear(*kernel.shape)
        self.given.weight.data, self.given.bias.data = kernel.T.contiguous(), bias
        self.carried = nn.Linear(*recurrent.shape, bias=False)
        self.carried.weight.data = recurrent.T.contiguous()
        self.activation, self.sequences = ACTIVATIONS[layer.activation.__name__], layer.return_sequences

    def forward(self, x):
        given = self.given(x)
        h = given.new_zeros(given.shape[0], given.shape[2] // 4)
        c, steps = h, []
        for step in given.unbind(1):
            i, f, g, o = (step + self.carried(h)).chunk(4, dim=-1)
            c = torch.sigmoid(f) * c + torch.sigmoid(i) * self.activation(g)
            h = torch.sigmoid(o) * self.activation(c)
            steps.append(h)
        return torch.stack(steps, dim=1) if self.sequences else h


class ConvLstm(nn.Module):
    """`ConvLSTM2D` by hand: the convolutions of all inputs at once, then one of the state a step.

    Frames keep their channels last, as Keras has them and as PyTorch's convolutions on a CPU like them.
    """

    def __init__(self, layer):
        super().__init__()
        kernel, recurrent, bias = layer.get_weights()
        self.given, self.carried = convolution(kernel, bias), convolution(recurrent, None)
        self.activation, self.sequences = ACTIVATIONS[layer.activation.__name__], layer.return_sequences

    def forward(self, x):
        rows, count = x.shape[:2]
        given = self.given(x.flatten(0, 1).permute(0, 3, 1, 2))
        given = given.unflatten(0, (rows, count))
        c = h = None
        steps = []
        for step in given.unbind(1):
            if h is not None:
                step = step + self.carried(h)
            i, f, g, o = step.chunk(4, dim=1)
            added = torch.sigmoid(i) * self.activation(g)
            c = added if c is None else torch.sigmoid(f) * c + added
            h = torch.sigmoid(o) * self.activation(c)
            steps.append(h.permute(0, 2, 3, 1))
        return torch.stack(steps, dim=1) if self.sequences else steps[-1]


class EachStep(nn.Module):
    """`TimeDistributed(Conv2D)`: all steps of all rows as one batch."""

    def __init__(self, layer):
        super().__init__()
        self.convolution = convolution(*layer.layer.get_weights())

    def forward(self, x):
        made = self.convolution(x.flatten(0, 1).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return made.unflatten(0, x.shape[:2])


def convolution(kernel, bias):
    """A convolution that keeps the size, from a kernel (height, width, channels in, channels out)."""
    made = nn.Conv2d(kernel.shape[2], kernel.shape[3], tuple(kernel.shape[:2]), padding="same", bias=bias is not None)
    made.weight.data = tensor(kernel.transpose(3, 2, 0, 1))
    if bias is not None:
        made.bias.data = tensor(bias)
    return made.to(memory_format=torch.channels_last)


class LastStep(nn.Module):
    """`Cropping1D` from the front."""

    def __init__(self, layer):
        super().__init__()
        self.front, self.back = layer.cropping

    def forward(self, x):
        return x[:, self.front : x.shape[1] - self.back]


class Sum(nn.Module):
    """`Add`."""

    def forward(self, *values):
        return sum(values[1:], start=values[0])


def dense(layer):
    kernel, bias = (tensor(value) for value in layer.get_weights())
    made = nn.Linear(*kernel.shape)
    made.weight.data, made.bias.data = kernel.T.contiguous(), bias
    return nn.Sequential(made, ACTIVATIONS[layer.activation.__name__])


def lstm(layer):
    return Recurrent(layer) if layer.activation.__name__ == "tanh" else OwnLstm(layer)


LAYERS = {
    keras.layers.Add: lambda layer: Sum(),  # noqa: ARG005
    keras.layers.Bidirectional: Recurrent,
    keras.layers.ConvLSTM2D: ConvLstm,
    keras.layers.Cropping1D: LastStep,
    keras.layers.Dense: dense,
    keras.layers.Dropout: lambda layer: nn.Identity(),  # noqa: ARG005
    keras.layers.Embedding: lambda layer: nn.Embedding.from_pretrained(tensor(layer.get_weights()[0])),
    keras.layers.Flatten: lambda layer: nn.Flatten(),  # noqa: ARG005
    keras.layers.GRU: Recurrent,
    keras.layers.LSTM: lstm,
    keras.layers.Masking: Masking,
    keras.layers.TimeDistributed: EachStep,
}
