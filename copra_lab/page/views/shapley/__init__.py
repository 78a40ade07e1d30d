"""Shapley: what each layer of an adapter contributes."""
