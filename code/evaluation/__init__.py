"""How good is a relevance map? Measures, and the scenes that have the answer."""
