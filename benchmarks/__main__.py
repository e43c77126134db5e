"""All goals as a table: `make bench`. About forty minutes; nothing else should use the machine meanwhile.

python -m benchmarks [--rounds 3]
"""

import argparse

from benchmarks import feed, many, start, step, sweep_throughput, workers


def main(rounds: int) -> None:
    goals = [
        *sweep_throughput.main(rounds=rounds),
        *step.main(rounds),
        *workers.main(rounds),
        *start.main(rounds),
        *many.main(),
    ]
    feed.main(rounds)
    print()
    for goal in goals:
        print(goal)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    main(parser.parse_args().rounds)
