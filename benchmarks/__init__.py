"""Benchmarks: the product beside its alternatives, in one run, on one machine.

    make bench                      every row, into docs/benchmarks.md and docs/benchmarks.svg
    make bench ROWS=commits,bulk    some rows, printed, and into build/
    python -m benchmarks.commits    one row alone, printed; --quick: tiny, to see that it runs
    python -m benchmarks.page_load --seconds 10    shorter, where a row has that option

A row is a module here. It is named in `ROWS` of `benchmarks.__main__`, and has

* a docstring: what is measured beside what, how, and why that is fair;
* `measure(quick: bool) -> Part` (`benchmarks.frame`): the rows of its table, their aims, a chart.
  `quick` means seconds and figures that say nothing: tests run it to see that the code still works;
* `if __name__ == "__main__": alone(measure)`.

What is compared is run in turns (`frame.take_turns`: ours, other, other, ours, ...), and the page
shows medians: a machine that slows down for a while slows down all of them. What a figure is
counted in stands in its unit. A measurement that went wrong (an event lost, a load generator that
could not keep its pace) raises, or says so in a note: it is never a figure.

`benchmarks.cluster` has a PostgreSQL of the benchmark's own, with fsync, in a folder that is
removed, databases in it, and processes of the product on them. Nothing here imports `tests`.
"""
