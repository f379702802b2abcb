"""The command line, in a checkout: `python main.py --mode train`; see `score_sde/__main__.py`."""

from score_sde.__main__ import run

if __name__ == "__main__":
    run()
