"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al. 2024).

    gradients -> Gram matrices of each axis -> eigenbases -> Adam's moments in them -> policy

| file            | what                                                        |
|-----------------|-------------------------------------------------------------|
| `axis_bases.py` | an orthonormal basis per axis of an array                   |
| `leaf_step.py`  | the published step of one array, and its state              |
| `operator.py`   | P on parameters, and the quadratic forms of the samples     |
| `soap.py`       | the base method and its policy                              |
"""
