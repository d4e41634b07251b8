"""`make chart`: write what is generated from the chart."""

from chart import CASES, README, RENDERED, readme, render


def main() -> None:
    """Write the README and every case."""
    README.write_text(readme())
    for case in CASES:
        (RENDERED / f"{case}.yaml").write_text(render(case))


if __name__ == "__main__":
    main()
