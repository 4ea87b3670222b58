"""What agents find strange: events as agents send them, and the incidents that they add up to."""
