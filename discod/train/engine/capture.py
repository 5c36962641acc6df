"""Capture: a step's function -> its plan (train/plan.py), by tracing it once on cells of zeros.

This reads what tinygrad 0.14's TinyJit keeps after capturing: a list of calls, each a compiled program and its buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from numpy.typing import NDArray
from tinygrad import Tensor, TinyJit, dtypes
from tinygrad.device import TinyELF
from tinygrad.engine.jit import _prepare_jit_inputs
from tinygrad.engine.realize import resolve_params
from tinygrad.helpers import Target
from tinygrad.runtime.ops_cpu import CPUProgram
from tinygrad.uop.ops import Ops

from discod.errors import LocalError
from discod.train.engine.steps import Cells
from discod.train.plan import Function, Kernel, Place, Plan, aligned_zeros

Array = NDArray[Any]


def capture(function: Callable[[Cells], None], arrays: Sequence[Array]) -> Plan:
    """Build the step on cells of zeros like `arrays` and take down its kernels."""
    zeros = [aligned_zeros(array.shape, array.dtype) for array in arrays]
    cells = [Tensor.from_blob(array.ctypes.data, array.shape, dtype=_dtype(array), device="CPU") for array in zeros]
    jit = TinyJit(function)
    for _ in range(2):  # one plain run, one that captures
        jit(cells)
    inputs = tuple(_prepare_jit_inputs((cells,), {})[0])
    return _Recorder(inputs).plan(jit.captured.linear)


def _dtype(array: Array) -> Any:
    return {"float32": dtypes.float32, "int32": dtypes.int32, "uint8": dtypes.uint8, "bool": dtypes.bool}[
        array.dtype.name
    ]


class _Recorder:
    """Turns the engine's captured list of calls into a plan."""

    def __init__(self, inputs: tuple[Any, ...]) -> None:
        self._inputs = inputs
        self._places = {id(uop.buffer.base): number for number, uop in enumerate(inputs)}
        self._scratch: dict[int, tuple[int, Any]] = {}
        self._codes: dict[bytes, int] = {}
        self._written: set[int] = set()

    def plan(self, linear: Any) -> Plan:
        kernels = tuple(kernel for call in linear.src for kernel in self._kernels(call))
        sizes = tuple(buffer.nbytes for _, buffer in self._scratch.values())
        return Plan(tuple(self._codes), sizes, kernels)

    def _kernels(self, call: Any) -> list[Kernel]:
        program = call.src[0]
        if program.op is not Ops.PROGRAM:
            raise LocalError(f"a step holds {program.op}, which is not a kernel")
        buffers = [uop.buffer for uop in resolve_params(call, self._inputs)]
        self._check_order(program.arg, buffers)
        code = self._codes.setdefault(program.to_elf().lib, len(self._codes))
        arguments = [self._place(buffers[index]) for index in program.arg.globals]
        core, threads = program.arg.runtimevars.get("core_id"), program.arg.launch_dims({})[0][0]
        plain = [*arguments, *(Place(-1, value or 0) for value in program.arg.vals({}))]
        if core is None:
            return [Kernel(code, tuple(plain))]
        position = len(arguments) + core
        return [Kernel(code, (*plain[:position], Place(-1, n), *plain[position + 1 :])) for n in range(threads)]

    def _check_order(self, info: Any, buffers: list[Any]) -> None:
        """Scratch starts as zeros when replayed: no kernel may read what none has written before."""
        for index in set(info.ins) - set(info.outs):
            base = id(buffers[index].base)
            if base not in self._places and base not in self._written:
                raise LocalError("a step reads memory that is neither an input nor its own result")
        self._written.update(id(buffers[index].base) for index in info.outs)

    def _place(self, buffer: Any) -> Place:
        base = id(buffer.base)
        if base in self._places:
            return Place(self._places[base], buffer.offset)
        number, _ = self._scratch.setdefault(base, (len(self._scratch), buffer.base))
        return Place(number, buffer.offset, scratch=True)


def load(code: bytes) -> Function:
    """A kernel's object file as a function of this process."""
    program = CPUProgram(None, TinyELF(code, "kernel", Target(), ()))
    _PROGRAMS.append(program)
    function: Function = program.fxn
    return function


_PROGRAMS: list[Any] = []  # loaded code lives as long as the process
