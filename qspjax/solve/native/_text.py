"""Text of LLVM programs in which every value is a vector of lanes."""

import math
import struct
from collections.abc import Callable
from fractions import Fraction
from typing import NamedTuple


class Shared(NamedTuple):
    """A number that all lanes share: the row of the frame that holds the address of an array, and its place there."""

    row: int
    number: int


LN2 = Fraction(6931471805599453094172321214581765680755001343602552, 10**52)


def number(x: float) -> str:
    """Return a float as LLVM writes it."""
    return f"0x{struct.unpack('<Q', struct.pack('<d', float(x)))[0]:016X}"


class Writer:
    """Lines of a module.

    Attributes:
        lanes: The number of lanes.
        floats: The type of a vector of floats; `ints` and `masks` those of integers and of Booleans.
    """

    def __init__(self, lanes: int) -> None:
        self.lanes = lanes
        self.floats, self.ints, self.masks = (f"<{lanes} x {kind}>" for kind in ("double", "i64", "i1"))
        self.lines: list[str] = []
        self.declared: dict[str, str] = {}
        self._tables: dict[tuple[float, ...], str] = {}
        self._indices: dict[tuple[int, ...], str] = {}
        self.block = "entry"
        self._count = 0
        self._at_entry = 0
        self._free: dict[str, int] = {}
        self._sizes: dict[str, int] = {}

    def type_of(self, kind: str) -> str:
        """Return the type of a vector of a kind."""
        return {"float": self.floats, "int": self.ints, "bool": self.masks}[kind]

    def put(self, text: str) -> None:
        """Write a line."""
        self.lines.append(text)

    def op(self, text: str) -> str:
        """Write an operation; return its value."""
        self._count += 1
        self.lines.append(f"  %v{self._count} = {text}")
        return f"%v{self._count}"

    def fresh(self, name: str) -> str:
        """Return a name that is not used."""
        self._count += 1
        return f"{name}{self._count}"

    def alloca(self, type: str, count: int) -> str:
        """Reserve memory in the frame of the current function, at its entry."""
        self._count += 1
        self.lines.insert(self._at_entry, f"  %v{self._count} = alloca {type}, i64 {count}, align {8 * self.lanes}")
        return f"%v{self._count}"

    def reserve(self, rows: int) -> str:
        """Return the address of rows of the current function: of memory that was released, or of more."""
        fitting = sorted((size, base) for base, size in self._free.items() if rows <= size <= 2 * rows)
        if fitting:
            size, base = fitting[0]
            del self._free[base]
        else:
            size, base = rows, self.alloca(self.floats, rows)
        self._sizes[base] = size
        return base

    def release(self, base: str) -> None:
        """Give back rows that nobody reads any more."""
        self._free[base] = self._sizes[base]

    def f(self, op: str, a: str, b: str) -> str:
        """Write an operation on two vectors of floats."""
        return self.op(f"{op} {self.floats} {a}, {b}")

    def i(self, op: str, a: str, b: str) -> str:
        """Write an operation on two vectors of integers."""
        return self.op(f"{op} {self.ints} {a}, {b}")

    def splat(self, x: float) -> str:
        """Return a number in every lane."""
        return f"splat (double {number(x)})"

    def whole(self, x: int) -> str:
        """Return an integer in every lane."""
        x = (x + 2**63) % 2**64 - 2**63
        return f"splat (i64 {x})"

    def constant(self, value: float | int | bool) -> str:
        """Return a number of any kind in every lane."""
        if isinstance(value, bool):
            return "splat (i1 true)" if value else "zeroinitializer"
        return self.whole(value) if isinstance(value, int) else self.splat(value)

    def call(self, name: str, *args: str, type: str | None = None) -> str:
        """Call a function of vectors of one type, by default of floats."""
        type = type or self.floats
        self.declared.setdefault(name, f"declare {type} @{name}({', '.join([type] * len(args))})")
        return self.op(f"call {type} @{name}({', '.join(f'{type} {x}' for x in args)})")

    def intrinsic(self, name: str, *args: str) -> str:
        """Call an intrinsic function of LLVM of vectors of floats."""
        return self.call(f"llvm.{name}.v{self.lanes}f64", *args)

    def fma(self, a: str, b: str, c: str) -> str:
        """Return a b + c, rounded once."""
        return self.intrinsic("fma", a, b, c)

    def minus_product(self, a: str, b: str, c: str) -> str:
        """Return c - a b, rounded once."""
        return self.fma(self.op(f"fneg {self.floats} {a}"), b, c)

    def select(self, mask: str, yes: str, no: str, type: str | None = None) -> str:
        """Return one of two vectors, lane by lane."""
        type = type or self.floats
        return self.op(f"select {self.masks} {mask}, {type} {yes}, {type} {no}")

    def compare(self, how: str, a: str, b: str) -> str:
        """Compare floats."""
        return self.op(f"fcmp {how} {self.floats} {a}, {b}")

    def row(self, base: str, index: int | str) -> str:
        """Return the address of a row of lanes."""
        return self.op(f"getelementptr {self.floats}, ptr {base}, i64 {index}")

    def at(self, type: str, base: str, index: str | int) -> str:
        """Return the address of an element of an array."""
        return self.op(f"getelementptr {type}, ptr {base}, i64 {index}")

    def add(self, a: str | int, b: str | int) -> str:
        """Return the sum of two integers."""
        return self.op(f"add i64 {a}, {b}")

    def mul(self, a: str | int, b: str | int) -> str:
        """Return the product of two integers."""
        return self.op(f"mul i64 {a}, {b}")

    def load(self, address: str, kind: str = "float") -> str:
        """Load a row of lanes; Booleans are integers in memory."""
        type = self.floats if kind == "float" else self.ints
        x = self.op(f"load {type}, ptr {address}, align {8 * self.lanes}")
        return self.i("icmp ne", x, "zeroinitializer") if kind == "bool" else x

    def store(self, x: str, address: str, kind: str = "float") -> None:
        """Store a row of lanes."""
        type = self.floats if kind == "float" else self.ints
        if kind == "bool":
            x = self.op(f"sext {self.masks} {x} to {self.ints}")
        self.put(f"  store {type} {x}, ptr {address}, align {8 * self.lanes}")

    def bits(self, mask: str) -> str:
        """Return a mask as the bits of an integer."""
        narrow = self.op(f"bitcast {self.masks} {mask} to i{self.lanes}")
        return self.op(f"zext i{self.lanes} {narrow} to i64")

    def any(self, mask: str) -> str:
        """Return whether any lane is true."""
        return self.op(f"icmp ne i64 {self.bits(mask)}, 0")

    def label(self, name: str) -> None:
        """Begin a block."""
        self.put(f"{name}:")
        self.block = name

    def jump(self, name: str) -> None:
        """End a block: go on at another."""
        self.put(f"  br label %{name}")

    def branch(self, condition: str, yes: str, no: str) -> None:
        """End a block: go on at one of two."""
        self.put(f"  br i1 {condition}, label %{yes}, label %{no}")

    def loop(self, count: str | int, body: Callable[[str], None]) -> None:
        """Write a loop over the integers below a count."""
        self._loop(count, lambda index: body(index) or "")

    def fold(self, count: str, start: str, body: Callable[[str, str], str]) -> str:
        """Write a loop over the integers below a count that carries a vector of floats; return what it ends with."""
        carried, before = self.fresh("%carried"), self.block

        def carry(index: str) -> str:
            new = body(index, carried)
            return f"\n  {carried} = phi {self.floats} [{start}, %{before}], [{new}, %{self.block}]"

        self._loop(count, carry)
        return carried

    def folds(self, count: int, start: list[str], body: Callable[[str, list[str]], list[str]]) -> list[str]:
        """Write a loop over the integers below a count that carries vectors of floats; return what it ends with."""
        if count == 1:
            return body("0", start)
        carried, before = [self.fresh("%carried") for _ in start], self.block

        def carry(index: str) -> str:
            new = body(index, carried)
            return "".join(
                f"\n  {name} = phi {self.floats} [{old}, %{before}], [{x}, %{self.block}]"
                for name, old, x in zip(carried, start, new, strict=True)
            )

        self._loop(count, carry)
        return carried

    def _loop(self, count: str | int, body: Callable[[str], str]) -> None:
        """Write a loop whose body returns what stands at its head, too."""
        before, head, after, inside = self.block, *(self.fresh(name) for name in ("head", "after", "inside"))
        index, following, place = self.fresh("%i"), self.fresh("%n"), self.fresh("; loop ")
        self.jump(head)
        self.label(head)
        self.put(place)
        self.branch(self.op(f"icmp slt i64 {index}, {count}"), inside, after)
        self.label(inside)
        phis = body(index)
        phis = f"  {index} = phi i64 [0, %{before}], [{following}, %{self.block}]{phis}"
        self.lines[self.lines.index(place)] = phis
        self.put(f"  {following} = add i64 {index}, 1")
        self.jump(head)
        self.label(after)

    def repeat(self, count: int, body: Callable[[str], None]) -> None:
        """Write something for all integers below a count: a loop, unless it is one."""
        if count == 1:
            body("0")
        else:
            self.loop(count, body)

    def function(self, head: str, body: Callable[[], None]) -> None:
        """Write a function."""
        self.put(f'define {head} "stackrealign" {{')  # or else what is spilled straddles lines of the cache
        self.label("entry")
        self._at_entry = len(self.lines)
        self._free = {}
        body()
        self.put("}")

    def spread(self, type: str, x: str) -> str:
        """Return a number in every lane."""
        vector = f"<{self.lanes} x {type}>"
        first = self.op(f"insertelement {vector} poison, {type} {x}, i64 0")
        return self.op(f"shufflevector {vector} {first}, {vector} poison, <{self.lanes} x i32> zeroinitializer")

    def shared(self, first: Shared) -> str:
        """Return the address of numbers that all lanes share: it is in a row of the frame."""
        base = self.op(f"load ptr, ptr {self.row('%frame', first.row)}")
        return self.at("double", base, first.number)

    def table(self, values: tuple[float, ...]) -> str:
        """Return the address of constant numbers."""
        if values not in self._tables:
            self._tables[values] = f"@table{len(self._tables)}"
        return self._tables[values]

    def indices(self, values: tuple[int, ...]) -> str:
        """Return the address of constant integers."""
        if values not in self._indices:
            self._indices[values] = f"@indices{len(self._indices)}"
        return self._indices[values]

    def entry(self, indices: str, k: str) -> str:
        """Load one of constant integers."""
        x = self.op(f"load i32, ptr {self.at('i32', indices, k)}")
        return self.op(f"sext i32 {x} to i64")

    def module(self) -> str:
        """Return the text of the module."""
        defined = {line.split("@")[1].split("(")[0] for line in self.lines if line.startswith("define")}
        declared = [text for name, text in self.declared.items() if name not in defined]
        tables = [
            f"{name} = internal constant [{len(values)} x double] [{', '.join(f'double {number(x)}' for x in values)}]"
            for values, name in self._tables.items()
        ]
        tables += [
            f"{name} = internal constant [{len(values)} x i32] [{', '.join(f'i32 {x}' for x in values)}]"
            for values, name in self._indices.items()
        ]
        return "\n".join([*declared, *tables, *self.lines]) + "\n"


