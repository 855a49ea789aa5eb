"""Terms: parts of a model that are learned from data."""

from qspjax.models.learned._contract import AbstractTerm as AbstractTerm
