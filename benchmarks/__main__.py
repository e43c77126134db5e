"""All goals as a table: `make bench`. About half an hour; nothing else should use the machine meanwhile."""

from benchmarks import many, start, step, sweep_throughput, workers


def main() -> None:
    goals = [goal for module in (sweep_throughput, step, workers, start, many) for goal in module.main()]
    print()
    for goal in goals:
        print(goal)


if __name__ == "__main__":
    main()
