"""Rewrites of a step's graph of operations before it is compiled: what need not be computed is taken out. The values
are as they were, but for the sign of zeros.

When not: a graph whose values are not finite; 0 · ∞ is 0 here.
"""

import operator

import torch
from torch.fx import GraphModule, Node

aten = torch.ops.aten

VIEWS = frozenset(
    "view reshape _unsafe_view permute transpose t expand unsqueeze squeeze slice select alias detach".split()
)

ZERO_OF_ZERO = VIEWS | frozenset("_to_copy convert_element_type clone neg sum mean constant_pad_nd".split())
"""Operations whose value is zero where their first input is."""

PRODUCTS = frozenset("mul mm bmm".split())  # zero where one of the two is


def name_of(node: Node) -> str:
    """Of an operation, without its overload; "" where it is none of torch's."""
    return getattr(getattr(node.target, "overloadpacket", None), "__name__", "")


# -- zeros


def without_zeros(graph: GraphModule) -> GraphModule:
    """Without operations on what is zero whatever the values are: the tangent of the images, which have none, and its
    convolutions; the cotangent of the buffers, which is zero but for its own tangent."""
    zeros = dict[Node, None]()  # in their order: the graph's text decides what the compiler finds again
    for node in list(graph.graph.nodes):
        if _is_zero(node, zeros):
            zeros[node] = None
        elif (other := _unchanged(node, zeros)) is not None:
            node.replace_all_uses_with(other)
    for node in zeros:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor) and name_of(node) not in ("full", "scalar_tensor"):
            with graph.graph.inserting_before(node):
                zero = graph.graph.call_function(
                    aten.full.default, (list(value.shape), 0), {"dtype": value.dtype, "device": value.device}
                )
            zero.meta = dict(node.meta)
            node.replace_all_uses_with(zero)
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


def _is_zero(node: Node, zeros: dict[Node, None]) -> bool:
    name, args = name_of(node), node.args
    if name in ("full", "scalar_tensor"):
        return isinstance(args[-1], int | float) and args[-1] == 0
    if name in ("zeros", "zeros_like"):
        return True
    if name in ZERO_OF_ZERO or name == "div":
        return args[0] in zeros
    if name in PRODUCTS:
        return args[0] in zeros or args[1] in zeros
    if name in ("add", "sub"):
        return args[0] in zeros and args[1] in zeros
    if name == "convolution":
        return args[2] is None and (args[0] in zeros or args[1] in zeros)
    if node.target is operator.getitem and name_of(backward := args[0]) == "convolution_backward":  # type: ignore[arg-type]
        gradient, images, weight = backward.args[:3]  # type: ignore[union-attr]
        return gradient in zeros or {0: weight, 1: images}.get(args[1]) in zeros  # type: ignore[arg-type]
    return False


def _unchanged(node: Node, zeros: dict[Node, None]) -> Node | None:
    """What a sum is, where its other part is zero: of the same shape and dtype, or it is None."""
    name, args = name_of(node), node.args
    if name not in ("add", "sub", "addcmul"):
        return None
    other = args[0]
    if name == "add" and args[0] in zeros and not node.kwargs:
        other = args[1]
    elif args[1] not in zeros and (name != "addcmul" or args[2] not in zeros):
        return None
    if not isinstance(other, Node) or other in zeros:
        return None
    was, now = node.meta["val"], other.meta["val"]
    return other if (was.shape, was.dtype) == (now.shape, now.dtype) else None
