"""`python -m vexp` is the command `vexp`."""

from vexp.cli.main import main

if __name__ == "__main__":
    main()
