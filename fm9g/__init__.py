"""FM9G: pretraining and finetuning of CPM-style language models on BMTrain."""

__version__ = "0.1.0"
