"""A step, forwards and backwards, compiled: traced once to a graph of operations, divided, and given to a compiler.

    trace       the very functions of `engine.core.step`, on tensors without values: whatever Python a model runs
                happens once, and what is left is a list of operations
    divide      backwards, into what does not depend on the targets (run once a step, for all of them) and what does
                (run once for each `width` of them); see `divide`
    compile     by torch's Inductor: C++ on a CPU, Triton on a GPU, kept in a folder from process to process

Sizes are fixed: B, P, Q, and the `width` targets that a pass carries; the last pass of a step is padded with zeros.
So a target's scores do not depend on which others are beside it: at a width of 1, as on a GPU, on nothing but itself;
at a larger one on its place in its pass alone. The optimizer's part of a step, a few operations on vectors [P], stays
as it is: the learning rate, which changes with each step, is in no compiled code.

The compiler keeps to one way of summing (its `deterministic` setting, without trials of which kernel is fastest): the
same bits in another process, from a full or an empty folder, on the same kind of device with the same number of
threads. They are other bits than those of `engine.core.step` run operation by operation, which rounds after each
operation: a run says in its manifest how it was trained, and is trained again in the same way.

What is compiled is compared with what it was made of before it is used. `CompileError` says why there is no compiled
step: no compiler, a model that cannot be traced, or one that computes something else in each pass.

When not: for a run that takes less time than the compiling does (a minute on a CPU, two on a GPU; seconds where the
folder has it already).
"""

import contextlib
import dataclasses
import importlib.util
import logging
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.func import functionalize, vmap
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from engine.core import graphs
from engine.core import step as steps
from engine.core.loss import ExampleLoss
from engine.core.precision import computed_in
from engine.core.state import State
from engine.core.stream import StepInputs
from engine.errors import ReplayError
from engine.models.functional import FunctionalModel, first_line

logger = logging.getLogger(__name__)

CLOSE = {"float64": 1e-9, "float32": 1e-3, "tf32": 2e-2, "bfloat16": 0.1}
"""Relative error by which compiled and uncompiled may differ, by precision: they round in other places."""

SMALL = 8  # numbers: a constant of so few stays in the compiled code

_compiling = threading.Lock()  # torch's forward mode and the compiler's settings are the process's

# Called with the number of parts compiled so far, of the number that there are.
OnPart = Callable[[int, int], None]


class CompileError(ReplayError):
    """There is no compiled step; the work goes on without one."""


def has_compiler(device: torch.device) -> bool:
    """Whether this machine has the programs that compile for a device: one of C++, or Triton and one of C."""
    if device.type == "cpu":
        return shutil.which(os.environ.get("CXX", "g++")) is not None
    there = any(shutil.which(name) for name in (os.environ.get("CC", "gcc"), "clang"))
    return there and importlib.util.find_spec("triton") is not None


@dataclass(frozen=True, eq=False)
class Part:
    """One compiled function of tensors, and the constants that follow its arguments."""

    run: Callable[..., Any]
    constants: tuple[Tensor, ...]

    def __call__(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.run(*arguments, *self.constants))


