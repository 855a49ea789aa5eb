"""Symbolic expressions: what the equations of a network are written in, printed as, and evaluated from."""

from qspjax._expression._evaluate import evaluate as evaluate
from qspjax._expression._grouped import evaluate_grouped as evaluate_grouped
from qspjax._expression._parse import parse as parse
from qspjax._expression._text import text as text
from qspjax._expression._tree import (
    FALSE as FALSE,
    FUNCTIONS as FUNCTIONS,
    TIME as TIME,
    TRUE as TRUE,
    Expression as Expression,
    as_expression as as_expression,
    call as call,
    nodes as nodes,
    number as number,
    piecewise as piecewise,
    substitute as substitute,
    symbol as symbol,
    symbols as symbols,
)
