"""What a run says of itself: the privacy statement, the metrics, the model card, the summary."""
