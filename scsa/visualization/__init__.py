"""See what a network does. Functions give arrays; what draws them stands beside them."""
