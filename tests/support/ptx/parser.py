"""PTX text to a list of instructions."""

import re
from dataclasses import dataclass

from .fault import Unsupported


@dataclass(frozen=True)
class Address:
    """[base + offset]: a register, or a kernel parameter's name."""

    base: str
    offset: int


Operand = str | Address | tuple[str, ...]
"""A register, a special register, a symbol or an immediate as written; an address; or a vector {a, b, …}."""


@dataclass(frozen=True)
class Instruction:
    opcode: str  # with all of its modifiers: "ld.global.v4.b32"
    operands: tuple[Operand, ...]
    guard: str | None = None  # the predicate of @%p1 or @!%p1
    guard_is_negated: bool = False
    line: int = 0  # in the PTX


@dataclass(frozen=True)
class Program:
    """One kernel. `registers` has the declared type of each prefix: {"%p": "pred", "%r": "b32", …}."""

    name: str
    parameters: tuple[str, ...]
    threads: int  # of a block
    registers: dict[str, str]
    instructions: tuple[Instruction, ...]
    labels: dict[str, int]  # the index of the instruction that follows

    def register_type(self, register: str) -> str:
        return self.registers[register.rstrip("0123456789")]


def parse(ptx: str) -> Program:
    """The program of the one kernel in `ptx`. Raises Unsupported for what is no kernel of this form."""
    entry = re.search(r"\.visible \.entry (\w+)\((.*?)\)(.*?)\n\{\n(.*?)\n\}", ptx, re.S)
    if entry is None:
        raise Unsupported("no kernel in this text")
    name, parameters, directives, body = entry.groups()
    threads = re.search(r"\.reqntid (\d+)", directives)
    if threads is None:
        raise Unsupported(f"{name}: the number of threads is not fixed by .reqntid")
    registers, instructions, labels = {}, [], {}
    first_line = ptx[: entry.start(4)].count("\n") + 1
    for line, statement in _statements(body):
        statement = _take_labels(statement, labels, len(instructions))
        if declaration := re.fullmatch(r"\.reg \.(\w+) (%\w+?)<\d+>", statement):
            registers[declaration[2]] = declaration[1]
        elif statement and not statement.startswith(".pragma"):
            instructions.append(_instruction(statement, first_line + line))
    return Program(
        name=name,
        parameters=tuple(re.findall(rf"\b{name}_param_\d+\b", parameters)),
        threads=int(threads[1]),
        registers=registers,
        instructions=tuple(instructions),
        labels=labels,
    )


def _statements(body: str) -> list[tuple[int, str]]:
    """What ends with a semicolon, each with its line: without comments, the compiler's braces and debug directives."""
    statements, pending, start = [], "", 0
    for number, line in enumerate(body.split("\n")):
        line = line.partition("//")[0].strip()
        if line in ("{", "}") or re.match(r"\.(loc|file|section)\b", line):
            continue
        start = number if not pending else start
        *ended, pending = f"{pending} {line}".split(";")
        statements += [(start, " ".join(each.split())) for each in ended]
        pending = pending.strip()
    if pending and not re.fullmatch(r"(\$L\w+: ?)+", pending):
        raise Unsupported(f"a statement without an end: {pending:.80}")
    return statements


def _take_labels(statement: str, labels: dict[str, int], position: int) -> str:
    """The statement without the labels in front of it, which are added to `labels`."""
    while label := re.match(r"(\$L\w+):\s*", statement):
        labels[label[1]] = position
        statement = statement[label.end() :]
    return statement


def _instruction(statement: str, line: int) -> Instruction:
    matched = re.fullmatch(r"(?:@(!?)(%\w+) )?([a-z][\w.:]*)(?: (.*))?", statement)
    if matched is None:
        raise Unsupported(f"line {line}: not an instruction: {statement:.80}")
    negation, guard, opcode, rest = matched.groups()
    parts = re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]\s]+", rest or "")
    return Instruction(opcode, tuple(map(_operand, parts)), guard, negation == "!", line)


def _operand(text: str) -> Operand:
    if text.startswith("{"):
        return tuple(part.strip() for part in text[1:-1].split(","))
    if text.startswith("["):
        address = re.fullmatch(r"\[\s*([%\w]+)\s*(?:\+\s*(-?\d+))?\s*\]", text)
        if address is None:
            raise Unsupported(f"an address of another form: {text}")
        return Address(address[1], int(address[2] or 0))
    return text
