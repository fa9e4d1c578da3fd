"""What must hold on a node before anything is changed there. `up` and `llmfleet doctor` ask the same questions."""
