"""The decoder: a LLaMA-like language model on BMTrain, with MiniCPM's muP scaling."""
