"""Importers of networks trained elsewhere."""
