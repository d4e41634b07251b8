"""`python -m work_api_simulator` is `worklease simulate`."""

from work_api_simulator.command import simulate

if __name__ == "__main__":
    simulate(prog_name="worklease simulate")
