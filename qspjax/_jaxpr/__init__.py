"""Traced programs, read: where they branch, whether they are linear, which entries their slopes have; and evaluated."""
