"""`python -m regx` is the `regx` command."""

from regx.cli.main import main

if __name__ == "__main__":
    main()
