"""`python -m dpmix`, which `torchrun -m dpmix` needs too."""

from dpmix.cli.app import main

if __name__ == "__main__":
    main()
