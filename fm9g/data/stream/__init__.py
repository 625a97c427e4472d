"""From a mixture of datasets to packed batches, in an order that can be resumed."""
