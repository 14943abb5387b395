"""Figures of the paper as studies: 1, 4, 6c and 7b.

| figure | content                                                    | study                     |
|--------|------------------------------------------------------------|---------------------------|
| 1      | step time and memory against the batch size                | `figure1.study_figure1`   |
| 4      | the value Hessian of a whole batch                         | `figure4.study_figure4`   |
| 6c     | what the feedback of convolutions responds to, as images   | `figure6c.study_figure6c` |
| 7b     | EKFAC and its game-theoretic forms on cooperative blocks   | `figure7b.study_figure7b` |
"""
