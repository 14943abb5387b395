"""The report of runs: the summary printed by ``gtddp report`` and its HTML page.

| module           | content                                                           |
|------------------|-------------------------------------------------------------------|
| `sources`        | reading files of a run's folder within bounds                     |
| `checks`         | types and sizes of their content                                  |
| `collect`        | `ReportedRun`, everything known about one run                     |
| `series`         | curves over epochs, one `MethodSeries` per method                 |
| `charts`         | from curves to SVG paths and ticks                                |
| `curves`         | charts of loss and accuracy, summary, table of values             |
| `game`           | the network as a graph of stages, with the feedback of each stage |
| `sample_weights` | distribution of the sample weights, images with extreme weights   |
| `timing`         | how the time was spent                                            |
| `origin`         | configuration and provenance                                      |
| `page`           | the HTML page                                                     |

The files are untrusted: sizes and types are checked, no file outside of the run's folder is opened,
and the template escapes all text.
"""
