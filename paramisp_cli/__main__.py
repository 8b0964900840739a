"""Entry point of ``python -m paramisp_cli``."""

from paramisp_cli.cli.app import main

main()
