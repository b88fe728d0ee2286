"""Converters from raw data sets to Parquet folders in one schema, and the generated demo set.

Each module is a command, `python -m smcl.dataset_scripts.<module> --help`, around a function `convert`.
"""
