"""The report of runs: what ``gtddp report`` prints and the page that it writes.

From a folder to a page, one module per step: ``sources`` (files, bounded), ``checks`` (types),
``collect`` (a run), ``series`` (curves over seeds), ``charts`` (from numbers to places), ``game``
(the network), ``weights``, ``timing``, ``origin`` (configuration, provenance), ``page``.

What is read is not trusted: sizes and types are checked, no file outside of the run's folder is
opened, and the template escapes all text.
"""
