"""Vector instructions inside numba kernels: addresses, atomic counters, and a small writer of LLVM code.

LLVM finds vectors in loops by itself, but does not keep a block of sums in registers over a loop, which is what makes a
product fast. The micro-kernels of `tile.py` and `lanes.py` are therefore written as LLVM code, by the class here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

from llvmlite import ir
from llvmlite.binding import get_host_cpu_features
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

INTEGER, FLOAT, BYTE, WORD = ir.IntType(64), ir.FloatType(), ir.IntType(8), ir.IntType(32)


@cache
def features() -> frozenset[str]:
    """What the processor that numba compiles for can do, by LLVM's names: this one, or that of NUMBA_CPU_NAME and
    NUMBA_CPU_FEATURES."""
    name, listed = getattr(config, "CPU_NAME", None), getattr(config, "CPU_FEATURES", None)
    if name is None and listed is None:
        return frozenset(feature for feature, present in get_host_cpu_features().items() if present)
    return frozenset(feature[1:] for feature in (listed or "").split(",") if feature.startswith("+"))


def float_lanes() -> int:
    """float32 values in the processor's widest vector register."""
    return 16 if "avx512f" in features() else 8 if "avx2" in features() else 4


def vector_registers() -> int:
    """Vector registers: AVX-512 and AArch64 have 32, other x86 have 16."""
    return 32 if "avx512f" in features() or "neon" in features() else 16


_BYTE_PRODUCTS = {16: "avx512vnni", 8: "avxvnni"}
"""What a processor must have to multiply four bytes and sum the products in each of so many lanes (VNNI)."""


def function(result: Any, *arguments: Any) -> Callable[[Callable[..., Any]], Any]:
    """Make `write(writer, *arguments) -> value` a function that numba kernels call; types are numba's."""

    def decorate(write: Callable[..., Any]) -> Any:
        signature = result(*arguments)

        def generate(context: Any, builder: Any, found: Any, values: Any) -> Any:
            written = write(Writer(builder), *values)
            return context.get_dummy_value() if written is None else written

        names = ", ".join(f"a{index}" for index in range(len(arguments)))
        scope: dict[str, Any] = {"signature": signature, "generate": generate}
        exec(f"def {write.__name__}(context, {names}):\n    return signature, generate", scope)
        return intrinsic(scope[write.__name__])

    return decorate


