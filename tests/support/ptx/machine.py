"""Runs a program for a few blocks at once: every instruction over all of their threads, in NumPy.

Threads that have branched apart wait at their own places; those furthest back go on, and join the others where they
meet. This is one order of the many that a GPU may choose; the accesses are checked for every other (see accesses.py).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np

from .approximate import APPROXIMATIONS, Shift
from .arithmetic import ARITHMETIC
from .fault import Fault, Unsupported
from .memory import GlobalMemory, SharedMemory
from .parser import Address, Instruction, Operand, Program
from .registers import Registers
from .values import BITS, DTYPES, WIDTHS, bits

WARP = 32
FULL_WARP = {"-1", "0xffffffff", "4294967295"}


@dataclass(frozen=True)
class Blocks:
    """Which blocks run: their indices (blocks, 3), and the first one's number among all of the launch."""

    indices: np.ndarray
    first: int


class Machine:
    """`arguments`: the kernel's parameters by name, as integers. `is_early`: whether it may have begun before the
    kernel whose results it reads has ended (programmatic dependent launch)."""

    def __init__(
        self,
        program: Program,
        arguments: dict[str, int],
        memory: GlobalMemory,
        shared_bytes: int,
        shift: Shift = 0.0,
        is_early: bool = False,
    ):
        self._program, self._arguments = program, arguments
        self._memory, self._shared_bytes, self._shift, self._is_early = memory, shared_bytes, shift, is_early
        self._code = [self._decode(step) for step in program.instructions]

    def run(self, blocks: Blocks) -> None:
        threads, count = self._program.threads, len(blocks.indices)
        if threads % WARP:
            raise Unsupported(f"blocks of {threads} threads, no multiple of {WARP}")
        self._threads = count * threads
        self._local = np.arange(self._threads)  # counts from the first of these blocks
        self._block = self._local // threads
        self._global = self._local + blocks.first * threads
        special = {"%tid.x": (self._local % threads).astype(np.uint32)}
        for axis, name in enumerate("xyz"):
            special[f"%ctaid.{name}"] = blocks.indices[self._block, axis].astype(np.uint32)
        for name in ("%tid.y", "%tid.z"):
            special[name] = np.zeros(self._threads, np.uint32)
        self._registers = Registers(self._program, self._threads, special)
        self._epoch = np.zeros(self._threads, np.int32)
        self._ended = np.zeros(self._threads, bool)
        self._has_waited = np.full(self._threads, not self._is_early)
        self._shared = SharedMemory(count, self._shared_bytes, threads)
        with np.errstate(all="ignore"):
            self._run()
        self._shared.accesses.check()

    def _run(self) -> None:
        waiting = {0: np.ones(self._threads, bool)}
        while waiting:
            place = min(waiting)
            active = waiting.pop(place)
            while place not in waiting:
                if place == len(self._code):
                    raise Fault("the program runs past its end")
                step = self._program.instructions[place]
                chosen = self._chosen(step, active)
                if self._code[place] is Machine.branch:
                    self.branch(step, place, active, chosen, waiting)
                    break
                if self._code[place] is Machine.end:
                    self._ended |= chosen
                    active = active & ~chosen
                    if not active.any():
                        break
                elif chosen.any():
                    try:
                        self._code[place](self, step, chosen)
                    except Fault as fault:
                        raise Fault(f"{self._program.name}, line {step.line}, {step.opcode}: {fault}") from None
                place += 1
            else:
                waiting[place] = waiting[place] | active

    def end(self) -> None:
        """ret: these threads are done."""

    def branch(self, step: Instruction, place: int, active: np.ndarray, taken: np.ndarray, waiting: dict) -> None:
        """Where the active threads wait to go on."""
        if step.opcode == "bra.uni":
            for block in np.unique(self._block[active]):
                mine = active & (self._block == block)
                if taken[mine].any() and not taken[mine].all():
                    raise Fault(f"line {step.line}: bra.uni that a part of a block takes")
        for target, threads in ((self._program.labels[step.operands[0]], taken), (place + 1, active & ~taken)):
            if threads.any():
                waiting[target] = waiting.get(target, False) | threads

    def _chosen(self, step: Instruction, active: np.ndarray) -> np.ndarray:
        """The active threads whose guard holds."""
        if step.guard is None:
            return active
        guard = self._registers.use(step.guard, "pred", active)
        return active & (~guard if step.guard_is_negated else guard)

    def _decode(self, step: Instruction) -> Callable[["Machine", Instruction, np.ndarray], None]:
        """What executes an instruction. Raises Unsupported for one that the machine does not know."""
        known = _INSTRUCTIONS.get(step.opcode)
        if known is None or (known is Machine.branch and step.operands[0] not in self._program.labels):
            raise Unsupported(
                f"{self._program.name}, line {step.line}: the machine does not know {step.opcode} {step.operands}"
            )
        return known

    def _address(self, operand: Operand, chosen: np.ndarray, type: str) -> np.ndarray:
        """The addresses of the chosen threads, in 64 bits."""
        if not isinstance(operand, Address):
            raise Unsupported(f"{operand} where an address was expected")
        base = np.broadcast_to(self._registers.use(operand.base, type, chosen), self._threads)[chosen]
        return base.astype(np.uint64) + np.uint64(operand.offset % 2**64)

    # Instructions

    def compute(self, step: Instruction, chosen: np.ndarray) -> None:
        known = ARITHMETIC[step.opcode]
        target, *sources = step.operands
        registers = self._registers
        values = [registers.read(source, type) for source, type in zip(sources, known.sources, strict=True)]
        missing = registers.missing(*sources)
        if step.opcode.startswith(("div.", "rem.")):  # what other threads hold is no division of theirs
            values[1] = np.where(chosen, registers.use(sources[1], known.sources[1], chosen), values[1].dtype.type(1))
        elif missing is not None and step.opcode.startswith("selp."):
            missing = registers.missing_from_choice(*sources, values[2])
        result = np.asarray(known.compute(*values)).astype(DTYPES[known.result], copy=False)
        registers.write(target, result, chosen, missing)

    def compare_pairs(self, step: Instruction, chosen: np.ndarray) -> None:
        """Two predicates, p|q, of two pairs of halves: p of the lower ones."""
        targets, *sources = step.operands
        known = ARITHMETIC[step.opcode.removesuffix("x2")]
        words = [self._registers.read(source, "b32") for source in sources]
        missing = self._registers.missing(*sources)
        for target, shift in zip(targets.split("|"), (0, 16), strict=True):
            halves = [np.asarray(word >> np.uint32(shift)).astype(np.uint16) for word in words]
            halves = [half.view(DTYPES[type]) for half, type in zip(halves, known.sources, strict=True)]
            self._registers.write(target, known.compute(*halves), chosen, missing)

    def approximate(self, step: Instruction, chosen: np.ndarray) -> None:
        known = APPROXIMATIONS[step.opcode]
        target, *sources = step.operands
        if len(sources) != known.sources:
            raise Unsupported(f"{step.opcode} of {len(sources)} sources")
        values = (self._registers.read(each, "f32") for each in sources)
        self._registers.write(
            target, np.asarray(known(self._shift, *values)), chosen, self._registers.missing(*sources)
        )

    def move(self, step: Instruction, chosen: np.ndarray) -> None:
        """A value; or two halves into a word and back, the lower first."""
        target, source = step.operands
        type, registers = _MOVES[step.opcode], self._registers
        if isinstance(source, tuple) and type == "b32" and len(source) == 2:
            low, high = (registers.read(half, "b16").astype(np.uint32) for half in source)
            word = np.asarray(low | (high << np.uint32(16)))
            registers.write(target, word, chosen, registers.missing(*source))
        elif isinstance(target, tuple) and type == "b32" and len(target) == 2:
            word, missing = registers.read(source, "b32"), registers.missing(source)
            registers.write(target[0], np.asarray(word & np.uint32(0xFFFF)).astype(np.uint16), chosen, missing)
            registers.write(target[1], np.asarray(word >> np.uint32(16)).astype(np.uint16), chosen, missing)
        else:
            registers.write(target, np.asarray(registers.read(source, type)), chosen, registers.missing(source))

    def load_parameter(self, step: Instruction, chosen: np.ndarray) -> None:
        """Into a register of its size, or extended into a wider one by its sign or by zeros."""
        target, address = step.operands
        type = step.opcode.split(".")[-1]
        if address.offset or address.base not in self._arguments:
            raise Unsupported(f"the parameter {address.base} + {address.offset}")
        value = self._arguments[address.base] % 2 ** (8 * WIDTHS[type])
        value = np.array(value, BITS[WIDTHS[type]]).view(DTYPES[type])
        register = WIDTHS[self._program.register_type(target)]
        self._registers.write(target, value.astype(DTYPES[f"{type[0]}{8 * register}"]), chosen)

    def load(self, step: Instruction, chosen: np.ndarray, space: str, count: int, type: str) -> None:
        target, address = step.operands
        registers = target if isinstance(target, tuple) else (target,)
        memory, where, thread = self._space(space, address, chosen)
        data = memory.load(where, (count, WIDTHS[type]), thread, self._epoch[chosen])
        for register, column in zip(registers, data.T, strict=True):
            # A byte fills the register's other bits with zeros.
            value = np.zeros(self._threads, np.uint16 if column.itemsize == 1 else column.dtype)
            value[chosen] = column
            self._registers.write(register, value, chosen)

    def store(self, step: Instruction, chosen: np.ndarray, space: str, count: int, type: str) -> None:
        address, source = step.operands
        registers = source if isinstance(source, tuple) else (source,)
        if len(registers) != count:
            raise Unsupported(f"{step.opcode} of {len(registers)} registers")
        values = [self._to_store(each, type, chosen)[chosen] for each in registers]
        memory, where, thread = self._space(space, address, chosen)
        memory.store(where, np.stack(values, 1), thread, self._epoch[chosen])

    def _to_store(self, register: Operand, type: str, chosen: np.ndarray) -> np.ndarray:
        """The bits of a register that are stored: of a byte, the lower half of 16."""
        value = self._registers.use(register, type if WIDTHS[type] > 1 else "u16", chosen)
        value = bits(value) if WIDTHS[type] > 1 else (value & np.uint16(0xFF)).astype(np.uint8)
        return np.broadcast_to(value, self._threads)

    def _space(self, space: str, address: Operand, chosen: np.ndarray):
        """The memory, the addresses in it, and the threads as it counts them."""
        if space == "global" and not self._has_waited[chosen].all():
            raise Fault("an access before griddepcontrol.wait, while the kernel before may still write")
        if space == "shared":
            return self._shared, self._address(address, chosen, "u32"), self._local[chosen]
        return self._memory, self._address(address, chosen, "u64"), self._global[chosen]

    def wait(self, step: Instruction, chosen: np.ndarray) -> None:
        """griddepcontrol.wait: until the kernel before has ended, as it has here."""
        self._has_waited |= chosen

    def barrier(self, step: Instruction, chosen: np.ndarray) -> None:
        """bar.sync 0: all threads of a block that have not ended."""
        if step.operands != ("0",):
            raise Unsupported(f"{step.opcode} {step.operands}")
        arrived = np.isin(self._block, np.unique(self._block[chosen])) & ~self._ended
        if not chosen[arrived].all():
            raise Fault("a barrier that not all threads of a block reach together")
        self._epoch = self._epoch + chosen  # not in place: recorded accesses refer to the old array

    def shuffle(self, step: Instruction, chosen: np.ndarray) -> None:
        """shfl.sync.bfly: the value of the lane whose number differs in these bits."""
        target, source, lanes, clamp, members = step.operands
        if members not in FULL_WARP or clamp not in ("31", "0x1f") or not 0 <= int(lanes, 0) < WARP:
            raise Unsupported(f"{step.opcode} of lanes {lanes}, clamp {clamp}, members {members}")
        if not chosen.reshape(-1, WARP)[chosen.reshape(-1, WARP).any(1)].all():
            raise Fault("a shuffle that not all threads of a warp reach together")
        other, missing = self._local ^ int(lanes, 0), self._registers.missing(source)
        value = np.broadcast_to(self._registers.read(source, "b32"), self._threads)[other]
        self._registers.write(target, value, chosen, None if missing is None else missing[other])

    def load_matrix(self, step: Instruction, chosen: np.ndarray) -> None:
        """ldmatrix: 8×8 matrices of 16 bits. Lane 8i + r has the address of row r of matrix i; every lane gets two
        neighbours of row lane / 4 of each; of column lane / 4 where it transposes."""
        target, address = step.operands
        registers = target if isinstance(target, tuple) else (target,)
        for register, places in zip(registers, self._matrices(step, address, chosen, len(registers))):
            size = 4 // len(places)
            parts = [self._shared.load(where, (1, size), self._local, self._epoch)[:, 0] for where in places]
            self._registers.write(register, np.stack(parts, 1).view(np.uint32)[:, 0], chosen)

    def store_matrix(self, step: Instruction, chosen: np.ndarray) -> None:
        """stmatrix: as ldmatrix, the other way round."""
        address, source = step.operands
        registers = source if isinstance(source, tuple) else (source,)
        for register, places in zip(registers, self._matrices(step, address, chosen, len(registers))):
            words = np.array(self._to_store(register, "b32", chosen))
            parts = words[:, None].view(BITS[4 // len(places)])
            for where, part in zip(places, parts.T, strict=True):
                self._shared.store(where, part[:, None], self._local, self._epoch)

    def _matrices(
        self, step: Instruction, address: Operand, chosen: np.ndarray, count: int
    ) -> Iterator[tuple[np.ndarray, ...]]:
        """Where in shared memory each lane's two neighbours of each of so many matrices are: side by side or, of a
        column, apart."""
        if f".x{count}." not in step.opcode:
            raise Unsupported(f"{step.opcode} of {count} registers")
        if not chosen.all():
            raise Unsupported(f"{step.opcode} by some threads")
        lane, rows = self._local % WARP, np.zeros(self._threads, np.uint64)
        rows[lane < 8 * count] = self._address(address, lane < 8 * count, "u32")
        if (rows % np.uint64(16)).any():
            raise Fault("a row of a matrix at an address that is no multiple of 16 bytes")
        for number in range(count):
            first = self._local - lane + 8 * number  # the lane that has the address of row 0
            if ".trans." in step.opcode:
                across = (lane // 4 * 2).astype(np.uint64)
                yield tuple(rows[first + lane % 4 * 2 + each] + across for each in (0, 1))
            else:
                yield (rows[first + lane // 4] + (lane % 4 * 4).astype(np.uint64),)


_MOVES = {f"mov.{type}": type for type in ("b16", "u16", "b32", "u32", "b64", "u64", "f32", "pred")}

_INSTRUCTIONS = {
    **dict.fromkeys(ARITHMETIC, Machine.compute),
    **dict.fromkeys(APPROXIMATIONS, Machine.approximate),
    **dict.fromkeys(_MOVES, Machine.move),
    **{f"ld.param.{type}": Machine.load_parameter for type in ("b32", "u32", "s32", "b64", "u64", "s64")},
    # A block's own shared memory is the one that is meant without ::cta, too.
    **{f"{name}.{space}{vector}.{type}": partial(access, space=space.removesuffix("::cta"), count=count, type=type)
       for name, access in (("ld", Machine.load), ("st", Machine.store))
       for space in ("global", "shared", "shared::cta")
       for count, vector in ((1, ""), (2, ".v2"), (4, ".v4"))
       for type in ("b8", "u8", "b16", "u16", "b32", "u32", "f32", "b64", "u64")},
    **{f"{name}x2": Machine.compare_pairs for name in ARITHMETIC if name.startswith("setp.") and name.endswith("f16")},
    **{f"{name}.sync.aligned.m8n8.x{count}{transposed}.{space}.b16": execute
       for name, execute in (("ldmatrix", Machine.load_matrix), ("stmatrix", Machine.store_matrix))
       for count in (1, 2, 4)
       for transposed in ("", ".trans")
       for space in ("shared", "shared::cta")},
    "bar.sync": Machine.barrier,
    "griddepcontrol.wait": Machine.wait,
    "shfl.sync.bfly.b32": Machine.shuffle,
    "bra": Machine.branch,
    "bra.uni": Machine.branch,
    "ret": Machine.end,
}  # fmt: skip
"""What executes each instruction, by its full name: a modifier that changes the meaning makes another name."""
