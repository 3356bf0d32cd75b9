"""`python -m canonkit`: the command line."""

from canonkit.cli import main

if __name__ == "__main__":
    main()