class Writer:
    """Writes LLVM code at the builder's place; addresses are 64-bit integers."""

    def __init__(self, builder: Any) -> None:
        self.builder = builder

    def integer(self, value: int) -> Any:
        return ir.Constant(INTEGER, value)

    def vector(self, element: Any, lanes: int) -> Any:
        return ir.VectorType(element, lanes)

    def at(self, address: Any, offset: Any) -> Any:
        """`address` plus `offset` bytes, an int or a value."""
        if isinstance(offset, int):
            if offset == 0:
                return address
            offset = self.integer(offset)
        return self.builder.add(address, offset)

    def load(self, kind: Any, address: Any, align: int = 1) -> Any:
        return self.builder.load(self.builder.inttoptr(address, kind.as_pointer()), align=align)

    def store(self, value: Any, address: Any, align: int = 1) -> None:
        self.builder.store(value, self.builder.inttoptr(address, value.type.as_pointer()), align=align)

    def splat(self, scalar: Any, lanes: int) -> Any:
        """A vector of `lanes` times the scalar."""
        empty = ir.Constant(self.vector(scalar.type, lanes), ir.Undefined)
        first = self.builder.insert_element(empty, scalar, ir.Constant(WORD, 0))
        return self.builder.shuffle_vector(first, empty, ir.Constant(self.vector(WORD, lanes), [0] * lanes))

    def call(self, name: str, result: Any, *arguments: Any) -> Any:
        """Call the LLVM intrinsic `name`."""
        kind = ir.FunctionType(result, [argument.type for argument in arguments])
        return self.builder.call(cgutils.get_or_insert_function(self.builder.module, kind, name), arguments)

    def fma(self, left: Any, right: Any, addend: Any) -> Any:
        return self.call(f"llvm.fma.v{addend.type.count}f32", addend.type, left, right, addend)

    def dot(self, sums: Any, unsigned: Any, signed: Any) -> Any:
        """`sums` plus, in each 32-bit lane, the products of its four unsigned bytes with the four signed ones."""
        builder, lanes = self.builder, sums.type.count
        if _BYTE_PRODUCTS.get(lanes) in features():
            return self.call(f"llvm.x86.avx512.vpdpbusd.{32 * lanes}", sums.type, sums, unsigned, signed)

        def moved(shift: int) -> Any:
            return ir.Constant(sums.type, [shift] * lanes)

        for byte in range(4):
            first = builder.and_(builder.lshr(unsigned, moved(8 * byte)), moved(255))
            second = builder.ashr(builder.shl(signed, moved(24 - 8 * byte)), moved(24))
            sums = builder.add(sums, builder.mul(first, second))
        return sums

    def requantised(self, values: Any, zero: Any, low: Any, high: Any) -> Any:
        """Rounded to even, moved by `zero` and limited, as 32-bit integers; what is not a number gives `low`."""
        builder, lanes = self.builder, values.type.count
        moved = builder.fadd(self.call(f"llvm.rint.v{lanes}f32", values.type, values), zero)
        moved = builder.select(builder.fcmp_ordered(">", moved, low), moved, low)
        moved = builder.select(builder.fcmp_ordered("<", moved, high), moved, high)
        return builder.fptosi(moved, self.vector(WORD, lanes))

    def clamp(self, value: Any, low: Any, high: Any) -> Any:
        """`value` between two vectors; what is not a number stays so."""
        value = self.builder.select(self.builder.fcmp_ordered("<", value, low), low, value)
        return self.builder.select(self.builder.fcmp_ordered(">", value, high), high, value)

    def lane_mask(self, count: Any, lanes: int) -> Any:
        """True in the first `count` lanes."""
        numbers = ir.Constant(self.vector(INTEGER, lanes), list(range(lanes)))
        return self.builder.icmp_signed("<", numbers, self.splat(count, lanes))

    def masked_load(self, kind: Any, address: Any, mask: Any) -> Any:
        """Lanes outside the mask are zero, and their memory is not touched."""
        pointer = self.builder.inttoptr(address, kind.as_pointer())
        name = f"llvm.masked.load.{_suffix(kind)}.p0"
        return self.call(name, kind, pointer, ir.Constant(WORD, 1), mask, ir.Constant(kind, None))

    def masked_store(self, value: Any, address: Any, mask: Any) -> None:
        pointer = self.builder.inttoptr(address, value.type.as_pointer())
        name = f"llvm.masked.store.{_suffix(value.type)}.p0"
        self.call(name, ir.VoidType(), value, pointer, ir.Constant(WORD, 1), mask)

    def prefetch(self, address: Any) -> None:
        """Ask for a line of memory that will be read soon; no address is wrong."""
        pointer = self.builder.inttoptr(address, BYTE.as_pointer())
        self.call("llvm.prefetch.p0", ir.VoidType(), pointer, *(ir.Constant(WORD, hint) for hint in (0, 3, 1)))

    def loop(self, count: Any, start: Sequence[Any], body: Callable[[Any, list[Any]], Sequence[Any]]) -> list[Any]:
        """`body(index, values)` returns the values of the next turn; those after `count` turns, which may be none."""
        builder = self.builder
        before = builder.block
        head, inside, after = (builder.append_basic_block(name) for name in ("head", "inside", "after"))
        builder.branch(head)
        builder.position_at_end(head)
        index = builder.phi(INTEGER)
        index.add_incoming(self.integer(0), before)
        values = [builder.phi(value.type) for value in start]
        for phi, value in zip(values, start, strict=True):
            phi.add_incoming(value, before)
        builder.cbranch(builder.icmp_signed("<", index, count), inside, after)
        builder.position_at_end(inside)
        following = body(index, list(values))
        end = builder.block
        index.add_incoming(builder.add(index, self.integer(1)), end)
        for phi, value in zip(values, following, strict=True):
            phi.add_incoming(value, end)
        builder.branch(head)
        builder.position_at_end(after)
        return list(values)

    def choose(self, selector: Any, cases: dict[int, Callable[[], None]]) -> None:
        """Run the case whose number `selector` holds; none when there is no such case."""
        builder = self.builder
        after = builder.append_basic_block("chosen")
        switch = builder.switch(selector, after)
        for number, write in cases.items():
            block = builder.append_basic_block("case")
            switch.add_case(self.integer(number), block)
            builder.position_at_end(block)
            write()
            builder.branch(after)
        builder.position_at_end(after)


def _suffix(kind: Any) -> str:
    """The name LLVM gives a vector type in names of intrinsics."""
    return f"v{kind.count}{'f32' if kind.element == FLOAT else 'i' + str(kind.element.width)}"


@function(types.intp, types.intp)
def read_integer(writer: Writer, address: Any) -> Any:
    """The 64-bit integer at an address."""
    return writer.load(INTEGER, address)


@function(types.void, types.intp, types.intp)
def write_integer(writer: Writer, address: Any, value: Any) -> None:
    """Store a 64-bit integer at an address."""
    writer.store(value, address)


@function(types.intp, types.intp)
def take_number(writer: Writer, address: Any) -> Any:
    """The counter at an address, counted up at once for all threads."""
    pointer = writer.builder.inttoptr(address, INTEGER.as_pointer())
    return writer.builder.atomic_rmw("add", pointer, writer.integer(1), "seq_cst")


@function(types.CPointer(types.float32), types.intp)
def floats_at(writer: Writer, address: Any) -> Any:
    """An address as a pointer that numba's carray takes."""
    return writer.builder.inttoptr(address, FLOAT.as_pointer())
