"""Models: each fits a TrainingSet to Embeddings."""
