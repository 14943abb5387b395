"""Figures of the paper as studies: 1, 4, 6c and 7b.

| figure | what it shows                                              | study               |
|--------|------------------------------------------------------------|---------------------|
| 1      | step time and memory against the batch size                | `figure1.study`     |
| 4      | the value Hessian of a whole batch                         | `figure4.study`     |
| 6c     | what the feedback of convolutions responds to, as images   | `figure6c.study`    |
| 7b     | EKFAC and its game-theoretic forms on cooperative blocks   | `figure7b.study`    |
"""