class Elementary:
    """Exponential, logarithm, power and hyperbolic tangent of vectors, within 1.1 to 3 units in the last place.

    The same operations in every lane and for every number of lanes, so that results are the same to the last bit.

    Reference: Muller, Elementary Functions, 3rd ed., 2016, doi:10.1007/978-1-4899-7983-4 (reduction of the argument,
    logarithm as an inverse hyperbolic tangent).
    """

    def __init__(self, writer: Writer) -> None:
        self.w = writer
        self.high = Fraction(int(LN2 * 2**33), 2**33)  # its products with small whole numbers are exact
        self.low = LN2 - self.high

    def write(self) -> None:
        """Write the functions that are called."""
        floats, declared = self.w.floats, self.w.declared
        bodies = {"exp": self._exp_of_x, "log": self._log, "exp32": self._exp32, "log32": self._log32}
        bodies |= {"tanh": self._tanh, "expm1": self._expm1_of_x, "log1p": self._log1p}
        for name, body in bodies.items():
            if f"lanes_{name}" in declared:
                self.w.function(f"internal {floats} @lanes_{name}({floats} %x) noinline", body)
        if "lanes_pow" in declared:
            self.w.function(f"internal {floats} @lanes_pow({floats} %x, {floats} %y) noinline", self._pow)

    def _exp_of_x(self) -> None:
        self.w.put(f"  ret {self.w.floats} {self._exp('%x', None)}")

    def _exp32(self) -> None:
        """Write the exponential of a number of single precision, which is rounded to that afterwards."""
        w = self.w
        known = w.compare("ord", "%x", "%x")
        safe = w.select(w.compare("olt", "%x", w.splat(130.0)), "%x", w.splat(130.0))
        safe = w.select(w.compare("ogt", safe, w.splat(-150.0)), safe, w.splat(-150.0))
        k = w.intrinsic("roundeven", w.f("fmul", safe, w.splat(float(1 / LN2))))
        r = w.fma(k, w.splat(-float(LN2)), safe)
        power = self._horner(r, [1.0 / math.factorial(i) for i in range(10)])
        exponent = w.i("add", w.op(f"fptosi {w.floats} {k} to {w.ints}"), w.whole(1023))
        scale = w.op(f"bitcast {w.ints} {w.i('shl', exponent, w.whole(52))} to {w.floats}")
        w.put(f"  ret {w.floats} {w.select(known, w.f('fmul', power, scale), '%x')}")

    def _log32(self) -> None:
        """Write the logarithm of a number of single precision, which is rounded to that afterwards."""
        w = self.w
        k, f = self._reduced("%x")
        s = w.f("fdiv", f, w.f("fadd", f, w.splat(2.0)))
        z = w.f("fmul", s, s)
        series = self._horner(z, [2.0 / (2 * i + 1) for i in range(7)])
        self._return_log(w.fma(k, w.splat(float(LN2)), w.f("fmul", s, series)))

    def _return_log(self, out: str, x: str = "%x") -> None:
        """Return a logarithm, or what it is of x that is no positive finite number."""
        w = self.w
        out = w.select(w.compare("oeq", x, w.splat(math.inf)), x, out)
        out = w.select(w.compare("oeq", x, w.splat(0.0)), w.splat(-math.inf), out)
        out = w.select(w.compare("uge", x, w.splat(0.0)), out, w.splat(math.nan))
        w.put(f"  ret {w.floats} {w.select(w.compare('uno', x, x), x, out)}")

    def _horner(self, x: str, coefficients: list[float]) -> str:
        total = self.w.splat(coefficients[-1])
        for coefficient in coefficients[-2::-1]:
            total = self.w.fma(total, x, self.w.splat(coefficient))
        return total

    def _exp(self, x: str, tail: str | None) -> str:
        """Return exp(x + tail): x = k log 2 + r, a Taylor polynomial in r, and 2^k in two halves."""
        w = self.w
        known = w.compare("ord", x, x)
        safe = w.select(known, x, w.splat(0.0))
        safe = w.select(w.compare("olt", safe, w.splat(720.0)), safe, w.splat(720.0))
        safe = w.select(w.compare("ogt", safe, w.splat(-760.0)), safe, w.splat(-760.0))
        k = w.intrinsic("roundeven", w.f("fmul", safe, w.splat(float(1 / LN2))))
        r = w.fma(k, w.splat(-float(self.low)), w.fma(k, w.splat(-float(self.high)), safe))
        if tail is not None:
            r = w.f("fadd", r, tail)
        coefficients = [1.0 / math.factorial(i) for i in range(2, 14)]
        power = w.fma(w.f("fmul", r, r), self._horner(r, coefficients), r)
        power = w.f("fadd", power, w.splat(1.0))
        whole = w.op(f"fptosi {w.floats} {k} to {w.ints}")
        half = w.i("ashr", whole, w.whole(1))
        for part in (half, w.i("sub", whole, half)):
            exponent = w.i("shl", w.i("add", part, w.whole(1023)), w.whole(52))
            power = w.f("fmul", power, w.op(f"bitcast {w.ints} {exponent} to {w.floats}"))
        return w.select(known, power, x)

    def _expm1(self, x: str) -> str:
        """Return exp(x) - 1 of numbers: 2^k expm1(r) + (2^k - 1), x = k log 2 + r, and 2^k in two halves."""
        w = self.w
        safe = w.select(w.compare("olt", x, w.splat(720.0)), x, w.splat(720.0))
        safe = w.select(w.compare("ogt", safe, w.splat(-50.0)), safe, w.splat(-50.0))
        k = w.intrinsic("roundeven", w.f("fmul", safe, w.splat(float(1 / LN2))))
        r = w.fma(k, w.splat(-float(self.low)), w.fma(k, w.splat(-float(self.high)), safe))
        coefficients = [1.0 / math.factorial(i) for i in range(2, 14)]
        power = w.fma(w.f("fmul", r, r), self._horner(r, coefficients), r)
        whole = w.op(f"fptosi {w.floats} {k} to {w.ints}")
        half = w.i("ashr", whole, w.whole(1))
        rest = w.i("sub", whole, half)
        first, second, inverse = (self._power_of_two(i) for i in (half, rest, w.i("sub", w.whole(0), rest)))
        return w.f("fmul", w.fma(power, first, w.f("fsub", first, inverse)), second)

    def _power_of_two(self, exponent: str) -> str:
        w = self.w
        return w.op(f"bitcast {w.ints} {w.i('shl', w.i('add', exponent, w.whole(1023)), w.whole(52))} to {w.floats}")

    def _expm1_of_x(self) -> None:
        w = self.w
        w.put(f"  ret {w.floats} {w.select(w.compare('ord', '%x', '%x'), self._expm1('%x'), '%x')}")

    def _tanh(self) -> None:
        """Write expm1(2 x) / (expm1(2 x) + 2) of the absolute value."""
        w = self.w
        size = w.intrinsic("fabs", "%x")
        size = w.select(w.compare("olt", size, w.splat(22.0)), size, w.splat(22.0))
        less = self._expm1(w.f("fadd", size, size))
        ratio = w.f("fdiv", less, w.f("fadd", less, w.splat(2.0)))
        signed = w.intrinsic("copysign", ratio, "%x")
        w.put(f"  ret {w.floats} {w.select(w.compare('ord', '%x', '%x'), signed, '%x')}")

    def _log1p(self) -> None:
        """Write log(u) + (x - (u - 1)) / u with u = 1 + x, the last term for what is lost when that is rounded."""
        w = self.w
        u = w.f("fadd", "%x", w.splat(1.0))
        lost = w.f("fdiv", w.f("fsub", "%x", w.f("fsub", u, w.splat(1.0))), u)
        lost = w.select(w.compare("olt", w.intrinsic("fabs", lost), w.splat(1.0)), lost, w.splat(0.0))
        high, low = self._log_parts(u)
        self._return_log(w.f("fadd", high, w.f("fadd", low, lost)), u)

    def _log_parts(self, x: str) -> tuple[str, str]:
        """Return log x as a sum of two numbers: log(1 + f) = 2 artanh(s), s = f / (2 + f), with its rounding errors."""
        w = self.w
        k, f = self._reduced(x)
        d = w.f("fadd", f, w.splat(2.0))
        d_low = w.f("fsub", f, w.f("fsub", d, w.splat(2.0)))
        s = w.f("fdiv", f, d)
        negative = w.op(f"fneg {w.floats} {s}")
        s_low = w.f("fdiv", w.fma(negative, d_low, w.fma(negative, d, f)), d)
        z = w.f("fmul", s, s)
        series = self._horner(z, [2.0 / (2 * i + 3) for i in range(11)])
        low = w.fma(w.f("fmul", s, z), series, w.f("fmul", s_low, w.splat(2.0)))
        high = w.f("fmul", s, w.splat(2.0))
        big = w.f("fmul", k, w.splat(float(self.high)))
        total = w.f("fadd", big, high)  # |big| > |high|, or big is zero
        error = w.f("fadd", w.f("fsub", big, total), high)
        return total, w.fma(k, w.splat(float(self.low)), w.f("fadd", low, error))

    def _reduced(self, x: str) -> tuple[str, str]:
        """Return k and f with x = 2^k (1 + f), 1 + f between sqrt(1/2) and sqrt(2), for x > 0."""
        w = self.w
        small = w.compare("olt", x, w.splat(2.0**-1022))
        scaled = w.select(small, w.f("fmul", x, w.splat(2.0**54)), x)
        bits = w.op(f"bitcast {w.floats} {scaled} to {w.ints}")
        (root,) = struct.unpack("<q", struct.pack("<d", 0.5**0.5))
        k = w.i("ashr", w.i("sub", bits, w.whole(root)), w.whole(52))
        mantissa = w.i("sub", bits, w.i("shl", k, w.whole(52)))
        exponent = w.op(f"sitofp {w.ints} {k} to {w.floats}")
        exponent = w.f("fsub", exponent, w.select(small, w.splat(54.0), w.splat(0.0)))
        return exponent, w.f("fsub", w.op(f"bitcast {w.ints} {mantissa} to {w.floats}"), w.splat(1.0))

    def _log(self) -> None:
        w = self.w
        high, low = self._log_parts("%x")
        self._return_log(w.f("fadd", high, low))

    def _pow(self) -> None:
        """Write exp(y log x), with log x in two parts; what is not positive and finite goes to the C library."""
        w = self.w
        high, low = self._log_parts("%x")
        top = w.f("fadd", high, low)
        low = w.f("fadd", w.f("fsub", high, top), low)
        product = w.f("fmul", "%y", top)
        tail = w.fma("%y", low, w.fma("%y", top, w.op(f"fneg {w.floats} {product}")))
        out = self._exp(product, tail)
        plain = w.compare("ogt", "%x", w.splat(0.0))
        moderate = w.compare("olt", w.intrinsic("fabs", "%y"), w.splat(1e10))
        for other in (w.compare("olt", "%x", w.splat(float("inf"))), moderate):
            plain = w.op(f"and {w.masks} {plain}, {other}")
        odd = w.any(w.op(f"xor {w.masks} {plain}, splat (i1 true)"))
        w.branch(odd, "slow", "fast")
        w.label("fast")
        w.put(f"  ret {w.floats} {out}")
        w.label("slow")
        w.put(f"  ret {w.floats} {w.select(plain, out, each(w, 'pow', '%x', '%y'))}")


def each(w: Writer, name: str, *args: str) -> str:
    """Call a function of the C library in every lane, one after the other."""
    out = "poison"
    for lane in range(w.lanes):
        parts = [w.op(f"extractelement {w.floats} {x}, i64 {lane}") for x in args]
        result = w.call(name, *parts, type="double")
        out = w.op(f"insertelement {w.floats} {out}, double {result}, i64 {lane}")
    return out
