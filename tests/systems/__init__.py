"""Reference systems with exact states and exact gradients; README.md derives each of them."""
