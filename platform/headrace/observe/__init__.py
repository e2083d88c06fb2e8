"""What a person sees of a run: the live console, Weights & Biases, and the report.

    training worker (rank 0)  ->  <run>/metrics.jsonl  ->  watch: History  ->  console, W&B
                                                       ->  write_report    ->  <run>/report.html

The file is the only thing between the run and its observers, so an observer can neither slow nor stop
the training, and everything can be looked at again after the run. Plain Python: no Ray and no torch.
"""
