"""From torch to ONNX: trace a function of (parameters, x, y) with a free batch dimension, convert, minimise.

The whole step, gradient included, becomes one graph of plain ONNX operators, so that a device needs no autograd.
"""

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import Any

import onnx
import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import (
    DimDynamic,
    GuardOnDataDependentSymNode,
    ShapeEnv,
    StatelessSymbolicContext,
)

from skerry.training import decompositions
from skerry.training.author_line import author_line
from skerry.training.convolution import Convolution, Forms
from skerry.training.export_error import ExportError
from skerry.training.functional_model import TensorFunction

OPSET = 20
IR_VERSION = 10  # of ONNX files
DEPENDS_ON_VALUES = (GuardOnDataDependentSymNode, DataDependentOutputException)
CHOICE = "it chooses by a tensor's values, with `if`, `while` or the like, which no graph can: let torch.where choose"
EXAMPLE_BATCH = 7  # any number but 0 and 1, which torch takes for constants, and best one that is no layer's width
TRACED_BATCH = 1031  # of it no data are needed, see `_fake`


class NoOnnxForm(ExportError):  # noqa: N818 - says what it is
    """An operator of torch that ONNX does not have."""

    def __init__(self, operator: str, form: str = "") -> None:
        """`operator`: its name, such as "aten.lgamma"; `form`: in which it is missing, if not in all."""
        super().__init__(f"no ONNX form: {operator}{form}: write it in terms of others")
        self.operator = operator


def export(
    function: TensorFunction,
    arguments: Sequence[torch.Tensor],
    inputs: Sequence[str],
    outputs: Sequence[str],
    forms: Mapping[Convolution, Forms] | None = None,
) -> bytes:
    """Return `function` as an ONNX model.

    `arguments` are examples: the first is the flat vector, of fixed size; the others share a free dimension 0. `forms`
    says how the gradients of convolutions are computed; of layers that it does not name, in the usual form.

    Raises:
        ExportError: the function cannot be traced or converted, or is not a function of its arguments alone.
    """
    return minimised(converted(trace(function, arguments, forms or {}), inputs, outputs))


