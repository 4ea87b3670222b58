"""`python -m iotistica` is the command `iotistica`."""

from iotistica.cli import main

if __name__ == "__main__":
    main()
