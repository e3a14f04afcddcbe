"""Find what attention reads and writes in the order of tokens: heads of one token side by side, as projections do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from codesign.graph import Op
from codesign.transforms.match import View, is_kind
from codesign.transforms.views import RESHAPES, Layout, is_view

EXCHANGE = (0, 2, 1, 3)
"""From (batch, heads, length, width) to (batch, length, heads, width), and back."""
NORMALISATIONS = ("LayerNormalization", "RMSNormalization", "LpNormalization")
MOST_COMPUTED = 4
"""Most operations that are followed from an attention to the split into heads; models have a normalisation and a
rotary embedding there."""


@dataclass(frozen=True)
class Ordered:
    """A tensor with the elements wanted, in their order, under any shape.

    `needless` are the views from it that nothing but their reader needs, `kept` those that others read too.
    """

    name: str
    needless: tuple[Op, ...] = ()
    kept: tuple[Op, ...] = ()

    def gone(self) -> tuple[Op, ...]:
        return self.needless


@dataclass(frozen=True)
class Part:
    """`length` entries from `start` on along an axis of a packed tensor, and the views after them.

    `name` is the packed tensor; `order` puts its axes in the order of tokens, with the parts along `axis` of that.
    """

    op: Op
    views: tuple[Op, ...]
    name: str
    packed: Ordered
    order: tuple[int, ...]
    axis: int
    start: int
    length: int

    def gone(self) -> tuple[Op, ...]:
        return (*self.packed.needless, self.op, *self.views)


@dataclass(frozen=True)
class Computed:
    """The result of an operation on each head of each token alone; `is_shared` when others read it by heads."""

    op: Op
    source: Tokens
    is_shared: bool

    def gone(self) -> tuple[Op, ...]:
        return (self.op,)


Tokens = Ordered | Part | Computed
"""A value (batch, heads, length, width) as it is found, or can be computed, in the order of tokens."""


def tokens_of(view: View, name: str, reader: Op, steps: int = MOST_COMPUTED) -> Tokens | None:
    """Where `name`, of four axes and read by `reader`, is found in the order of tokens; None where it is not."""
    return _ordered(view, name, EXCHANGE, reader) or _part(view, name, reader) or _computed(view, name, reader, steps)


def layers_of(tokens: Tokens | None) -> Iterator[Tokens]:
    """What a value is computed from, the value itself first."""
    while tokens is not None:
        yield tokens
        tokens = tokens.source if isinstance(tokens, Computed) else None


def result_views(view: View, op: Op) -> tuple[Op, ...] | None:
    """The fewest views after the result of `op`, of four axes, that put it in the order of tokens.

    None when there are none, or when others read what is between.
    """
    name = op.outputs[0]
    layout = Layout(tuple(view.shape(name)[axis] for axis in EXCHANGE))
    layout.axes = [layout.axes[axis] for axis in EXCHANGE]
    views: list[Op] = []
    while not _is_in_order(layout, range(len(layout.axes))):
        reader = view.sole_reader(name)
        if reader is None or not is_view(view, reader) or reader.inputs[0] != name or not layout.apply(view, reader):
            return None
        views.append(reader)
        name = reader.outputs[0]
    return tuple(views)


def _is_in_order(layout: Layout, order: Sequence[int]) -> bool:
    """True when the present axes, taken in `order`, hold the source's elements as they stood."""
    return list(chain(*layout.source)) == list(chain(*(layout.axes[axis] for axis in order)))


def _ordered(view: View, name: str, order: Sequence[int], reader: Op | None) -> Ordered | None:
    """The nearest tensor whose elements stand like those of `name` with its axes in `order`.

    Without a `reader` all that read `name` are taken to go.
    """
    views: list[Op] = []
    source = name
    while True:
        layout = Layout(view.shape(source))
        if not all(layout.apply(view, op) for op in reversed(views)):
            return None
        if _is_in_order(layout, order):
            break
        op = view.producer(source)
        if op is None or not is_view(view, op):
            return None
        views.append(op)
        source = op.inputs[0]
    needless = 0
    for op in views:
        if reader is not None and view.sole_reader(op.outputs[0]) is not reader:
            break
        needless, reader = needless + 1, op
    return Ordered(source, tuple(views[:needless]), tuple(views[needless:]))


def _part(view: View, name: str, reader: Op) -> Part | None:
    """`name` as a part of a packed projection that `reader` alone reads: one entry of five axes, or a run of four."""
    wanted = view.shape(name)
    views: list[Op] = []
    while view.sole_reader(name) is reader and (above := view.producer(name, *RESHAPES)) is not None:
        views.append(above)
        name, reader = above.inputs[0], above
    op = view.producer(name, "Split", "Slice", "Gather")
    span = _span(view, op, name) if op is not None and view.sole_reader(name) is reader else None
    if op is None or span is None or op.inputs[0] in view.pinned:
        return None
    axis, start, length = span
    shape = view.shape(op.inputs[0])
    others = [other for other in range(len(shape)) if other != axis]
    if len(shape) == 4 and (*shape[:axis], length, *shape[axis + 1 :]) == wanted:
        orders: list[tuple[int, ...]] = [EXCHANGE]
    elif len(shape) == 5 and length == 1 and tuple(shape[other] for other in others) == wanted:
        batch, heads, tokens, width = others
        orders = [(batch, tokens, axis, heads, width), (batch, tokens, heads, axis, width)]
    else:
        return None
    for order in orders:
        packed = _ordered(view, op.inputs[0], order, None)
        if packed is not None and packed.needless:
            return Part(op, tuple(views), op.inputs[0], packed, order, order.index(axis), start, length)
    return None


def _span(view: View, op: Op, result: str) -> tuple[int, int, int] | None:
    """Axis, start and length of the run of entries of its input that an operation selects as `result`."""
    shape = view.shape(op.inputs[0])
    axis = int(op.attributes.get("axis", 0)) % len(shape)
    if op.kind == "Split":
        lengths = [view.shape(name)[axis] for name in op.outputs]
        index = op.outputs.index(result)
        return axis, sum(lengths[:index]), lengths[index]
    if op.kind == "Gather":
        indices = view.integers(op, "indices", 1)
        return (axis, indices[0] % shape[axis], 1) if indices is not None and len(indices) == 1 else None
    starts, axes = view.integers(op, "starts", 1), view.integers(op, "axes", 3)
    steps = view.integers(op, "steps", 4) or (1,)
    if starts is None or axes is None or len(axes) != 1 or steps != (1,):
        return None
    axis = axes[0] % len(shape)
    start = starts[0] + shape[axis] if starts[0] < 0 else starts[0]
    return axis, max(0, start), view.shape(result)[axis]


def _computed(view: View, name: str, reader: Op, steps: int) -> Computed | None:
    """`name` as a rotary embedding, or as a normalisation over the width, of what is found in the order of tokens."""
    op = view.producer(name)
    if op is None or steps == 0 or len(op.outputs) != 1 or not _is_by_head(view, op):
        return None
    source = tokens_of(view, op.inputs[0], op, steps - 1)
    return Computed(op, source, view.sole_reader(name) is not reader) if source is not None else None


def _is_by_head(view: View, op: Op) -> bool:
    """True when `op` treats each head of four axes alike and alone."""
    if len(view.shape(op.inputs[0])) != 4:
        return False
    if is_kind(op, "RotaryEmbedding"):
        return True
    over_width = int(op.attributes.get("axis", -1)) in (-1, 3)
    return is_kind(op, *NORMALISATIONS) and over_width and all(len(view.shape(one)) < 2 for one in op.inputs[1:] if one)
