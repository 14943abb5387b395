"""Kronecker-factored curvature (KFAC, EKFAC): from a batch to a preconditioner.

    tapes -> factors -> eigenbases -> operator P -> policy

| file                      | what                                                             |
|---------------------------|------------------------------------------------------------------|
| `matrix_layouts.py`       | a layer's parameters as a matrix, its samples as vectors         |
| `factor_statistics.py`    | a batch to second moments                                        |
| `running_factors.py`      | second moments of several batches                                |
| `eigenbases.py`           | eigenvectors, and matrices in their coordinates                  |
| `eigenvalue_rule.py`      | contract of what KFAC and EKFAC do differently                   |
| `factors.py`              | all statistics of a stage, on schedule (`refresh_schedule.py`)   |
| `operators.py`            | P on matrices                                                    |
| `preconditioner.py`       | P on parameters, from the factors, with damping and cooperation  |
| `diagonal_moments.py`     | players without a Kronecker form                                 |
| `gain_chain.py`           | momentum, weight decay and learning rate of both                 |
| `kronecker_curvature.py`  | the base method: P, momentum, weight decay, learning rate        |
| `kfac.py`, `ekfac.py`     | the two methods                                                  |
| `cooperation/`            | players that act in one stage                                    |
"""