class Compiled:
    """`Passes` of one model at one batch size, after `compile_forwards` and `compile_backwards`.

    `precision`: of `engine.core.precision`. `example`: a state and inputs as the steps will have them; only their
    shapes count, and the loss. `on_part` is told of each part that is done.
    """

    def __init__(
        self,
        model: FunctionalModel,
        precision: str,
        example: tuple[State, StepInputs],
        on_part: OnPart = lambda done, parts: None,
    ):
        self.model, self.precision, self.example, self.on_part = model, precision, example, on_part
        self.chunk = 0  # targets that a pass backwards carries
        self.needs_grad = True  # whether a pass backwards has the step's gradient
        self._forwards: Part | None = None
        self._primal: Part | None = None
        self._tangents: Part | None = None

    # -- forwards

    def compile_forwards(self) -> None:
        """Makes `gradient` ready. Raises `CompileError`."""
        state, inputs = self.example
        graph, constants = self._traced(self._gradient, _arguments(state, inputs))
        self._forwards = Part(self._compiled(graph, (*_arguments(state, inputs), *constants)), constants)
        self.on_part(1, 1)
        self._check_forwards(state, inputs)

    def gradient(self, state: State, inputs: StepInputs) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        assert self._forwards is not None, "compile_forwards was not called"
        with self._computed(inputs):
            g, value, buffers = self._forwards(*_arguments(state, inputs))
        return g, (value, buffers)

    def _gradient(self, *arguments: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        state, inputs = self._read(arguments)
        g, (value, buffers) = steps.gradient(self.model, state, inputs)
        return g, value, buffers

    # -- backwards

    def compile_backwards(self, width: int, needs_grad: bool = True) -> None:
        """Makes `linearize` ready, for `width` targets a pass. Raises `CompileError`.

        `needs_grad`: whether the step's gradient will be asked for, as `Optimizer.needs_grad` says. SGD's pullback does
        not read it, and then no kernel computes it.
        """
        state, inputs = self.example
        arguments, given = _arguments(state, inputs), len(_arguments(state, inputs))
        v_KP, adjoint_KQ = (part.new_ones(width, part.numel()) for part in (state.theta, state.buffers))
        if width == 1:
            v_KP, adjoint_KQ = v_KP[0], adjoint_KQ[0]
        graph, constants = self._traced(self._with_tangents, (*arguments, v_KP, adjoint_KQ))
        graph = graphs.without_zeros(graph)
        self.on_part(1, 3)
        primal, tangent = divide(graph, given, 2, needs_grad)
        self._primal = Part(self._compiled(primal, (*arguments, *constants), INLINED), constants)
        self.on_part(2, 3)
        with self._computed(inputs):
            kept = self._primal(*arguments)[1 if needs_grad else 0 :]
        self._tangents = Part(self._compiled(tangent, (v_KP, adjoint_KQ, *kept), INLINED), ())
        self.chunk, self.needs_grad = width, needs_grad
        del kept
        self.on_part(3, 3)
        self._check_backwards(state, inputs)

    def linearize(self, state: State, inputs: StepInputs, needs_grad: bool) -> "CompiledLinearized":
        assert self._primal is not None, "compile_backwards was not called"
        assert self.needs_grad or not needs_grad, "compile_backwards was told that no gradient would be asked for"
        with self._computed(inputs):
            kept = self._primal(*_arguments(state, inputs))
        g, kept = (kept[0], kept[1:]) if self.needs_grad else (None, kept)
        return CompiledLinearized(self, inputs, g, kept)

    def fewer(self) -> "Compiled | None":
        if self.chunk <= 1:
            return None
        self.compile_backwards(self.chunk // 2, self.needs_grad)
        return self

    def _with_tangents(self, *arguments: Tensor) -> tuple[Tensor, ...]:
        """g, then what `Linearized.tangents` returns: the order that `divide` relies on."""
        v, adjoint = arguments[-2:]
        state, inputs = self._read(arguments[:-2])

        def one(v_P: Tensor, adjoint_Q: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
            return steps.gradient_and_tangents(self.model, state, inputs, v_P, adjoint_Q)

        shared_and_own: Any = (None, 0, 0, 0)
        return (one if v.dim() == 1 else vmap(one, out_dims=shared_and_own))(v, adjoint)

    # -- what both are made of

    @contextlib.contextmanager
    def _computed(self, inputs: StepInputs) -> Iterator[None]:
        with torch.no_grad(), computed_in(self.precision, inputs.w_B.device):
            yield

    def _read(self, arguments) -> tuple[State, StepInputs]:
        return _state_and_inputs(arguments, self.example[1])

    def _traced(self, function: Callable, arguments: tuple[Tensor, ...]) -> tuple[GraphModule, tuple[Tensor, ...]]:
        """The function's operations, and the constants that they read, which become its last arguments."""
        from torch._functorch.compile_utils import fx_graph_cse
        from torch._inductor.decomposition import select_decomp_table

        inputs = self.example[1]
        with _errors(), _compiling, steps.forward_mode, self._computed(inputs):
            graph = make_fx(
                functionalize(function),
                decomposition_table=select_decomp_table(),
                tracing_mode="fake",
                _allow_non_fake_inputs=True,
            )(*arguments)
        for node in graph.graph.nodes:
            if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
                raise CompileError(f"It draws random numbers ({node.target}).", "It runs without.")
        graph.graph.eliminate_dead_code()
        # Once what stands there twice, such as the pass that g and its tangent share.
        graph = GraphModule(graph, fx_graph_cse(graph.graph))
        return graph, _constants_as_arguments(graph)

    def _compiled(
        self, graph: GraphModule, arguments: tuple[Tensor, ...], settings: dict[str, Any] | None = None
    ) -> Callable[..., Any]:
        """`settings`: of the compiler, on a GPU, beside those of all parts."""
        cpu = self.example[1].w_B.device.type == "cpu"
        made = torch.compile(graph, fullgraph=True, dynamic=False)
        with _errors(), _compiling, _settings(cpu, settings or {}), self._computed(self.example[1]):
            made(*arguments)  # compiled when it is first run
        return made

    def _check_forwards(self, state: State, inputs: StepInputs) -> None:
        eager = steps.Eager(self.model, self.precision)
        (g, (value, buffers)), (g2, (value2, buffers2)) = (p.gradient(state, inputs) for p in (eager, self))
        self._compare((g, value, buffers), (g2, value2, buffers2))

    def _check_backwards(self, state: State, inputs: StepInputs) -> None:
        generator = torch.Generator().manual_seed(0)
        v, adjoint = (
            torch.randn(1, part.numel(), generator=generator, dtype=torch.float64).to(part)
            / max(1, part.numel()) ** 0.5
            for part in (state.theta, state.buffers)
        )
        eager = steps.Eager(self.model, self.precision, chunk=1)
        expected, found = (p.linearize(state, inputs, self.needs_grad) for p in (eager, self))
        if self.needs_grad:
            self._compare((expected.gradient,), (found.gradient,))
        self._compare(expected.tangents(v, adjoint), found.tangents(v, adjoint))

    def _compare(self, expected: tuple, found: tuple) -> None:
        for one, other in zip(expected, found, strict=True):
            if one.numel() and not (one - other).norm() <= CLOSE[self.precision] * one.norm() + 1e-12:
                error = ((one - other).norm() / one.norm()).item()
                raise CompileError(
                    f"Compiled it computes something else than it does step by step (relative error {error:.1g}).",
                    "It runs without.",
                )


@dataclass(frozen=True, eq=False)
class CompiledLinearized:
    """A `Linearized` that keeps what the targets share: the primal pass runs once a step."""

    passes: Compiled
    inputs: StepInputs
    gradient: Tensor | None
    kept: tuple[Tensor, ...]

    def tangents(self, v_KP: Tensor, adjoint_KQ: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        passes, k, parts = self.passes, v_KP.shape[0], []
        assert passes._tangents is not None
        with passes._computed(self.inputs):
            for at in range(0, k, passes.chunk):
                parts.append(passes._tangents(*self._pass(v_KP, at), *self._pass(adjoint_KQ, at), *self.kept))
        if passes.chunk == 1:
            return tuple(map(torch.stack, zip(*parts, strict=True)))  # type: ignore[return-value]
        return tuple(torch.cat(each)[:k] for each in zip(*parts, strict=True))  # type: ignore[return-value]

    def _pass(self, all_K: Tensor, at: int) -> tuple[Tensor]:
        """The targets from `at`, as many as a pass carries, padded with zeros."""
        if self.passes.chunk == 1:
            return (all_K[at],)
        some = all_K[at : at + self.passes.chunk]
        short = self.passes.chunk - len(some)
        return (torch.cat([some, some.new_zeros(short, some.shape[1])]) if short else some,)


# -- inputs as a flat list of tensors, of the same number in each step


def _arguments(state: State, inputs: StepInputs) -> tuple[Tensor, ...]:
    """What a pass through the model reads. The number of the step and the learning rate are the optimizer's."""
    images, labels = inputs.batch
    weights = inputs.loss.class_weights
    given = (state.theta, state.buffers, images, labels, inputs.w_B, inputs.index_B, inputs.key_on_device)
    return given if weights is None else (*given, weights)


def _state_and_inputs(arguments, like: StepInputs) -> tuple[State, StepInputs]:
    theta, buffers, images, labels, w_B, index_B, key, *weights = arguments
    loss = ExampleLoss(like.loss.smoothing, weights[0] if weights else None)
    inputs = dataclasses.replace(like, index_B=index_B, batch=(images, labels), w_B=w_B, key=key, loss=loss)
    return State(theta, (), buffers), inputs


def _constants_as_arguments(graph: GraphModule) -> tuple[Tensor, ...]:
    """Frozen parameters and the like, which the tracing met, become arguments: compiled code holds no large values."""
    constants, last = [], [n for n in graph.graph.nodes if n.op == "placeholder"][-1]
    for node in [n for n in graph.graph.nodes if n.op == "get_attr"]:
        value = getattr(graph, str(node.target), None)
        if not isinstance(value, Tensor) or value.numel() <= SMALL:
            continue
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"constant_{len(constants)}")
        last.meta = dict(node.meta)
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        constants.append(value)
    graph.recompile()
    return tuple(constants)


# -- dividing

CHEAP = frozenset("full full_like ones_like zeros_like scalar_tensor clone _to_copy convert_element_type iota".split())


def divide(graph: GraphModule, given: int, directions: int, needs_grad: bool) -> tuple[GraphModule, GraphModule]:
    """A graph of (given…, directions…, constants…) → (g, tangents…) as two:

        primal    (given…, constants…) → (g, kept…)            what does not depend on the directions; g where needed
        tangent   (directions…, kept…) → tangents…             the rest

    Of values that the tangents read and the directions do not change, expensive ones (convolutions, products, sums) are
    kept, and cheap ones, computed element by element from others, are computed again where they are read: a compiler
    fuses them into their reader, for less than it takes to write and read them.
    """
    arguments = [n for n in graph.graph.nodes if n.op == "placeholder"]
    of_direction = set(arguments[given : given + directions])
    for node in graph.graph.nodes:
        if any(source in of_direction for source in node.all_input_nodes):
            of_direction.add(node)
    output = next(n for n in graph.graph.nodes if n.op == "output")
    g, *tangents = output.args[0]
    again, kept = _again_and_kept([n for n in tangents if isinstance(n, Node)], of_direction)
    primal = _subgraph(graph, [n for n in arguments if n not in of_direction], None, [g, *kept] if needs_grad else kept)
    tangent = _subgraph(graph, [*arguments[given : given + directions], *kept], again, tangents)
    return primal, tangent


def _again_and_kept(outputs: list[Node], of_direction: set[Node]) -> tuple[set[Node], list[Node]]:
    """The nodes that the tangents' graph computes, and the primal ones that it is handed."""
    again, kept, waiting = set(), dict[Node, None](), list(outputs)
    while waiting:
        node = waiting.pop()
        if node in again or node in kept:
            continue
        if node.op != "placeholder" and (node in of_direction or node.op == "get_attr" or _is_cheap(node)):
            again.add(node)
            waiting += node.all_input_nodes
        elif node not in of_direction:
            kept[node] = None
    return again, list(kept)


def _is_cheap(node: Node) -> bool:
    """Computed element by element, or a view; not a value that is several."""
    name = graphs.name_of(node)
    return torch.Tag.pointwise in getattr(node.target, "tags", ()) or name in graphs.VIEWS or name in CHEAP


def _subgraph(graph: GraphModule, arguments: list[Node], inner: set[Node] | None, outputs: list) -> GraphModule:
    """The part of a graph that computes `outputs` from `arguments`, of the nodes `inner` (None: of all it takes)."""
    made, copies = Graph(), dict[Node, Node]()
    if inner is None:
        inner, waiting = set(), [n for n in outputs if isinstance(n, Node)]
        while waiting:
            node = waiting.pop()
            if node not in inner and node not in arguments:
                inner.add(node)
                waiting += node.all_input_nodes
    for node in arguments:
        copies[node] = made.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in graph.graph.nodes:
        if node in inner and node not in copies:
            copies[node] = made.node_copy(node, copies.__getitem__)
            if copies[node].target is torch.ops.aten.view.default:  # what is kept may lie in another order
                copies[node].target = torch.ops.aten.reshape.default
    made.output(tree_map(lambda n: copies[n] if isinstance(n, Node) else n, tuple(outputs)))
    return GraphModule(graph, made)


# -- the compiler, and what it keeps


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """What tracing and compiling fail with, as a `CompileError`: the caller goes on without, whatever it was."""
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError, CompileError):
        raise
    except Exception as error:
        logger.info("Not compiled.", exc_info=True)
        raise CompileError(f"It cannot be compiled: {first_line(error)[:200]}", "It runs without.") from error


# Of Inductor, for the parts of a step backwards on a GPU: what is computed element by element is not written to memory
# for its second reader, however much it reads, but computed again in each.
INLINED = {"realize_reads_threshold": 1000, "realize_acc_reads_threshold": 1000, "realize_opcount_threshold": 1000}


@contextlib.contextmanager
def _settings(cpu: bool, of_gpu: dict[str, Any]) -> Iterator[None]:
    """Inductor's: no choice by trial, since another choice has other bits; what one part hands to the next stays in the
    layout that convolutions like. On a CPU in this process alone; `of_gpu` on a GPU beside."""
    from torch._inductor import config

    wanted = {"deterministic": True, "fx_graph_cache": True, "max_autotune": False, "keep_output_stride": False}
    wanted |= {"compile_threads": 1} if cpu else of_gpu
    with config.patch({name: value for name, value in wanted.items() if hasattr(config, name)}):
        yield
