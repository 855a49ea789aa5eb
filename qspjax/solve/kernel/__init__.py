"""The ensemble kernel: many patients side by side."""
