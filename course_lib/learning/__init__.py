"""Learning algorithms: functions learned in context, and the dual of fine-tuning."""
