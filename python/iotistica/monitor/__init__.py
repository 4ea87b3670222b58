"""What is made of a broker's figures, of topics and of payloads. Pure."""
