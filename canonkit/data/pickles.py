"""Pickles of RDKit molecules, read by a machine of our own: nothing that a pickle names is imported or called.

It knows the instructions (`pickletools`) for numbers, strings, bytes, None, lists, tuples and dicts, and makes an RDKit
molecule from its bytes. All else is refused. A list too large for the memory is read entry by entry.
"""

import pickletools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

VALUES = {
    f"{prefix}{kind}{size}"
    for prefix in ("", "SHORT_")
    for kind in ("BININT", "BINUNICODE", "BINBYTES", "LONG")
    for size in ("", 1, 2, 4, 8)
} | {"INT", "FLOAT", "BINFLOAT", "UNICODE"}
MADE = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_TUPLE": tuple,
}  # fmt: skip
MOLECULE = ["rdkit.Chem.rdchem", "Mol"]
_TAKEN = object()  # stands where an entry was


def read_pickle(path: str | Path) -> Any:
    """What a pickle holds.

    Raises:
        ValueError: it is damaged, or holds something other than RDKit molecules and plain values.
    """
    (found,) = _guarded(path, False)
    return found


def read_entries(path: str | Path) -> Iterator[Any]:
    """The entries of the list that a pickle holds, pairs (SMILES, molecules) one by one, others a thousand at a time.

    Raises:
        ValueError: as `read_pickle`; it holds no list; an entry refers to molecules of an earlier one.
    """
    return _guarded(path, True)


def _guarded(path: str | Path, split: bool) -> Iterator[Any]:
    try:
        with open(path, "rb") as file:
            yield from _run(file, split)
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"{path} is damaged or no file of GEOM ({error}): get it anew") from error


def _run(file: Any, split: bool) -> Iterator[Any]:
    from rdkit import Chem

    stack: list[Any] = []
    marks: list[int] = []  # how much lay on the stack at each open mark
    memo: dict[Any, Any] = {}
    fresh: list[int] = []  # keys of the memo that came since the last entry
    count = 0  # of what was ever kept in the memo

    def since_mark() -> list[Any]:
        start = marks.pop()
        items = stack[start:]
        del stack[start:]
        return items

    def keep(key: Any) -> None:
        nonlocal count
        memo[key] = stack[-1]
        fresh.append(key)
        count += 1

    def forget() -> None:
        """Strings and RDKit's class are referred to again; molecules, and lists of them, fill the memory."""
        for key in fresh:
            if isinstance(memo.get(key), (Chem.Mol, bytes, list, tuple, dict)):
                del memo[key]
        fresh.clear()

    for opcode, argument, _ in pickletools.genops(file):
        match opcode.name:
            case "PROTO" | "FRAME" | "STOP":
                continue
            case name if name in VALUES:
                stack.append(argument)
            case name if name in MADE:
                stack.append(MADE[name]())
            case "MARK":
                marks.append(len(stack))
            case "TUPLE1" | "TUPLE2" | "TUPLE3" as name:
                n = int(name[-1])
                made = tuple(stack[-n:])
                del stack[-n:]
                if split and marks == [1] and n == 2 and isinstance(made[0], str) and isinstance(made[1], list):
                    yield made
                    forget()
                    made = _TAKEN
                stack.append(made)
            case "TUPLE":
                stack.append(tuple(since_mark()))
            case "LIST":
                stack.append(since_mark())
            case "DICT":
                items = since_mark()
                stack.append(dict(zip(items[::2], items[1::2], strict=True)))
            case "APPEND" | "APPENDS" as name:
                items = [stack.pop()] if name == "APPEND" else since_mark()
                if split and len(stack) == 1:
                    yield from (item for item in items if item is not _TAKEN)
                    forget()
                else:
                    stack[-1].extend(items)
            case "SETITEM" | "SETITEMS" as name:
                items = [stack.pop(-2), stack.pop()] if name == "SETITEM" else since_mark()
                stack[-1].update(zip(items[::2], items[1::2], strict=True))
            case "GLOBAL" | "STACK_GLOBAL" as name:
                named = str(argument).split(" ") if name == "GLOBAL" else [stack.pop(-2), stack.pop()]
                if named != MOLECULE:
                    what = ".".join(map(str, named))
                    raise ValueError(f"it holds {what}, which is no RDKit molecule: it is not read")
                stack.append(Chem.Mol)
            case "REDUCE":
                arguments, called = stack.pop(), stack.pop()
                if called is not Chem.Mol or not all(isinstance(a, bytes) for a in arguments):
                    raise ValueError("a call that makes no molecule from bytes")
                stack.append(Chem.Mol(*arguments))
            case "BUILD":
                stack.pop()  # attributes that Python added to a molecule
            case "MEMOIZE":
                keep(count)
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                keep(argument)
            case "GET" | "BINGET" | "LONG_BINGET":
                held = memo.get(argument, _TAKEN)
                if held is _TAKEN:
                    raise ValueError("an entry refers to what an earlier one held")
                stack.append(held)
            case name:
                raise ValueError(f"it holds an instruction {name}, which no RDKit molecule needs: it is not read")
    (found,) = stack
    if not split:
        yield found
    elif not isinstance(found, list):
        raise ValueError("it holds no list")
