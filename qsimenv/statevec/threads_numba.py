"""Running a part of kernels in several threads at once. Each kernel that does is compiled with ``in_threads``.

Numba's own parallel loops take its compiler a second or two each, and compile what is called in them once more for one
thread. Here there is a single one of them, which calls any code at an address: what a kernel generates for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir
from numba import prange, types
from numba.core import cgutils
from numba.core.errors import TypingError
from numba.extending import intrinsic

from qsimenv.statevec.kernel_cache import address_of, njit

_WORD = ir.IntType(64)
_WORK = (types.int64, types.int64)
"""What a thread's work is called with: where its arguments are, and the thread's number."""
_LOOP = (types.int64, types.int64, types.int64)


@intrinsic  # type: ignore[untyped-decorator]
def _call(typing: Any, work: Any, arguments: Any, thread: Any) -> Any:
    """Call the code at the address ``work``."""

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[Any]) -> Any:
        _call_at(context, builder, values[0], _WORK, values[1:])
        return context.get_dummy_value()

    return types.void(*_LOOP), generate


@njit(parallel=True, nogil=True)
def _for_each_thread(work: int, arguments: int, threads: int) -> None:
    for thread in prange(threads):
        _call(work, arguments, np.int64(thread))


@lru_cache
def _loop() -> int:
    return address_of(_for_each_thread, _LOOP)


def launcher(threads: int) -> int:
    """What ``in_threads`` needs to start so many threads. Cost: far less than a microsecond; threads are only set up
    where there is more than one."""
    return _loop() if threads > 1 else 0


@intrinsic  # type: ignore[untyped-decorator]
def in_threads(typing: Any, launch: Any, threads: Any, kernel: Any, arguments: Any) -> Any:
    """``kernel(thread, threads, *arguments)`` for each thread below ``threads``, all at once; returns nothing.

    ``launch``: ``launcher(threads)``, an argument of the kernel that calls this, because an address is another one in
    each process.
    """
    called = (types.int64, types.int64, *arguments.types)
    wanted = kernel.get_call_type(typing, called, {})
    if wanted.args != called or wanted.return_type != types.none:
        raise TypingError(f"in_threads: {wanted} found, a function of {called} that returns nothing is needed")

    def generate(context: Any, builder: ir.IRBuilder, signature: Any, values: Sequence[Any]) -> Any:
        launch, threads, given = values[0], values[1], cgutils.unpack_tuple(builder, values[3])
        room = cgutils.alloca_once(builder, ir.LiteralStructType([_WORD, *(value.type for value in given)]))
        for place, value in enumerate((threads, *given)):
            builder.store(value, cgutils.gep_inbounds(builder, room, 0, place))
        work = _work(context, builder.module, kernel, wanted, room.type)
        here = builder.ptrtoint(room, _WORD)
        with builder.if_else(builder.icmp_signed(">", threads, ir.Constant(_WORD, 1))) as (several, one):
            with several:
                _call_at(context, builder, launch, _LOOP, (builder.ptrtoint(work, _WORD), here, threads))
            with one:
                _call_at(context, builder, work, _WORK, (here, ir.Constant(_WORD, 0)))
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, kernel, arguments), generate


def _work(context: Any, module: ir.Module, kernel: Any, wanted: Any, room: ir.Type) -> ir.Function:
    """A function of a thread's work that calls the kernel with what is in the ``room`` for arguments."""
    convention = context.call_conv
    work = ir.Function(module, convention.get_function_type(types.none, _WORK), module.get_unique_name("work"))
    work.linkage = "internal"
    builder = ir.IRBuilder(work.append_basic_block("entry"))
    address, thread = convention.get_arguments(work)
    pointer = builder.inttoptr(address, room)
    given = [
        builder.load(cgutils.gep_inbounds(builder, pointer, 0, place)) for place in range(len(room.pointee.elements))
    ]
    context.get_function(kernel, wanted)(builder, [thread, *given])
    convention.return_value(builder, context.get_constant_null(types.none))
    return work


def _call_at(context: Any, builder: ir.IRBuilder, address: Any, kinds: Sequence[Any], arguments: Sequence[Any]) -> None:
    """Call what takes arguments of these kinds and returns nothing; an error of its is one of the caller's."""
    convention = context.call_conv
    if address.type == _WORD:
        address = builder.inttoptr(address, convention.get_function_type(types.none, kinds).as_pointer())
    status, _ = convention.call_function(builder, address, types.none, kinds, arguments)
    with cgutils.if_unlikely(builder, status.is_error):
        convention.return_status_propagate(builder, status)


@njit(inline="always", nogil=True)
def span(count: int, thread: int, threads: int) -> tuple[int, int]:
    """The first of a thread's part of ``count`` things, and the end of it."""
    return count * thread // threads, count * (thread + 1) // threads
