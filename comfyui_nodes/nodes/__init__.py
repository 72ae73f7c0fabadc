"""The nodes: stateless classes that read their inputs, call one function and say what was done."""
