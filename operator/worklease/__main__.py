"""Where the program `worklease` begins: at the operator's command line, or at the proxy of a sandbox.

The proxy starts with each sandbox, and its probe each second until then: neither imports the operator.
"""

import sys


def main() -> None:
    """Run the command that the arguments name."""
    if sys.argv[1:2] == ["proxy"]:
        from worklease_proxy.command import main as proxy  # noqa: PLC0415 (each imports only what it needs)

        proxy(sys.argv[2:])
    from worklease.command_line import main as operator  # noqa: PLC0415 (as above)

    operator(prog_name="worklease")


if __name__ == "__main__":
    main()
