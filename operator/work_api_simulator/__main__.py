"""Run `worklease simulate` as `python -m work_api_simulator`."""

from work_api_simulator.command import simulate

if __name__ == "__main__":
    simulate(prog_name="worklease simulate")
