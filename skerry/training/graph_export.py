"""From torch to ONNX: trace a function of (parameters, x, y) with a free batch dimension, convert, minimise.

The whole step, gradient included, becomes one graph of plain ONNX operators, so that a device needs no autograd.
"""

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import onnx
import torch
from torch._decomp import core_aten_decompositions, decomposition_table
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.nn.attention import SDPBackend, sdpa_kernel

from skerry.training.export_error import ExportError
from skerry.training.functional_model import TensorFunction

OPSET = 20
EXAMPLE_BATCH = 7  # any number but 0 and 1, which torch takes for constants, and best one that is no layer's width

aten = torch.ops.aten


def export(
    function: TensorFunction, arguments: Sequence[torch.Tensor], inputs: Sequence[str], outputs: Sequence[str]
) -> bytes:
    """Return `function` as an ONNX model.

    `arguments` are examples: the first is the flat vector, of fixed size; the others share a free dimension 0.

    Raises:
        ExportError: the function cannot be traced or converted, or is not a function of its arguments alone.
    """
    traced = trace(function, arguments)
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    shapes = (None, *({0: batch} for _ in arguments[1:]))
    with _quiet():
        try:
            program = torch.onnx.export(
                traced,
                tuple(arguments),
                dynamo=True,
                verbose=False,
                dynamic_shapes=shapes,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                optimize=True,
            )
        except Exception as error:  # torch's exporter raises many kinds
            raise ExportError(f"no ONNX form: {_reason(error)}") from error
    assert program is not None
    return minimised(program.model_proto)


def trace(function: TensorFunction, arguments: Sequence[torch.Tensor]) -> torch.fx.GraphModule:
    """Return `function` as a graph of core operators, its batch dimension symbolic.

    Raises:
        ExportError: tracing fails, or the graph draws random numbers.
    """
    shapes = ShapeEnv()
    mode = FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True)
    fakes = [_fake(mode, tensor, number) for number, tensor in enumerate(arguments)]
    with ExitStack() as stack:
        stack.enter_context(_quiet())
        stack.enter_context(mode)  # factories such as zeros must make fake tensors, too
        stack.enter_context(enable_python_dispatcher())  # else C++ kernels freeze the batch at the example's size
        stack.enter_context(
            torch.backends.mkldnn.flags(enabled=False, allow_tf32=None)
        )  # no vendor kernels in the graph
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))  # no fused attention
        try:
            tracer = make_fx(
                lambda *given: function(*given),  # noqa: PLW0108 - of a bound method, self would be counted too
                decomposition_table=_decompositions(),
                _allow_non_fake_inputs=True,
            )
            traced = tracer(*fakes)
        except ExportError:
            raise
        except Exception as error:  # whatever the model's own code raises
            raise ExportError(f"cannot be traced: {_reason(error)}") from error
    for node in traced.graph.nodes:
        if node.op == "call_function" and torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
            raise ExportError(f"draws random numbers ({node.target}): a step must depend on its inputs alone")
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def minimised(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes without names of origin and types of intermediate values, which nobody runs."""
    graph = model.graph
    del graph.value_info[:]
    del graph.metadata_props[:]
    for node in graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
        node.name = ""
    for value in (*graph.input, *graph.output, *graph.initializer):
        del value.metadata_props[:]
        value.doc_string = ""
    del model.metadata_props[:]
    graph.doc_string = model.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()


def _fake(mode: FakeTensorMode, tensor: torch.Tensor, number: int) -> torch.Tensor:
    sizes = [DimDynamic.STATIC] * tensor.dim()
    if number > 0:
        sizes[0] = DimDynamic.DUCK  # equal sizes are one symbol: x and y share the batch
    context = StatelessSymbolicContext(dynamic_sizes=sizes, constraint_sizes=[None] * tensor.dim())
    return mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"argument_{number}"))


def _decompositions() -> dict[torch._ops.OperatorBase, object]:
    table: dict[torch._ops.OperatorBase, object] = dict(core_aten_decompositions())
    # Left whole, batch norm converts without an error into ONNX's form for inference, and its gradient is wrong.
    for operator in (
        aten.native_batch_norm.default,
        aten._native_batch_norm_legit.default,
        aten._native_batch_norm_legit.no_stats,
    ):
        table[operator] = decomposition_table[operator]
    return table


def _reason(error: BaseException) -> str:
    """Return the innermost cause in one line."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes to itself; what goes wrong is raised."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir", "torch.export")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