def trace(
    function: TensorFunction, arguments: Sequence[torch.Tensor], forms: Mapping[Convolution, Forms]
) -> torch.fx.GraphModule:
    """Return `function` as a graph of core operators, its batch dimension symbolic.

    It is functional: no operator writes into a tensor.

    Raises:
        ExportError: tracing fails.
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
        try:
            # In a lambda: of a bound method, self would be counted as an argument, too.
            traced = _traced(lambda *given: function(*given), fakes, forms)  # noqa: PLW0108
            _leave_constants_alone(traced)
            if any(map(_writes, traced.graph.nodes)):
                traced = _traced(torch.func.functionalize(traced, remove="mutations"), fakes, forms)
        except ExportError:
            raise
        except Exception as error:  # whatever the model's own code raises
            reason = CHOICE if isinstance(error, DEPENDS_ON_VALUES) else _reason(error)
            raise ExportError(f"cannot be traced: {reason}{author_line(error)}") from error
    return traced


def _traced(
    function: TensorFunction, fakes: Sequence[torch.Tensor], forms: Mapping[Convolution, Forms]
) -> torch.fx.GraphModule:
    table = decompositions.table(forms)
    traced = make_fx(function, decomposition_table=table, _allow_non_fake_inputs=True)(*fakes)
    traced.graph.eliminate_dead_code()
    traced.recompile()
    return traced


def _leave_constants_alone(traced: torch.fx.GraphModule) -> None:
    """Remove what only changes the copy of a constant, as of a batch norm's count of batches, which nothing reads."""
    for node in list(traced.graph.nodes):
        if _writes(node) and not node.users:
            (written, *_), copied = node.args, torch.ops.aten.clone.default
            if written.target is copied and written.args[0].op == "get_attr" and len(written.users) == 1:
                traced.graph.erase_node(node)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _writes(node: torch.fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def converted(traced: torch.fx.GraphModule, inputs: Sequence[str], outputs: Sequence[str]) -> onnx.ModelProto:
    """Return a traced graph as an ONNX model, by the translations that torch's exporter has for each operator.

    Its public entry would trace once more, which takes ten times as long as all the rest; so this takes the parts of
    it that are needed, which are internal: `pyproject.toml` holds torch to the version that they are tested with.

    Raises:
        ExportError: an operator has no ONNX form.
    """
    import onnx_ir
    from torch.onnx._internal.exporter import _core, _fx_passes, _ir_passes

    for node in traced.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(traced, node.target)  # the value itself: it becomes an initializer
    model = onnx_ir.Model(onnx_ir.Graph([], [], nodes=[], name="graph"), ir_version=IR_VERSION)
    with _quiet():
        try:
            _fx_passes.insert_type_promotion_nodes(traced)
            _core._translate_fx_graph(
                traced.graph,
                model,
                graph_like=model.graph,
                owned_graphs={},
                lower="at_conversion",
                registry=_registry(),
            )
            _ir_passes.add_opset_imports(model)
            _name_outputs(model)
            _renew_spectra(model)
            _optimizer()(model)
        except Exception as error:  # torch's exporter and onnx's optimizer raise many kinds
            reason = _reason(error)
            operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", reason)
            if operator:
                raise NoOnnxForm(operator[1], " of complex numbers" if "complex-valued" in reason else "") from error
            raise ExportError(f"no ONNX form: {reason}") from error
        model.opset_imports[""] = OPSET  # translations are written for 18 and later
    for values, names in ((model.graph.inputs, inputs), (model.graph.outputs, outputs)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    return onnx_ir.to_proto(model)


def _name_outputs(model: Any) -> None:
    """Give each output a value of its own: one that is an input, too, or stands twice cannot have two names."""
    import onnx_ir

    taken = {id(value) for value in (*model.graph.inputs, *model.graph.initializers.values())}
    for place, value in enumerate(model.graph.outputs):
        if id(value) in taken:
            copy = onnx_ir.node("Identity", [value])
            model.graph.append(copy)
            model.graph.outputs[place] = copy.outputs[0]
        taken.add(id(value))


def _renew_spectra(model: Any) -> None:
    """Give spectra the form of opset 20, whose axis is an input; torch's translation of them is older."""
    import onnx_ir

    for node in model.graph:
        if node.op_type == "DFT" and "axis" in node.attributes:
            axis = onnx_ir.node("Constant", [], attributes={"value_int": node.attributes.pop("axis").value})
            model.graph.insert_before(node, axis)
            node.resize_inputs(3)
            node.replace_input_with(2, axis.outputs[0])


@cache
def _optimizer() -> Any:
    """Return the passes of `onnxscript.optimizer.optimize`, but for one rule.

    That one, which makes one operator of two slices, looks at the whole graph for each node and rule: of a step's graph
    that took more time than the rest of the export, and found nothing in any model that we know.
    """
    from onnx_ir import passes
    from onnx_ir.passes import common
    from onnxscript.optimizer import _constant_folding as folding
    from onnxscript.rewriter import _DEFAULT_REWRITE_RULES, RewritePass

    fold = folding.FoldConstantsPass(
        shape_inference=True,
        input_size_limit=folding.DEFAULT_CONSTANT_FOLD_INPUT_SIZE_LIMIT,
        output_size_limit=folding.DEFAULT_CONSTANT_FOLD_OUTPUT_SIZE_LIMIT,
    )
    rewrite = RewritePass([rule for rule in _DEFAULT_REWRITE_RULES if rule.name != "SlicesSplit"])
    unused = (common.RemoveUnusedNodesPass(), common.RemoveUnusedOpsetsPass())
    return passes.Sequential(
        common.InlinePass(),
        passes.PassManager([fold, rewrite, *unused], steps=2, early_stop=True),
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.LiftSubgraphInitializersToMainGraphPass(),
        common.DeduplicateInitializersPass(),
        common.CommonSubexpressionEliminationPass(),
        common.OutputFixPass(),
        common.NameFixPass(),
    )


def minimised(model: onnx.ModelProto) -> bytes:
    """Return the model's bytes without names of origin and types of intermediate values, which nobody runs.

    Raises:
        ExportError: it is not valid ONNX, as where an operator was translated that does not fit its input.
    """
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
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"no valid ONNX: {_reason(error)}") from error
    buffer = io.BytesIO()
    onnx.save_model(model, buffer)
    return buffer.getvalue()


def _fake(mode: FakeTensorMode, tensor: torch.Tensor, number: int) -> torch.Tensor:
    """Return the argument as the trace sees it: sizes alone, the batch's a symbol that stands for TRACED_BATCH.

    Code that asks how large the batch is gets the answer of that number, and the trace keeps it for all sizes. So the
    number is a large one, and the gate's are small: a limit anywhere in between shows there.
    """
    sizes = [DimDynamic.STATIC] * tensor.dim()
    if number > 0:
        sizes[0] = DimDynamic.DUCK  # equal sizes are one symbol: x and y share the batch
        if len(tensor) == EXAMPLE_BATCH:
            tensor = tensor.new_empty((TRACED_BATCH, *tensor.shape[1:]))
    context = StatelessSymbolicContext(dynamic_sizes=sizes, constraint_sizes=[None] * tensor.dim())
    return mode.from_tensor(tensor, symbolic_context=context, source=ConstantSource(f"argument_{number}"))


@cache
def _registry() -> Any:
    """Return torch's translations, with our own of pooling: maxima and where they came from in one node.

    The indices count over the whole batch, which is what our `max_pool` gradients expect.
    """
    from onnxscript import opset20
    from torch.onnx._internal.exporter import _registration

    def pool(axes: int) -> Callable[..., Any]:
        def max_pool(
            self: Any,
            kernel_size: Sequence[int],
            stride: Sequence[int] = (),
            padding: Sequence[int] = (0,),
            dilation: Sequence[int] = (1,),
            ceil_mode: bool = False,
        ) -> Any:
            kernel, pads = _each(kernel_size, axes), _each(padding, axes)
            return opset20.MaxPool(
                self,
                ceil_mode=int(ceil_mode),
                dilations=_each(dilation, axes),
                kernel_shape=kernel,
                pads=[*pads, *pads],
                strides=_each(stride, axes) if stride else kernel,
            )

        return max_pool

    def count(self: Any) -> Any:
        return opset20.Size(self)

    def squeeze(self: Any, dim: Sequence[int]) -> Any:
        axes: Any = list(dim)  # becomes a constant
        return opset20.Squeeze(self, axes)

    registry = _registration.ONNXRegistry.from_torchlib(opset_version=OPSET)
    registry.register_op(torch.ops.aten.max_pool2d_with_indices.default, pool(2), is_complex=False)
    registry.register_op(torch.ops.aten.max_pool3d_with_indices.default, pool(3), is_complex=False)
    registry.register_op(torch.ops.aten.sym_numel.default, count, is_complex=False)
    registry.register_op(torch.ops.aten.squeeze.dims, squeeze, is_complex=False)
    return registry


def _each(values: Sequence[int], axes: int) -> list[int]:
    return list(values) * (axes // len(values))


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
