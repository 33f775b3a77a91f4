"""`python tests/fuzz/fuzz_one.py TARGET [libFuzzer options]`: lets Atheris look for inputs that break one parser."""

import sys

import atheris

with atheris.instrument_imports(include=["edge", "json", "openpyxl", "csv"]):
    from fuzz_targets import TARGETS

if __name__ == "__main__":
    target = TARGETS[sys.argv[1]]
    atheris.Setup([sys.argv[0], *sys.argv[2:]], target)
    atheris.Fuzz()
