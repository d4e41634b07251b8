"""`python -m worklease.simulator` is `worklease simulate`."""

from worklease.simulator.command import simulate

if __name__ == "__main__":
    simulate(prog_name="worklease simulate")
