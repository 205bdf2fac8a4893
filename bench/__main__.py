"""`python -m bench`: measure everything and print one table."""

from __future__ import annotations

from bench.run import main

if __name__ == "__main__":
    main()
