"""PyTorch with the same weights: eager, compiled by inductor, and in dynamic int8."""

from __future__ import annotations

import sys

from rival_libraries.rival import Opened, Rival

# Triton's LLVM and TensorFlow's end a process that has both, and on a CPU inductor does without Triton.
sys.modules.setdefault("triton", None)


def open_model(*, compiled=False, int8=False):
    def make(case, _, inputs, __):
        import torch

        from rival_libraries.torch_layers import translate

        model = translate(case.model).eval()
        given = torch.from_numpy(inputs)
        if int8:
            from torch.ao.quantization import quantize_dynamic

            # What has no int8 form, such as convolutions, stays in fp32.
            model = quantize_dynamic(model, {torch.nn.LSTM, torch.nn.GRU, torch.nn.Linear}, dtype=torch.qint8)
        if compiled:
            import torch._dynamo.config
            import torch._inductor.config

            # An LSTM becomes part of the graph; without it the graph is split and slower than eager. Of a GRU every
            # step would be written out, which takes minutes to compile.
            torch._dynamo.config.allow_rnn = not any(isinstance(module, torch.nn.GRU) for module in model.modules())

            # What PyTorch advises for inference on a CPU: weights become constants in the order that kernels want.
            torch._inductor.config.freezing = True
            model = torch.compile(model, backend="inductor")

        def call():
            with torch.inference_mode():
                return model(given).numpy()

        return Opened(call=call, returns_states=not case.states)

    return make


def fill_cache(case, path, inputs, threads):
    """Compile once before anything is measured: inductor keeps what the C++ compiler made."""
    open_model(compiled=True)(case, None, inputs, threads).call()
    path.write_text("its code is in inductor's cache\n", encoding="utf-8")


RIVALS = (
    Rival(name="PyTorch", provider="torch", open=open_model()),
    Rival(
        name="PyTorch compiled", provider="torch", open=open_model(compiled=True), convert=fill_cache,
        file="inductor.txt", per=("batch", "threads"),
    ),
    Rival(name="PyTorch dynamic int8", provider="torch", open=open_model(int8=True), precision="int8"),
)  # fmt: skip
