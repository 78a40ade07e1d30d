"""Prune: one adapter with layers switched off and entries set to zero."""
