"""``python -m paramisp_cli``."""

from paramisp_cli.cli import main

main()
